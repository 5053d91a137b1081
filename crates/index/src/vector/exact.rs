//! Vectors of a column in memory, their types, and exact distances to a query vector.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, RecordBatch, UInt8Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, UInt8Type};
use cenote_base::{Error, Result, unknown};
use cenote_graph::VectorValues;
use cenote_store::{Snapshot, arrow_error};
use lance_linalg::distance::hamming::hamming;

use crate::hits::{Hit, by_distance, keep_first, kept_max};
use crate::metric::{Metric, from_lance, is_packed_byte, lance_type};
use crate::rows::row_set;
use crate::rows::runs::Run;

/// The shape of the vectors of a column, as a metric compares them.
#[derive(Debug, Clone, Copy)]
pub(super) struct VectorShape {
    pub(super) metric: Metric,
    /// The numbers in a vector; under hamming its bytes.
    pub(super) width: usize,
}

/// Vectors of one column with their row ids.
#[derive(Debug, Clone)]
pub(super) struct RowVectors {
    pub(super) row_ids: Vec<u64>,
    pub(super) numbers: VectorNumbers,
    shape: VectorShape,
}

/// The numbers of vectors of one column, one vector after the other.
#[derive(Debug, Clone)]
pub(super) enum VectorNumbers {
    Floats(Vec<f32>),
    Bytes(Vec<u8>),
}

impl VectorNumbers {
    pub(super) fn new(metric: Metric) -> Self {
        match metric {
            Metric::Hamming => Self::Bytes(Vec::new()),
            _ => Self::Floats(Vec::new()),
        }
    }

    pub(super) fn all(&self) -> VectorValues<'_> {
        match self {
            Self::Floats(numbers) => VectorValues::Floats(numbers),
            Self::Bytes(numbers) => VectorValues::Bits(numbers),
        }
    }

    /// Appends `more`, which are of the same variant as these: all vectors of a column are.
    pub(super) fn extend(&mut self, more: VectorValues<'_>) {
        match (self, more) {
            (Self::Floats(all), VectorValues::Floats(more)) => all.extend_from_slice(more),
            (Self::Bytes(all), VectorValues::Bits(more)) => all.extend_from_slice(more),
            _ => {}
        }
    }
}

impl RowVectors {
    pub(super) fn new(shape: VectorShape) -> Self {
        Self { row_ids: Vec::new(), numbers: VectorNumbers::new(shape.metric), shape }
    }

    /// Returns the vector at index `row`.
    pub(super) fn values(&self, row: usize) -> VectorValues<'_> {
        let width = self.shape.width;
        let at = row * width..(row + 1) * width;
        match &self.numbers {
            VectorNumbers::Floats(numbers) => VectorValues::Floats(&numbers[at]),
            VectorNumbers::Bytes(numbers) => VectorValues::Bits(&numbers[at]),
        }
    }

    /// Appends the rows of `batch`, whose first column holds vectors. Skips rows whose vector is null, and returns
    /// their ids.
    pub(super) fn read(&mut self, batch: &RecordBatch) -> Result<Vec<u64>> {
        let (row_ids, width) = (row_set::row_ids(batch)?, self.shape.width);
        let lists = batch.column(0).as_fixed_size_list();
        let mut without = Vec::new();
        let mut take = |row: usize| match lists.is_valid(row) {
            true => self.row_ids.push(row_ids[row]),
            false => without.push(row_ids[row]),
        };
        match &mut self.numbers {
            VectorNumbers::Floats(all) => {
                let numbers = cast(lists.values(), &DataType::Float32).map_err(arrow_error)?;
                let numbers = numbers.as_primitive::<Float32Type>().values();
                for row in 0..lists.len() {
                    take(row);
                    if lists.is_valid(row) {
                        all.extend_from_slice(&numbers[row * width..][..width]);
                    }
                }
            }
            VectorNumbers::Bytes(all) => {
                let numbers = lists.values().as_primitive_opt::<UInt8Type>();
                let numbers = numbers.ok_or_else(|| Error::internal("packed bits are bytes"))?.values();
                for row in 0..lists.len() {
                    take(row);
                    if lists.is_valid(row) {
                        all.extend_from_slice(&numbers[row * width..][..width]);
                    }
                }
            }
        }
        Ok(without)
    }

    /// Returns the number of rows with ids below `since`, if the ids ascend.
    pub(super) fn before(&self, since: u64) -> usize {
        self.row_ids.partition_point(|row_id| *row_id < since)
    }

    /// Returns the nearest `k` of the rows from index `start` on that are `wanted`, in any order. A NaN distance, which
    /// comes from a vector without a direction, is never a hit. Tests only rows that are near enough.
    ///
    /// The metric is the query's: searches of several metrics share cached vectors.
    pub(super) fn nearest(
        &self,
        query: &QueryVector,
        k: usize,
        start: usize,
        wanted: impl Fn(u64) -> bool,
    ) -> Vec<Hit> {
        let metric = query.metric;
        // Lance has no hamming distance of floats; under hamming this function is not called.
        let distance_of = lance_type(if metric == Metric::Hamming { Metric::L2 } else { metric }).func::<f32>();
        let mut hits: Vec<Hit> = Vec::new();
        let mut farthest = f32::INFINITY;
        for (row, row_id) in self.row_ids.iter().enumerate().skip(start) {
            let raw = match self.values(row) {
                VectorValues::Floats(numbers) => distance_of(&query.floats, numbers),
                VectorValues::Bits(bits) => hamming(&query.bytes, bits),
            };
            let distance = from_lance(metric, raw);
            if raw.is_finite() && distance <= farthest && wanted(*row_id) {
                hits.push(Hit { row_id: *row_id, distance: Some(distance), score: None });
                if hits.len() >= kept_max(k) {
                    keep_first(&mut hits, k, by_distance);
                    farthest = hits.iter().filter_map(|hit| hit.distance).fold(f32::NEG_INFINITY, f32::max);
                }
            }
        }
        keep_first(&mut hits, k, by_distance);
        hits
    }
}

