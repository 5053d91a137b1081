//! `resize_image`: raw RGB8 pixels of one size, as training and models want them.
//!
//! Decoding runs on the CPU; resizing is a kernel that devices have too. A device rounds once and the CPU after each
//! direction, so that they agree within one grey level.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, LargeBinaryArray, RecordBatch, UInt8Array, UInt32Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use arrow::error::ArrowError;
use cenote_base::{Error, Result};
use cenote_device::Device;
use cenote_device::resize::{self, ImageSize, SourcePicture};
use cenote_operator::{Definition, Kernel, Operator, Output, ParamType, Params, Port, PortType, Rows, Worker};
use image::{ImageBuffer, Rgb, RgbImage};

use crate::decode::{DecodeTarget, Decoder};
use crate::geometry::{Fit, Layout};
use crate::rows;
use crate::scale::Scaler;

/// The longest side that a recipe may request, in pixels.
const SIDE_MAX: u64 = 8192;
/// Bytes of the pixels of one batch, at most. Beyond this the batch fails instead of the process.
const BATCH_BYTES_MAX: usize = 4 << 30;
/// A picture of more than `LARGE` times the bytes of its frame is resized before it goes to a device: moving it would
/// take longer.
const LARGE: usize = 8;
/// Bytes of pictures and frames that a device is given at once, at most.
const RUN_BYTES_MAX: usize = 64 << 20;

pub(crate) const KERNEL: &str = "resize_image";

pub(crate) fn definition() -> Definition {
    Definition::new("resize_image", 2, "Upright RGB8 pixels of one size, as width × height × 3 numbers", |params| {
        let frame = FrameSpec::from_params(params)?;
        let preparer = move || Ok(Box::new(Preparer { frame, decoder: Decoder::default(), scaler: Scaler::default() }));
        let kernel = Kernel {
            name: KERNEL,
            input: frame.input(),
            preparer: Arc::new(move || preparer().map(|preparer| preparer as Box<dyn Worker>)),
            on_cpu: Arc::new(on_cpu),
        };
        Ok(Box::new(ResizeImage { frame, outputs: vec![frame.field()], kernel }))
    })
    .input(Port::new("image", PortType::Bytes))
    .param("width", ParamType::Unsigned, 224, "Width in pixels, from 1 to 8192")
    .param("height", ParamType::Unsigned, 224, "Height in pixels, from 1 to 8192")
    .param(
        "fit",
        ParamType::Text,
        "stretch",
        "stretch (distort), cover (crop the overhang) or contain (pad with black)",
    )
}

/// The size of the frames, and how pictures are fitted into them.
#[derive(Debug, Clone, Copy)]
struct FrameSpec {
    width: u32,
    height: u32,
    fit: Fit,
}

impl FrameSpec {
    fn from_params(params: &Params) -> Result<Self> {
        let fit = Fit::parse(params.text("fit")?)?;
        let side = |name| params.unsigned_in(name, 1..=SIDE_MAX);
        Ok(Self { width: side("width")? as u32, height: side("height")? as u32, fit })
    }

