//! `score_sharpness`: the amount of detail in a picture, to leave out blurred ones.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::datatypes::{DataType, Field};
use cenote_operator::{Definition, Output, Port, PortType, Rows, Shape};
use image::{DynamicImage, GrayImage};

use crate::decode::{DecodeTarget, Decoder};
use crate::rows;
use crate::scale::Scaler;

/// The longer side, in pixels, at which pictures are compared: otherwise the score would grow with the resolution.
const SIDE: u32 = 256;

pub(crate) fn definition() -> Definition {
    let summary = "Variance of the Laplacian of the luma at 256 pixels: below about 100 a photograph looks blurred";
    Definition::new("score_sharpness", 2, summary, |_params| {
        let field = Field::new("sharpness", DataType::Float32, true);
        let start = || Ok((Decoder::default(), Scaler::default()));
        Ok(rows::with_state(vec![field], start, |(decoder, scaler), rows: &Rows<'_>| {
            let (scores, errors) = rows::map(rows, |bytes| {
                let image = scaler.within(decoder.decode(bytes, DecodeTarget::Within(SIDE, SIDE))?, SIDE)?;
                Ok(laplacian_variance(&DynamicImage::ImageRgb8(image).into_luma8()))
            })?;
            Ok(Output::from(vec![Arc::new(Float32Array::from(scores)) as ArrayRef]).with_errors(errors))
        }))
    })
    .shape(Shape::Filter)
    .input(Port::new("image", PortType::Bytes))
}

/// Returns the variance of the 4-neighbour Laplacian over the inner pixels; 0 for a picture without inner pixels.
fn laplacian_variance(luma: &GrayImage) -> f32 {
    let (width, height) = (luma.width() as usize, luma.height() as usize);
    if width < 3 || height < 3 {
        return 0.0;
    }
    let at = luma.as_raw();
    let (mut sum, mut squares) = (0i64, 0i64);
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let here = y * width + x;
            let around = [here - width, here - 1, here + 1, here + width];
            let value = around.iter().map(|&place| i64::from(at[place])).sum::<i64>() - 4 * i64::from(at[here]);
            sum += value;
            squares += value * value;
        }
    }
    let count = ((width - 2) * (height - 2)) as f64;
    let mean = sum as f64 / count;
    (squares as f64 / count - mean * mean) as f32
}

#[cfg(test)]
mod tests;