impl Run for RowVectors {
    fn rows(&self) -> usize {
        self.row_ids.len()
    }

    fn bytes(&self) -> usize {
        let numbers = match &self.numbers {
            VectorNumbers::Floats(numbers) => size_of_val(numbers.as_slice()),
            VectorNumbers::Bytes(numbers) => numbers.len(),
        };
        numbers + size_of_val(self.row_ids.as_slice())
    }

    fn append(&mut self, later: &Self) {
        self.row_ids.extend_from_slice(&later.row_ids);
        self.numbers.extend(later.numbers.all());
    }
}

/// The largest finite Float16.
const FLOAT16_MAX: f32 = 65_504.0;

/// A query vector, as floats and, under hamming, as bytes, with the metric that compares it.
#[derive(Debug)]
pub(super) struct QueryVector {
    pub(super) metric: Metric,
    pub(super) floats: Vec<f32>,
    pub(super) bytes: Vec<u8>,
}

impl QueryVector {
    /// Prepares `vector` for `metric`; hamming takes whole numbers from 0 to 255.
    pub(super) fn new(vector: &[f32], metric: Metric) -> Result<Self> {
        let mut bytes = Vec::new();
        if metric == Metric::Hamming {
            for (at, number) in vector.iter().enumerate() {
                if !is_packed_byte(*number) {
                    let what = format!("number {} of the query vector is {number}, and packed bits are bytes", at + 1);
                    return Err(Error::invalid_input(what));
                }
                bytes.push(*number as u8);
            }
        }
        Ok(Self { metric, floats: vector.to_vec(), bytes })
    }

    /// Returns the vector as Lance compares it with vectors of `item`; `None` when a number exceeds
    /// [`FLOAT16_MAX`] and `item` is Float16.
    pub(super) fn to_array(&self, item: &DataType) -> Result<Option<ArrayRef>> {
        if *item == DataType::UInt8 {
            return Ok(Some(Arc::new(UInt8Array::from(self.bytes.clone()))));
        }
        let length = match self.metric {
            Metric::Cosine => self.floats.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt(),
            _ => 1.0,
        };
        let floats: Vec<f32> = self.floats.iter().map(|number| (f64::from(*number) / length) as f32).collect();
        let fits = *item != DataType::Float16 || floats.iter().all(|number| number.abs() <= FLOAT16_MAX);
        fits.then(|| cast(&Float32Array::from(floats), item).map_err(arrow_error)).transpose()
    }
}

/// The type of a column of vectors.
pub(super) struct VectorType {
    /// The type of each number.
    pub(super) item: DataType,
    /// The numbers of a vector.
    pub(super) width: usize,
}

/// Returns the type of the vectors of `column`.
///
/// # Errors
/// `NotFound` for an unknown column; `InvalidInput` for one that does not hold vectors.
pub(super) fn vector_type(snapshot: &Snapshot, column: &str) -> Result<VectorType> {
    let read = |data_type: &DataType| match data_type {
        DataType::FixedSizeList(item, width) => match item.data_type() {
            DataType::Float32 | DataType::Float16 | DataType::Int8 | DataType::UInt8 => {
                Some(VectorType { item: item.data_type().clone(), width: *width as usize })
            }
            _ => None,
        },
        _ => None,
    };
    let schema = snapshot.schema();
    let known = || {
        let fields = schema.fields().iter().filter(|field| read(field.data_type()).is_some());
        fields.map(|field| field.name().as_str())
    };
    let field = schema.field_with_name(column).map_err(|_| unknown("vector column", column, known()))?;
    read(field.data_type()).ok_or_else(|| {
        let (found, known) = (field.data_type(), known().collect::<Vec<_>>().join(", "));
        let known =
            if known.is_empty() { "no column of the table does".to_owned() } else { format!("these do: {known}") };
        Error::invalid_input(format!("column `{column}` is {found}, which holds no vectors; {known}"))
    })
}

/// Returns the number of dimensions of the vectors of `column`.
///
/// # Errors
/// `NotFound` for an unknown column; `InvalidInput` for one that does not hold vectors.
pub fn vector_dimensions(snapshot: &Snapshot, column: &str) -> Result<usize> {
    vector_type(snapshot, column).map(|vectors| vectors.width)
}