    /// Returns the schema of the kernel's input: decoded pictures with their sizes, and the frame as metadata.
    fn input(self) -> SchemaRef {
        let fields = vec![
            Field::new("pixels", DataType::LargeBinary, true),
            Field::new("width", DataType::UInt32, true),
            Field::new("height", DataType::UInt32, true),
        ];
        let sizes = [("width", self.width.to_string()), ("height", self.height.to_string())];
        let frame = sizes.into_iter().chain([("fit", self.fit.name().to_owned())]);
        let metadata: HashMap<_, _> = frame.map(|(name, value)| (name.to_owned(), value)).collect();
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Reads the frame from the metadata of the kernel's input.
    fn of(input: &RecordBatch) -> Result<Self> {
        let metadata = input.schema_ref().metadata();
        let lost = || Error::internal(format!("kernel `{KERNEL}` takes pictures with their frame"));
        let side = |name| metadata.get(name).and_then(|text| text.parse().ok()).ok_or_else(lost);
        let fit = Fit::parse(metadata.get("fit").ok_or_else(lost)?)?;
        Ok(Self { width: side("width")?, height: side("height")?, fit })
    }

    fn size(self) -> ImageSize {
        ImageSize { width: self.width, height: self.height }
    }

    fn bytes(self) -> usize {
        self.width as usize * self.height as usize * 3
    }

    /// Returns the size to which a picture must be decoded.
    fn target(self) -> DecodeTarget {
        match self.fit {
            Fit::Contain => DecodeTarget::Within(self.width, self.height),
            Fit::Cover | Fit::Stretch => DecodeTarget::Cover(self.width, self.height),
        }
    }

    fn field(self) -> Field {
        let item = Arc::new(Field::new("item", DataType::UInt8, true));
        Field::new("pixels", DataType::FixedSizeList(item, self.bytes() as i32), true)
    }

    /// Allocates `rows` black frames.
    fn black(self, rows: usize) -> Result<Vec<u8>> {
        let total = self.bytes().saturating_mul(rows);
        if total > BATCH_BYTES_MAX {
            return Err(Error::resource_exhausted(format!(
                "{rows} images of {} × {} pixels need {total} bytes in one batch; use batches of at most {} rows",
                self.width,
                self.height,
                BATCH_BYTES_MAX / self.bytes()
            )));
        }
        Ok(vec![0; total])
    }

    fn column(self, pixels: Vec<u8>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let item = Arc::new(Field::new("item", DataType::UInt8, true));
        let values: ArrayRef = Arc::new(UInt8Array::from(pixels));
        let list = FixedSizeListArray::try_new(item, self.bytes() as i32, values, nulls).map_err(no_column)?;
        Ok(Arc::new(list))
    }
}

fn no_column(source: ArrowError) -> Error {
    Error::internal("build the column of pixels").with_source(source)
}

struct ResizeImage {
    frame: FrameSpec,
    outputs: Vec<Field>,
    kernel: Kernel,
}

impl Operator for ResizeImage {
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(Whole { frame: self.frame, decoder: Decoder::default(), scaler: Scaler::default() }))
    }

    fn kernel(&self) -> Option<&Kernel> {
        Some(&self.kernel)
    }
}

/// A worker that decodes and resizes every row straight into the one buffer of the batch.
struct Whole {
    frame: FrameSpec,
    decoder: Decoder,
    scaler: Scaler,
}

impl Worker for Whole {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let (frame, bytes) = (self.frame, self.frame.bytes());
        let mut pixels = frame.black(rows.len())?;
        let (valid, errors) = rows::for_each(rows, |row, encoded| {
            let image = self.decoder.decode(encoded, frame.target())?;
            let resized = self.scaler.fill(&image, &mut pixels[row * bytes..][..bytes], frame.size(), frame.fit);
            self.decoder.recycle(image);
            resized
        })?;
        Ok(Output::from(vec![frame.column(pixels, Some(valid.into()))?]).with_errors(errors))
    }
}

/// A worker that decodes rows for the kernel.
struct Preparer {
    frame: FrameSpec,
    decoder: Decoder,
    scaler: Scaler,
}

impl Worker for Preparer {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let frame = self.frame;
        let mut pixels: Vec<u8> = Vec::new();
        let (mut widths, mut heights) = (vec![0; rows.len()], vec![0; rows.len()]);
        let mut is_full = false;
        let (valid, errors) = rows::for_each(rows, |row, encoded| {
            let mut image = self.decoder.decode(encoded, frame.target())?;
            if image.as_raw().len() > LARGE * frame.bytes() {
                let mut small = RgbImage::new(frame.width, frame.height);
                self.scaler.fill(&image, &mut small, frame.size(), frame.fit)?;
                self.decoder.recycle(std::mem::replace(&mut image, small));
            }
            is_full |= pixels.len() + image.as_raw().len() > BATCH_BYTES_MAX;
            if !is_full {
                pixels.extend_from_slice(image.as_raw());
                (widths[row], heights[row]) = image.dimensions();
            }
            self.decoder.recycle(image);
            Ok(())
        })?;
        if is_full {
            return Err(Error::resource_exhausted(format!(
                "{} images decode to more than {BATCH_BYTES_MAX} bytes in one batch; use smaller batches",
                rows.len()
            )));
        }
        let lengths = widths.iter().zip(&heights).map(|(width, height)| *width as usize * *height as usize * 3);
        let (offsets, nulls) = (OffsetBuffer::from_lengths(lengths), Some(NullBuffer::from(valid)));
        let pixels = LargeBinaryArray::try_new(offsets, Buffer::from_vec(pixels), nulls.clone()).map_err(no_column)?;
        let sides = [widths, heights].map(|sides| Arc::new(UInt32Array::new(sides.into(), nulls.clone())) as ArrayRef);
        let [widths, heights] = sides;
        Ok(Output::from(vec![Arc::new(pixels), widths, heights]).with_errors(errors))
    }
}

