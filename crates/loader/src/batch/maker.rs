//! The making of a batch: rows by id, media to tensors, sequences to blocks.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use cenote_base::{Error, Random, Result};
use cenote_operators_image::Framer;
use cenote_operators_video::row_bytes;
use cenote_store::arrow_error;

use super::packing::Packing;
use super::tensor_pool::TensorPools;
use super::transform::{TensorSlice, TransformChain};
use super::{Batch, BatchPlan, ColumnTensor, DecodeFailure, OnError, TensorValues};
use crate::order::sample::{Sample, mix};
use crate::sources::selection::SourceSelection;

/// Makes the batches of one epoch.
pub(crate) struct BatchMaker {
    pub(crate) sources: Arc<Vec<SourceSelection>>,
    pub(crate) columns: Vec<String>,
    /// Whether each column may hold nulls in any source: batches have one schema, whatever they hold.
    pub(crate) nullable: Vec<bool>,
    /// The transformed columns.
    pub(crate) chains: Vec<(String, TransformChain)>,
    /// The packed columns.
    pub(crate) packings: Vec<(String, Packing)>,
    pub(crate) on_error: OnError,
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    pub(crate) pools: TensorPools,
}

/// The memory that a thread reuses from batch to batch.
#[derive(Default)]
pub(crate) struct DecodeScratch {
    framer: Framer,
    pixels: Vec<u8>,
}

impl BatchMaker {
    /// Returns the bytes of the tensors of one row.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        let bytes = |chain: &TransformChain| chain.numbers() * if chain.is_float() { size_of::<f32>() } else { 1 };
        self.chains.iter().map(|(_, chain)| bytes(chain) as u64).sum()
    }

    /// Reads the rows of `samples`.
    pub(crate) async fn read(&self, samples: &[Sample]) -> Result<RecordBatch> {
        // A row that several samples name is read once.
        let mut parts: Vec<RecordBatch> = Vec::new();
        let mut places = vec![(0, 0); samples.len()];
        for (source, selection) in self.sources.iter().enumerate() {
            let mine: Vec<(usize, u64)> = samples
                .iter()
                .enumerate()
                .filter(|(_, sample)| sample.source == source)
                .map(|(at, sample)| (at, selection.row_id(sample.row)))
                .collect();
            if mine.is_empty() {
                continue;
            }
            let (mut unique, mut known) = (Vec::with_capacity(mine.len()), HashMap::new());
            for (at, row_id) in mine {
                let place = *known.entry(row_id).or_insert_with(|| {
                    unique.push(row_id);
                    unique.len() - 1
                });
                places[at] = (parts.len(), place);
            }
            parts.push(selection.snapshot().take(&unique, &self.columns).await?);
        }
        let schema = match (parts.first(), self.sources.first()) {
            (Some(part), _) => part.schema(),
            (None, Some(source)) => {
                let full = source.snapshot().full_schema();
                let fields = self.columns.iter().map(|name| full.field_with_name(name).cloned());
                Arc::new(Schema::new(fields.collect::<std::result::Result<Vec<_>, _>>().map_err(arrow_error)?))
            }
            (None, None) => return Err(Error::internal("a loader without sources")),
        };
        let fields = schema.fields().iter().zip(&self.nullable);
        let fields = fields.map(|(field, nullable)| field.as_ref().clone().with_nullable(*nullable));
        let schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()));
        let columns = (0..schema.fields().len()).map(|column| gather(&parts, column, &places, schema.field(column)));
        let options = RecordBatchOptions::new().with_row_count(Some(samples.len()));
        RecordBatch::try_new_with_options(Arc::clone(&schema), columns.collect::<Result<Vec<_>>>()?, &options)
            .map_err(arrow_error)
    }

    /// Turns the media columns of `rows` into tensors, and packs the columns to pack.
    fn decode(&self, rows: &RecordBatch, plan: &BatchPlan, scratch: &mut DecodeScratch) -> Result<Batch> {
        let BatchPlan { step, samples, repeated } = plan;
        let mut tensors = Vec::with_capacity(self.chains.len());
        let mut failures = Vec::new();
        for (at, (name, chain)) in self.chains.iter().enumerate() {
            let column = rows.column_by_name(name).ok_or_else(|| Error::internal(format!("a batch lost `{name}`")))?;
            let column = arrow::compute::cast(column, &DataType::LargeBinary).map_err(arrow_error)?;
            let pictures = column.as_binary::<i64>();
            let mut numbers = self.numbers(chain, rows.num_rows());
            let mut valid = vec![true; rows.num_rows()];
            for (row, sample) in samples.iter().enumerate() {
                let outcome = match pictures.is_null(row) {
                    true => Err("the value is null".to_owned()),
                    false => {
                        // A row that comes several times in an epoch looks different each time.
                        let (source, column) = (sample.source as u64, at as u64);
                        let seed = mix(&[self.seed, self.epoch, source, sample.row, sample.pass, column]);
                        let tensor = slice(&mut numbers, chain.numbers(), row);
                        chain.apply(
                            &mut scratch.framer,
                            &row_bytes(pictures, row),
                            &mut Random::new(seed),
                            tensor,
                            &mut scratch.pixels,
                        )
                    }
                };
                if let Err(reason) = outcome {
                    clear(&mut numbers, chain.numbers(), row);
                    valid[row] = false;
                    failures.push(DecodeFailure { row, reason: format!("column `{name}`: {reason}") });
                }
            }
            let valid = valid.contains(&false).then_some(valid);
            let shape = [rows.num_rows()].into_iter().chain(chain.shape()).collect();
            tensors.push(ColumnTensor { name: name.clone(), shape, data: Arc::new(numbers), valid });
        }
        let mut packed = Vec::with_capacity(2 * self.packings.len());
        for (name, packing) in &self.packings {
            let column = rows.column_by_name(name).ok_or_else(|| Error::internal(format!("a batch lost `{name}`")))?;
            packed.extend(packing.pack(name, column)?);
        }
        let transformed: Vec<&String> =
            self.chains.iter().map(|(name, _)| name).chain(self.packings.iter().map(|(name, _)| name)).collect();
        let kept: Vec<usize> = (0..rows.num_columns())
            .filter(|column| !transformed.contains(&rows.schema_ref().field(*column).name()))
            .collect();
        let rows = rows.project(&kept).map_err(arrow_error)?;
        Ok(Batch { epoch: self.epoch, step: *step, rows, tensors, packed, repeated: *repeated, failures })
    }

    /// Returns arbitrary numbers for a tensor of `rows` rows.
    fn numbers(&self, chain: &TransformChain, rows: usize) -> TensorValues {
        match chain.is_float() {
            true => TensorValues::Float(self.pools.floats.take(rows * chain.numbers())),
            false => TensorValues::Byte(self.pools.bytes.take(rows * chain.numbers())),
        }
    }

    /// Returns the key of a sample's row for an error message.
    async fn key(&self, sample: Sample) -> Result<String> {
        let source = self.sources.get(sample.source).ok_or_else(|| Error::internal("a sample of no source"))?;
        let columns = source.snapshot().primary_key().columns();
        let key = source.snapshot().take(&[source.row_id(sample.row)], &columns).await?;
        let values = key.columns().iter().map(|column| array_value_to_string(column, 0).map_err(arrow_error));
        Ok(values.collect::<Result<Vec<_>>>()?.join(", "))
    }

    /// Makes the batch of `rows`, which are those of the samples in `plan`.
    ///
    /// # Errors
    /// `InvalidInput` for a row that cannot be decoded, unless [`OnError::Zero`] lets it pass.
    pub(crate) async fn finish(
        &self,
        rows: &RecordBatch,
        plan: &BatchPlan,
        scratch: &mut DecodeScratch,
    ) -> Result<Batch> {
        let batch = self.decode(rows, plan, scratch)?;
        if self.on_error == OnError::Raise
            && let Some(DecodeFailure { row, reason }) = batch.failures.first()
        {
            let key = self.key(plan.samples[*row]).await?;
            return Err(Error::invalid_input(format!(
                "the row with key {key}, {reason}; to train without it, leave it out by a filter or let errors be zeros"
            )));
        }
        Ok(batch)
    }
}

