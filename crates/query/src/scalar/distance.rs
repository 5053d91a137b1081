//! `l2_distance`, `cosine_distance`, `inner_product` and `hamming_distance` of two vectors.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float32Builder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type};
use cenote_base::Error;
use cenote_index::{Metric, is_packed_byte};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::arguments::{argument_types, coerced};
use crate::fault::external;

/// Partial sums of a distance, which the compiler turns into vector instructions.
const LANES: usize = 8;

/// One of the four functions. Its value is null when a vector is null or holds a null, and for the cosine of a zero
/// vector.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct DistanceFunction {
    metric: Metric,
    signature: Signature,
}

/// Returns all four functions.
pub(crate) fn functions() -> impl Iterator<Item = ScalarUDF> {
    [Metric::L2, Metric::Cosine, Metric::Dot, Metric::Hamming].into_iter().map(|metric| {
        let signature = Signature::user_defined(Volatility::Immutable);
        ScalarUDF::new_from_impl(DistanceFunction { metric, signature })
    })
}

impl DistanceFunction {
    /// Returns the types to which arguments of `given` types are cast.
    ///
    /// # Errors
    /// `InvalidInput` for arguments that are not two vectors of one length.
    fn vector_types(&self, given: &[DataType]) -> cenote_base::Result<Vec<DataType>> {
        let wrong = |what: String| Err(Error::invalid_input(format!("{}: {what}", self.name())));
        if given.len() != 2 {
            return wrong(format!("it takes two vectors, found {} arguments", given.len()));
        }
        let item = || Arc::new(Field::new_list_field(DataType::Float32, true));
        let mut types = Vec::with_capacity(2);
        let numbers = |item: &FieldRef| item.data_type().is_numeric() || item.data_type().is_null();
        for data_type in given {
            types.push(match data_type {
                DataType::FixedSizeList(of, size) if numbers(of) => DataType::FixedSizeList(item(), *size),
                DataType::List(of) | DataType::LargeList(of) if numbers(of) => DataType::List(item()),
                DataType::Null => DataType::List(item()),
                other => return wrong(format!("{other} is not a vector; write one as [0.1, 0.2]")),
            });
        }
        if let (DataType::FixedSizeList(_, a), DataType::FixedSizeList(_, b)) = (&types[0], &types[1])
            && a != b
        {
            return wrong(format!("vectors of {a} and {b} numbers"));
        }
        Ok(types)
    }

    /// Returns the metric of the function. For [`Metric::Dot`] the value is the product itself: the larger, the nearer.
    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    fn measure(&self, a: &[f32], b: &[f32]) -> Result<Option<f32>> {
        Ok(match self.metric {
            Metric::L2 => Some(sum(a, b, |a, b| (a - b) * (a - b)).sqrt()),
            Metric::Dot => Some(sum(a, b, |a, b| a * b)),
            Metric::Hamming => {
                if let Some(number) = a.iter().chain(b).find(|number| !is_packed_byte(**number)) {
                    let what = format!("{}: packed bits are whole numbers from 0 to 255, found {number}", self.name());
                    return Err(external(Error::invalid_input(what)));
                }
                Some(sum(a, b, |a, b| (a as u8 ^ b as u8).count_ones() as f32))
            }
            Metric::Cosine => {
                let norms = sum(a, a, |a, b| a * b).sqrt() * sum(b, b, |a, b| a * b).sqrt();
                (norms > 0.0).then(|| 1.0 - sum(a, b, |a, b| a * b) / norms)
            }
        })
    }
}

impl ScalarUDFImpl for DistanceFunction {
    fn name(&self) -> &str {
        match self.metric {
            Metric::L2 => "l2_distance",
            Metric::Cosine => "cosine_distance",
            Metric::Dot => "inner_product",
            Metric::Hamming => "hamming_distance",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float32)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.vector_types(&argument_types(&args)).map_err(external)?;
        Ok(Arc::new(Field::new(self.name(), DataType::Float32, true)))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(coerced(arg_types, self.vector_types(arg_types)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let sides = args.args.iter().map(Vectors::new).collect::<Result<Vec<_>>>()?;
        let [left, right] = sides.as_slice() else {
            return Err(external(Error::internal(format!("{} without two arguments", self.name()))));
        };
        let mut distances = Float32Builder::with_capacity(rows);
        for row in 0..rows {
            let (Some(a), Some(b)) = (left.row(row), right.row(row)) else {
                distances.append_null();
                continue;
            };
            if a.len() != b.len() {
                let what = format!("{}: vectors of {} and {} numbers", self.name(), a.len(), b.len());
                return Err(external(Error::invalid_input(what)));
            }
            distances.append_option(self.measure(a, b)?);
        }
        let distances: Float32Array = distances.finish();
        if constant {
            return ScalarValue::try_from_array(&distances, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(Arc::new(distances)))
    }
}

fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| term(*a, *b)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// An argument: a column of vectors, or one vector for every row.
struct Vectors {
    lists: ArrayRef,
    numbers: Float32Array,
    constant: bool,
}

impl Vectors {
    fn new(value: &ColumnarValue) -> Result<Self> {
        let (lists, constant) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(scalar) => (scalar.to_array()?, true),
        };
        let values = match lists.data_type() {
            DataType::FixedSizeList(_, _) => lists.as_fixed_size_list().values(),
            _ => lists.as_list::<i32>().values(),
        };
        let numbers = cast(values, &DataType::Float32)?.as_primitive::<Float32Type>().clone();
        Ok(Self { lists, numbers, constant })
    }

    fn row(&self, row: usize) -> Option<&[f32]> {
        let row = if self.constant { 0 } else { row };
        if self.lists.is_null(row) {
            return None;
        }
        let range = match self.lists.data_type() {
            DataType::FixedSizeList(_, size) => {
                let start = self.lists.as_fixed_size_list().value_offset(row) as usize;
                start..start + *size as usize
            }
            _ => {
                let offsets = self.lists.as_list::<i32>().value_offsets();
                offsets[row] as usize..offsets[row + 1] as usize
            }
        };
        if self.numbers.null_count() > 0 && range.clone().any(|at| self.numbers.is_null(at)) {
            return None;
        }
        Some(&self.numbers.values()[range])
    }
}