/// The input of the kernel: decoded pictures and their frame.
struct Pictures<'a> {
    frame: FrameSpec,
    pixels: &'a LargeBinaryArray,
    widths: &'a UInt32Array,
    heights: &'a UInt32Array,
}

impl<'a> Pictures<'a> {
    fn new(input: &'a RecordBatch) -> Result<Self> {
        let wrong = || Error::internal(format!("kernel `{KERNEL}` takes pictures"));
        let [pixels, widths, heights] = input.columns() else { return Err(wrong()) };
        Ok(Self {
            frame: FrameSpec::of(input)?,
            pixels: pixels.as_binary_opt().ok_or_else(wrong)?,
            widths: widths.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?,
            heights: heights.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?,
        })
    }

    /// Returns the rows that have a picture.
    fn rows(&self) -> impl Iterator<Item = usize> + use<'_> {
        (0..self.pixels.len()).filter(|row| self.pixels.is_valid(*row))
    }

    fn picture(&self, row: usize) -> SourcePicture<'a> {
        let (width, height) = (self.widths.value(row), self.heights.value(row));
        let Layout { crop, placement } = self.frame.fit.layout(ImageSize { width, height }, self.frame.size());
        SourcePicture { pixels: self.pixels.value(row), width, height, crop, placement }
    }

    /// Resizes the picture of `row` on the calling thread.
    fn fill(&self, row: usize, frame: &mut [u8], scaler: &mut Scaler) -> Result<()> {
        let SourcePicture { pixels, width, height, .. } = self.picture(row);
        let image = ImageBuffer::<Rgb<u8>, &[u8]>::from_raw(width, height, pixels);
        let image = image.ok_or_else(|| Error::internal("a picture lost some of its pixels"))?;
        scaler.fill(&image, frame, self.frame.size(), self.frame.fit).map_err(Error::internal)
    }

    fn output(&self, pixels: Vec<u8>) -> Result<RecordBatch> {
        let column = self.frame.column(pixels, self.pixels.nulls().cloned())?;
        RecordBatch::try_new(Arc::new(Schema::new(vec![self.frame.field()])), vec![column]).map_err(no_column)
    }
}

fn on_cpu(input: &RecordBatch) -> Result<RecordBatch> {
    let pictures = Pictures::new(input)?;
    let (mut scaler, bytes) = (Scaler::default(), pictures.frame.bytes());
    let mut pixels = pictures.frame.black(input.num_rows())?;
    pictures.rows().try_for_each(|row| pictures.fill(row, &mut pixels[row * bytes..][..bytes], &mut scaler))?;
    pictures.output(pixels)
}

/// Runs the kernel on `device`. A picture that is too large for it is resized on the calling thread.
pub(crate) fn on_device(device: &Device, input: &RecordBatch) -> Result<RecordBatch> {
    let pictures = Pictures::new(input)?;
    let (mut scaler, bytes) = (Scaler::default(), pictures.frame.bytes());
    let mut pixels = pictures.frame.black(input.num_rows())?;
    let run_bytes_max = RUN_BYTES_MAX.min(usize::try_from(device.info().binding_bytes_max).unwrap_or(usize::MAX));
    let mut rows = pictures.rows().peekable();
    while let Some(first) = rows.next() {
        let mut run = vec![first];
        let needed = |row: usize| pictures.pixels.value(row).len() + bytes;
        let mut run_bytes = needed(first);
        if run_bytes > run_bytes_max {
            pictures.fill(first, &mut pixels[first * bytes..][..bytes], &mut scaler)?;
            continue;
        }
        while let Some(row) = rows.next_if(|row| run_bytes + needed(*row) <= run_bytes_max) {
            run_bytes += needed(row);
            run.push(row);
        }
        let batch: Vec<_> = run.iter().map(|row| pictures.picture(*row)).collect();
        let frames = resize::on_device(device, &batch, pictures.frame.size())?.wait()?;
        for (row, frame) in run.into_iter().zip(frames.chunks_exact(bytes)) {
            pixels[row * bytes..][..bytes].copy_from_slice(frame);
        }
    }
    pictures.output(pixels)
}

#[cfg(test)]
mod tests;
