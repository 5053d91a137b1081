//! `hash_image`: 64 bits that stay near each other when a picture is re-encoded or resized.
//!
//! The DCT hash of Christoph Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010),
//! chapter 3.2.1: luma reduced to 32 × 32, DCT-II, the 8 × 8 lowest frequencies without the first row and column, each
//! compared with their median. A Hamming distance of up to about 10 means the same picture. Cropping and rotation are
//! not seen.
//!
//! Decoding and shrinking run on the CPU; the transform is a kernel that devices have too. Both agree in every bit
//! whose frequency is farther than [`cenote_device::phash::TOLERANCE`] from the median.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, Result};
use cenote_device::Device;
use cenote_device::phash::{self, SIDE};
use cenote_operator::{Definition, Kernel, Operator, Output, Port, PortType, Rows, Worker};
use image::DynamicImage;

use crate::decode::{DecodeTarget, Decoder};
use crate::rows;
use crate::scale::Scaler;

/// Bytes of a reduced picture: one for each grey pixel, line by line.
const PICTURE_BYTES: usize = SIDE * SIDE;

pub(crate) const KERNEL: &str = "phash";

pub(crate) fn definition() -> Definition {
    let summary = "Perceptual hash of 64 bits: similar pictures differ in few of them";
    Definition::new("hash_image", 3, summary, |_params| {
        let input = Field::new("luma", DataType::FixedSizeBinary(PICTURE_BYTES as i32), true);
        let kernel = Kernel {
            name: KERNEL,
            input: Arc::new(Schema::new(vec![input])),
            preparer: Arc::new(|| Ok(Box::<Shrinker>::default())),
            on_cpu: Arc::new(on_cpu),
        };
        Ok(Box::new(HashImage { outputs: vec![output()], kernel }))
    })
    .input(Port::new("image", PortType::Bytes))
}

fn output() -> Field {
    Field::new("phash", DataType::Int64, true)
}

fn on_cpu(input: &RecordBatch) -> Result<RecordBatch> {
    hash(input, phash::on_cpu)
}

/// Runs the kernel on `device`.
pub(crate) fn on_device(device: &Device, input: &RecordBatch) -> Result<RecordBatch> {
    hash(input, |pictures| phash::on_device(device, pictures)?.wait())
}

/// Applies `hashes` to the pictures of `input`. Rows without a picture stay null.
fn hash(input: &RecordBatch, hashes: impl FnOnce(&[u8]) -> Result<Vec<u64>>) -> Result<RecordBatch> {
    let pictures = input.columns().first().and_then(|column| column.as_any().downcast_ref::<FixedSizeBinaryArray>());
    let pictures = pictures.ok_or_else(|| Error::internal(format!("kernel `{KERNEL}` takes pictures")))?;
    let values = hashes(pictures.value_data())?.into_iter().map(|hash| hash as i64).collect();
    let column: ArrayRef = Arc::new(Int64Array::new(values, pictures.nulls().cloned()));
    RecordBatch::try_new(Arc::new(Schema::new(vec![output()])), vec![column])
        .map_err(|source| Error::internal("build the column of hashes").with_source(source))
}

struct HashImage {
    outputs: Vec<Field>,
    kernel: Kernel,
}

impl Operator for HashImage {
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        self.kernel.worker()
    }

    fn kernel(&self) -> Option<&Kernel> {
        Some(&self.kernel)
    }
}

/// A worker that makes grey pictures of [`SIDE`] × [`SIDE`] pixels.
#[derive(Default)]
struct Shrinker {
    decoder: Decoder,
    scaler: Scaler,
}

impl Worker for Shrinker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let (pictures, errors) = rows::map(rows, |bytes| {
            // Twice the reduced side leaves the filter pixels to average.
            let image = self.decoder.decode(bytes, DecodeTarget::Cover(2 * SIDE as u32, 2 * SIDE as u32))?;
            let luma = DynamicImage::ImageRgb8(image).into_luma8();
            Ok(self.scaler.luma(&luma, SIDE as u32, SIDE as u32)?.into_raw())
        })?;
        let pictures = FixedSizeBinaryArray::try_from_sparse_iter_with_size(pictures.into_iter(), PICTURE_BYTES as i32)
            .map_err(|source| Error::internal("build the column of pictures").with_source(source))?;
        Ok(Output::from(vec![Arc::new(pictures) as ArrayRef]).with_errors(errors))
    }
}

#[cfg(test)]
mod tests;