/// Returns column `column` of the rows at `places`: pairs of a part and a row in it.
fn gather(parts: &[RecordBatch], column: usize, places: &[(usize, usize)], field: &Field) -> Result<ArrayRef> {
    match parts {
        [] => Ok(arrow::array::new_empty_array(field.data_type())),
        // Each row comes once, in the order of the samples.
        [part] if places.iter().enumerate().all(|(at, (_, row))| *row == at) => Ok(Arc::clone(part.column(column))),
        [part] => {
            let rows: UInt32Array = places.iter().map(|(_, row)| Some(*row as u32)).collect();
            take(part.column(column), &rows, None).map_err(arrow_error)
        }
        _ => {
            let sources: Vec<ArrayRef> = parts
                .iter()
                .map(|part| arrow::compute::cast(part.column(column), field.data_type()).map_err(arrow_error))
                .collect::<Result<_>>()?;
            let sources: Vec<&dyn Array> = sources.iter().map(AsRef::as_ref).collect();
            interleave(&sources, places).map_err(arrow_error)
        }
    }
}

/// Returns the numbers of `row` in a tensor with `len` numbers per row.
fn slice(numbers: &mut TensorValues, len: usize, row: usize) -> TensorSlice<'_> {
    match numbers {
        TensorValues::Byte(numbers) => TensorSlice::Byte(&mut numbers[row * len..(row + 1) * len]),
        TensorValues::Float(numbers) => TensorSlice::Float(&mut numbers[row * len..(row + 1) * len]),
    }
}

/// Sets the numbers of `row` to zero.
fn clear(numbers: &mut TensorValues, len: usize, row: usize) {
    match numbers {
        TensorValues::Byte(numbers) => numbers[row * len..(row + 1) * len].fill(0),
        TensorValues::Float(numbers) => numbers[row * len..(row + 1) * len].fill(0.0),
    }
}
