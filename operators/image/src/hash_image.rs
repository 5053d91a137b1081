//! `hash_image`: 64 bits that stay near each other when a picture is re-encoded or resized.
//!
//! The DCT hash of Christoph Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010),
//! chapter 3.2.1: luma reduced to 32 × 32, DCT-II, the 8 × 8 lowest frequencies without the first row and column, each
//! compared with their median. A Hamming distance of up to about 10 means the same picture. Cropping and rotation are
//! not seen.

use std::f32::consts::PI;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field};
use cenote_operator::{Definition, Output, Port, PortType, Rows};
use image::{DynamicImage, GrayImage};

use crate::decode::{Decoder, Target};
use crate::rows;
use crate::scale::Scaler;

/// The side of the reduced picture.
const SIDE: usize = 32;
/// The side of the block of frequencies that is kept.
const BLOCK: usize = 8;
/// Frequencies weaker than this, in grey levels, are noise: a picture of one colour hashes to 0.
const NOISE: f32 = 0.01;

pub(crate) fn definition() -> Definition {
    Definition::new("hash_image", 1, "Perceptual hash: near pictures differ in few of 64 bits", |_params| {
        let field = Field::new("phash", DataType::Int64, true);
        let start = || Ok((Decoder::default(), Scaler::default(), Transform::new()));
        Ok(rows::with_state(vec![field], start, |(decoder, scaler, transform), rows: &Rows<'_>| {
            let (hashes, errors) = rows::map(rows, |bytes| {
                // Twice the reduced side leaves the filter something to average.
                let image = decoder.decode(bytes, Target::Cover(2 * SIDE as u32, 2 * SIDE as u32))?;
                let luma = DynamicImage::ImageRgb8(image).into_luma8();
                Ok(transform.hash(&scaler.luma(&luma, SIDE as u32, SIDE as u32)?))
            });
            Ok(Output::from(vec![Arc::new(Int64Array::from(hashes)) as ArrayRef]).with_errors(errors))
        }))
    })
    .input(Port::new("image", PortType::Bytes))
}

/// The rows 1 to 8 of the orthonormal DCT-II matrix of size 32.
struct Transform([[f32; SIDE]; BLOCK]);

impl Transform {
    fn new() -> Self {
        let side = SIDE as f32;
        let mut matrix = [[0.0; SIDE]; BLOCK];
        for (frequency, row) in matrix.iter_mut().enumerate() {
            for (place, value) in row.iter_mut().enumerate() {
                let angle = PI * (2.0 * place as f32 + 1.0) * (frequency as f32 + 1.0) / (2.0 * side);
                *value = (2.0 / side).sqrt() * angle.cos();
            }
        }
        Self(matrix)
    }

    /// The hash of a picture of [`SIDE`] × [`SIDE`].
    fn hash(&self, luma: &GrayImage) -> i64 {
        let mut by_row = [[0.0f32; SIDE]; BLOCK];
        for (line, pixels) in luma.as_raw().chunks_exact(SIDE).enumerate() {
            for (frequency, basis) in self.0.iter().enumerate() {
                by_row[frequency][line] = basis.iter().zip(pixels).map(|(wave, &pixel)| wave * f32::from(pixel)).sum();
            }
        }
        let mut block = [0.0f32; BLOCK * BLOCK];
        for (down, basis) in self.0.iter().enumerate() {
            for (across, lines) in by_row.iter().enumerate() {
                let value: f32 = basis.iter().zip(lines).map(|(wave, value)| wave * value).sum();
                block[down * BLOCK + across] = if value.abs() < NOISE { 0.0 } else { value };
            }
        }
        let mut sorted = block;
        sorted.sort_by(f32::total_cmp);
        let median = (sorted[BLOCK * BLOCK / 2 - 1] + sorted[BLOCK * BLOCK / 2]) / 2.0;
        block.iter().enumerate().fold(0i64, |hash, (bit, &value)| hash | (i64::from(value > median) << bit))
    }
}

#[cfg(test)]
mod tests;
