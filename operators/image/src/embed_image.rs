//! `embed_image`: a picture as a vector, by EfficientNet-Lite0.
//!
//! In the space `text` the vector lies near MiniLM's vectors of sentences that fit the picture, so that `embed_text` finds
//! pictures by words. It goes through the names of the 1000 ImageNet classes (ConSE, Norouzi et al. 2014) and is no CLIP:
//! what no class name comes near to is not found. Among 111 captioned COCO pictures 85% of the captions have their picture
//! in the first ten (9% by chance), 35% have it first. In the space `features` near vectors mean pictures that look alike.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListBuilder, Float32Builder, LargeBinaryArray, cast::AsArray};
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_models::{Model, ModelRegistry, Tensor};
use cenote_operator::{Definition, Operator, Output, ParamType, Params, Port, PortType, RowError, Rows, Worker};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::decode::decode_rgb;

const MODEL: &str = "efficientnet_lite0";
/// The side of the model's input, in pixels.
const SIDE: usize = 224;
/// The short side of the picture of which the model sees the middle [`SIDE`] pixels.
const SHORT_SIDE: usize = 256;

pub(crate) fn definition(models: Arc<ModelRegistry>) -> Definition {
    let summary =
        "Vector of a picture: near the vectors of fitting words (`embed_text`), or of pictures that look alike";
    Definition::new("embed_image", 1, summary, move |params| EmbedImage::bind(Arc::clone(&models), params))
        .input(Port::new("image", PortType::Bytes))
        .param(
            "space",
            ParamType::Text,
            "text",
            "`text`: 384 numbers of unit length, comparable with `embed_text`; `features`: 1280 numbers for likeness",
        )
}

struct EmbedImage {
    models: Arc<ModelRegistry>,
    model_hash: String,
    output: &'static str,
    dimensions: usize,
    outputs: Vec<Field>,
}

impl EmbedImage {
    /// Reads the manifest only. The model is fetched, built and loaded when the first worker starts.
    fn bind(models: Arc<ModelRegistry>, params: &Params) -> Result<Box<dyn Operator>> {
        let (output, dimensions) = match params.text("space")? {
            "text" => ("text_space", 384),
            "features" => ("features", 1280),
            other => {
                return Err(Error::invalid_input(format!(
                    "parameter `space` must be `text` or `features`, found `{other}`"
                )));
            }
        };
        let item = Arc::new(Field::new_list_field(DataType::Float32, true));
        let outputs = vec![Field::new("embedding", DataType::FixedSizeList(item, dimensions), true)];
        let model_hash = models.model_hash(MODEL)?;
        Ok(Box::new(Self { models, model_hash, output, dimensions: dimensions as usize, outputs }))
    }
}

impl Operator for EmbedImage {
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(EmbedImageWorker {
            model: self.models.model(MODEL)?,
            resizer: Resizer::new(),
            output: self.output,
            dimensions: self.dimensions,
        }))
    }

    fn model_hash(&self) -> Option<&str> {
        Some(&self.model_hash)
    }
}

struct EmbedImageWorker {
    model: Arc<Model>,
    resizer: Resizer,
    output: &'static str,
    dimensions: usize,
}

impl EmbedImageWorker {
    /// The model's answer to one picture. Pictures run one at a time: matrix products of another height add in another
    /// order, and a row's vector must not depend on the rows beside it in its last bits.
    fn embed(&self, pixels: Vec<f32>) -> Result<Tensor> {
        let image = Tensor::f32(vec![1, 3, SIDE, SIDE], pixels)?;
        let mut outputs = self.model.run([("image", image)], &[self.output])?;
        outputs.pop().ok_or_else(|| Error::internal(format!("model `{MODEL}` gave no `{}`", self.output)))
    }
}

impl Worker for EmbedImageWorker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let values = Float32Builder::with_capacity(rows.len() * self.dimensions);
        let mut vectors = FixedSizeListBuilder::with_capacity(values, self.dimensions as i32, rows.len());
        let mut errors = Vec::new();
        let images: &LargeBinaryArray = rows.column(0).as_binary();
        for (row, bytes) in images.iter().enumerate() {
            let side = SHORT_SIDE as u32;
            let decoded = bytes.map(|bytes| decode_rgb(bytes, Some((side, side))));
            match decoded.map(|decoded| middle(&decoded?, &mut self.resizer)) {
                Some(Ok(square)) => {
                    vectors.values().append_slice(self.embed(planes(&square))?.as_f32()?);
                    vectors.append(true);
                    continue;
                }
                Some(Err(reason)) => errors.push(RowError { row, reason }),
                None => {}
            }
            vectors.values().append_nulls(self.dimensions);
            vectors.append(false);
        }
        Ok(Output::from(vec![Arc::new(vectors.finish()) as ArrayRef]).with_errors(errors))
    }
}

/// The middle square of `picture`, 224/256 of its short side, at [`SIDE`] × [`SIDE`]: RGB8, row by row.
fn middle(picture: &RgbImage, resizer: &mut Resizer) -> Result<Vec<u8>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot be resized: {error}");
    let (width, height) = picture.dimensions();
    let side = f64::from(width.min(height)) * SIDE as f64 / SHORT_SIDE as f64;
    let (left, top) = ((f64::from(width) - side) / 2.0, (f64::from(height) - side) / 2.0);
    let source = ImageRef::new(width, height, picture.as_raw(), PixelType::U8x3).map_err(|error| cannot(&error))?;
    let mut square = Image::new(SIDE as u32, SIDE as u32, PixelType::U8x3);
    // Catmull-Rom is the bicubic filter of Pillow, with which the model was trained and checked.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .use_alpha(false)
        .crop(left, top, side, side);
    resizer.resize(&source, &mut square, &options).map_err(|error| cannot(&error))?;
    Ok(square.into_vec())
}

/// RGB8 pixels as the model takes them: a plane a colour, (value − 127) / 128.
fn planes(pixels: &[u8]) -> Vec<f32> {
    (0..3)
        .flat_map(|colour| pixels.iter().skip(colour).step_by(3).map(|&value| (f32::from(value) - 127.0) / 128.0))
        .collect()
}

#[cfg(test)]
mod tests;
