//! `embed_image`: a picture as a vector, by EfficientNet-Lite0.
//!
//! The space `text` is that of MiniLM's sentence vectors: a picture's vector lies near those of sentences that describe
//! it, so that `embed_text` finds pictures by words. It is formed from the names of the 1000 ImageNet classes (ConSE,
//! Norouzi et al. 2014). Unlike CLIP, it cannot express what no class name comes near. Among 111 captioned COCO
//! pictures, 85% of the captions find their picture in the first ten (9% by chance), and 35% find it first. Near
//! vectors in the space `features` mean pictures that look alike.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListBuilder, Float32Builder, LargeBinaryArray, cast::AsArray};
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_models::{Model, ModelRegistry, Tensor};
use cenote_operator::{Definition, Operator, Output, ParamType, Params, Port, PortType, RowError, Rows, Worker};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::decode::{DecodeTarget, Decoder};
use crate::scale;

const MODEL: &str = "efficientnet_lite0";
/// The side of the model's input, in pixels.
const SIDE: usize = 224;
/// The short side, in pixels, to which a picture is scaled before the model sees its middle [`SIDE`] pixels.
const SHORT_SIDE: usize = 256;
/// Numbers that a picture takes in the model's input.
const PICTURE_NUMBERS: usize = 3 * SIDE * SIDE;
/// Pictures given to a GPU at once. A CPU is given one at a time: matrix products of another height add in another
/// order, and the last bits of a row's vector must not depend on the rows beside it. On a GPU they may, within about
/// 1e-5.
const GPU_PICTURES: usize = 32;

pub(crate) fn definition(models: Arc<ModelRegistry>) -> Definition {
    let summary = "Vector of a picture: near those of matching words (`embed_text`), or of pictures that look alike";
    Definition::new("embed_image", 2, summary, move |params| EmbedImage::bind(Arc::clone(&models), params))
        .input(Port::new("image", PortType::Bytes))
        .param(
            "space",
            ParamType::Text,
            "text",
            "`text`: 384 numbers of unit length, comparable with `embed_text`; `features`: 1280 for similarity",
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
    /// Reads only the manifest. The model is fetched, built and loaded when the first worker starts.
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
        let model = self.models.model(MODEL)?;
        Ok(Box::new(EmbedImageWorker {
            at_once: if model.is_on_gpu() { GPU_PICTURES } else { 1 },
            model,
            decoder: Decoder::default(),
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
    decoder: Decoder,
    resizer: Resizer,
    output: &'static str,
    dimensions: usize,
    /// Pictures given to the model at once.
    at_once: usize,
}

impl EmbedImageWorker {
    /// Runs the model over the pictures in `pixels`, appends their vectors to `vectors`, and leaves `pixels` empty.
    fn embed(&self, pixels: &mut Vec<f32>, vectors: &mut Vec<f32>) -> Result<()> {
        let count = pixels.len() / PICTURE_NUMBERS;
        let images = Tensor::f32(vec![count, 3, SIDE, SIDE], std::mem::take(pixels))?;
        let outputs = self.model.run([("image", images)], &[self.output])?;
        let output = outputs.first();
        let output = output.ok_or_else(|| Error::internal(format!("model `{MODEL}` gave no `{}`", self.output)))?;
        let made = output.as_f32()?;
        if made.len() != count * self.dimensions {
            return Err(Error::internal(format!(
                "`{}` has shape {:?} for {count} pictures",
                self.output, output.shape
            )));
        }
        vectors.extend_from_slice(made);
        Ok(())
    }
}

impl Worker for EmbedImageWorker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let images: &LargeBinaryArray = rows.column(0).as_binary();
        let (mut valid, mut errors) = (vec![false; images.len()], Vec::new());
        // The pictures that wait for the model, and the vectors that it has made.
        let (mut pixels, mut vectors) = (Vec::new(), Vec::new());
        for (row, bytes) in images.iter().enumerate() {
            rows.check()?;
            let target = DecodeTarget::Cover(SHORT_SIDE as u32, SHORT_SIDE as u32);
            let decoded = bytes.map(|bytes| self.decoder.decode(bytes, target));
            match decoded.map(|decoded| middle(&decoded?, &mut self.resizer)) {
                Some(Ok(square)) => {
                    valid[row] = true;
                    pixels.extend(planes(&square));
                }
                Some(Err(reason)) => errors.push(RowError { row, reason }),
                None => {}
            }
            if pixels.len() == self.at_once * PICTURE_NUMBERS {
                self.embed(&mut pixels, &mut vectors)?;
            }
        }
        if !pixels.is_empty() {
            self.embed(&mut pixels, &mut vectors)?;
        }
        let mut made = vectors.chunks_exact(self.dimensions);
        let values = Float32Builder::with_capacity(rows.len() * self.dimensions);
        let mut lists = FixedSizeListBuilder::with_capacity(values, self.dimensions as i32, rows.len());
        for is_valid in valid {
            match is_valid.then(|| made.next()).flatten() {
                Some(vector) => lists.values().append_slice(vector),
                None => lists.values().append_nulls(self.dimensions),
            }
            lists.append(is_valid);
        }
        Ok(Output::from(vec![Arc::new(lists.finish()) as ArrayRef]).with_errors(errors))
    }
}

/// Scales the middle square of `picture`, whose side is `SIDE / SHORT_SIDE` of the short side, to [`SIDE`] × [`SIDE`]
/// RGB8 pixels, row by row.
fn middle(picture: &RgbImage, resizer: &mut Resizer) -> Result<Vec<u8>, String> {
    let (width, height) = picture.dimensions();
    let side = f64::from(width.min(height)) * SIDE as f64 / SHORT_SIDE as f64;
    let (left, top) = ((f64::from(width) - side) / 2.0, (f64::from(height) - side) / 2.0);
    let source = ImageRef::new(width, height, picture.as_raw(), PixelType::U8x3).map_err(scale::reason)?;
    let mut square = Image::new(SIDE as u32, SIDE as u32, PixelType::U8x3);
    // Catmull-Rom is Pillow's bicubic filter, with which the model was trained and checked.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .use_alpha(false)
        .crop(left, top, side, side);
    resizer.resize(&source, &mut square, &options).map_err(scale::reason)?;
    Ok(square.into_vec())
}

/// Converts RGB8 pixels to the model's input: one plane per colour, `(value − 127) / 128`.
fn planes(pixels: &[u8]) -> Vec<f32> {
    (0..3)
        .flat_map(|colour| pixels.iter().skip(colour).step_by(3).map(|&value| (f32::from(value) - 127.0) / 128.0))
        .collect()
}

#[cfg(test)]
mod tests;
