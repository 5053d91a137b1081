//! Perceptual hashes: 64 bits that stay near each other when a picture is re-encoded or resized.
//!
//! The DCT hash of Christoph Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010),
//! chapter 3.2.1: DCT-II of a picture of 32 × 32 grey pixels, the 8 × 8 lowest frequencies without the first row and
//! column, each compared with their median. Coefficients below 0.01 grey levels are noise and count as 0, so a picture
//! of one colour hashes to 0. Bit `8 v + u` stands for the frequency `u + 1` across and `v + 1` down.
//!
//! The device agrees with the CPU in every bit whose coefficient is further than [`TOLERANCE`] from the median and, in
//! magnitude, from the noise limit.

use std::f64::consts::PI;
use std::sync::LazyLock;

use cenote_base::{Error, Result};

use crate::device::{Device, Shader};
use crate::kernels::grid;
use crate::work::{Pending, Work};

/// The side of a picture, in pixels.
pub const SIDE: usize = 32;
/// Bound on the difference between a coefficient on the device and on the CPU, in grey levels.
pub const TOLERANCE: f32 = 0.005;

/// The bytes of a picture.
const PICTURE_BYTES: usize = SIDE * SIDE;
/// The side of the block of frequencies that is kept.
const BLOCK: usize = 8;
/// Frequencies weaker than this, in grey levels, are noise.
const NOISE: f32 = 0.01;

const HASH: Shader = Shader { source: include_str!("phash.wgsl"), entry: "hash", constants: &[] };

/// Rows 1 to 8 of the orthonormal DCT-II matrix of size 32.
static BASIS: LazyLock<[[f32; SIDE]; BLOCK]> = LazyLock::new(|| {
    std::array::from_fn(|frequency| {
        std::array::from_fn(|place| {
            let angle = PI * (2.0 * place as f64 + 1.0) * (frequency as f64 + 1.0) / (2.0 * SIDE as f64);
            ((2.0 / SIDE as f64).sqrt() * angle.cos()) as f32
        })
    })
});

/// Hashes `pictures`, grey pictures of [`SIDE`] × [`SIDE`] bytes one after the other, row by row.
///
/// # Errors
/// `InvalidInput` when `pictures` does not hold whole pictures.
pub fn on_cpu(pictures: &[u8]) -> Result<Vec<u64>> {
    check(pictures)?;
    Ok(pictures.chunks_exact(PICTURE_BYTES).map(|picture| hash(&coefficients(picture))).collect())
}

/// Runs [`on_cpu`] on a device.
///
/// # Errors
/// Those of [`on_cpu`], and `ResourceExhausted` when the batch does not fit the device.
pub fn on_device(device: &Device, pictures: &[u8]) -> Result<Pending<Vec<u64>>> {
    check(pictures)?;
    let count = pictures.len() / PICTURE_BYTES;
    if count == 0 {
        return Ok(Pending::new(|| Ok(Vec::new())));
    }
    let mut work = Work::new(device)?;
    let pixels = work.upload(pictures)?;
    let basis = work.upload(BASIS.as_flattened())?;
    let hashes = work.buffer::<u64>(count)?;
    work.dispatch(HASH, &[&pixels, &basis, &hashes], &(count as u32), grid(count))?;
    work.finish(&hashes, bytemuck::pod_collect_to_vec)
}

fn check(pictures: &[u8]) -> Result<()> {
    if pictures.len().is_multiple_of(PICTURE_BYTES) {
        return Ok(());
    }
    let bytes = pictures.len();
    Err(Error::invalid_input(format!("pictures of {PICTURE_BYTES} grey bytes each cannot be {bytes} bytes together")))
}

/// Computes the coefficients of the frequencies that are kept, with noise as 0.
fn coefficients(picture: &[u8]) -> [f32; BLOCK * BLOCK] {
    let mut by_row = [[0.0f32; SIDE]; BLOCK];
    for (line, pixels) in picture.chunks_exact(SIDE).enumerate() {
        for (frequency, basis) in BASIS.iter().enumerate() {
            by_row[frequency][line] = basis.iter().zip(pixels).map(|(wave, &pixel)| wave * f32::from(pixel)).sum();
        }
    }
    let mut block = [0.0; BLOCK * BLOCK];
    for (down, basis) in BASIS.iter().enumerate() {
        for (across, lines) in by_row.iter().enumerate() {
            let value: f32 = basis.iter().zip(lines).map(|(wave, value)| wave * value).sum();
            block[down * BLOCK + across] = if value.abs() < NOISE { 0.0 } else { value };
        }
    }
    block
}

fn median(block: &[f32; BLOCK * BLOCK]) -> f32 {
    let mut sorted = *block;
    sorted.sort_unstable_by(f32::total_cmp);
    (sorted[BLOCK * BLOCK / 2 - 1] + sorted[BLOCK * BLOCK / 2]) / 2.0
}

fn hash(block: &[f32; BLOCK * BLOCK]) -> u64 {
    let median = median(block);
    block.iter().enumerate().fold(0, |hash, (bit, &value)| hash | (u64::from(value > median) << bit))
}

#[cfg(test)]
mod tests;
