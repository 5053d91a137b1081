//! `resize_image`: raw RGB8 pixels of one size, as training and models want them.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, UInt8Array, cast::AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_operator::{Definition, Output, ParamType, Params, Port, PortType, Rows};

use crate::decode::{Decoder, Target};
use crate::rows;
use crate::scale::{Fit, Scaler};

/// The longest side that can be asked for.
const SIDE_MAX: u64 = 8192;
/// The pixels of one batch may take this much; beyond it the batch fails instead of the process.
const BATCH_BYTES_MAX: usize = 4 << 30;

pub(crate) fn definition() -> Definition {
    Definition::new("resize_image", 1, "Upright RGB8 pixels of one size, as width × height × 3 numbers", |params| {
        let frame = Frame::from_params(params)?;
        let item = Arc::new(Field::new("item", DataType::UInt8, true));
        let pixels = Field::new("pixels", DataType::FixedSizeList(Arc::clone(&item), frame.bytes() as i32), true);
        let start = || Ok((Decoder::default(), Scaler::default()));
        Ok(rows::with_state(vec![pixels], start, move |(decoder, scaler), rows: &Rows<'_>| {
            frame.resize(decoder, scaler, rows, &item)
        }))
    })
    .input(Port::new("image", PortType::Bytes))
    .param("width", ParamType::Unsigned, 224, "Width in pixels, from 1 to 8192")
    .param("height", ParamType::Unsigned, 224, "Height in pixels, from 1 to 8192")
    .param(
        "fit",
        ParamType::Text,
        "stretch",
        "stretch (distort), cover (cut what hangs over) or contain (pad with black)",
    )
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    width: u32,
    height: u32,
    fit: Fit,
}

impl Frame {
    fn from_params(params: &Params) -> Result<Self> {
        let side = |name: &str| match params.unsigned(name)? {
            side @ 1..=SIDE_MAX => Ok(side as u32),
            other => {
                Err(Error::invalid_input(format!("parameter `{name}` must be from 1 to {SIDE_MAX}, found {other}")))
            }
        };
        let fit = match params.text("fit")? {
            "cover" => Fit::Cover,
            "contain" => Fit::Contain,
            "stretch" => Fit::Stretch,
            other => {
                let message = format!("parameter `fit` must be cover, contain or stretch, found `{other}`");
                return Err(Error::invalid_input(message));
            }
        };
        Ok(Self { width: side("width")?, height: side("height")?, fit })
    }

    fn bytes(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }

    /// Decodes and resizes every row straight into the one buffer of the batch.
    fn resize(&self, decoder: &mut Decoder, scaler: &mut Scaler, rows: &Rows<'_>, item: &Arc<Field>) -> Result<Output> {
        let total = self.bytes().saturating_mul(rows.len());
        if total > BATCH_BYTES_MAX {
            return Err(Error::resource_exhausted(format!(
                "{} images of {} × {} pixels need {total} bytes in one batch; use batches of at most {} rows",
                rows.len(),
                self.width,
                self.height,
                BATCH_BYTES_MAX / self.bytes()
            )));
        }
        let mut pixels = vec![0u8; total];
        let target = match self.fit {
            Fit::Contain => Target::Within(self.width, self.height),
            Fit::Cover | Fit::Stretch => Target::Cover(self.width, self.height),
        };
        let (valid, errors) = rows::for_each(rows.column(0).as_binary::<i64>(), |row, bytes| {
            let frame = &mut pixels[row * self.bytes()..(row + 1) * self.bytes()];
            let image = decoder.decode(bytes, target)?;
            let resized = scaler.fill(&image, frame, (self.width, self.height), self.fit);
            decoder.recycle(image);
            resized
        });
        let values: ArrayRef = Arc::new(UInt8Array::from(pixels));
        let valid = NullBuffer::from(valid);
        let list = FixedSizeListArray::try_new(Arc::clone(item), self.bytes() as i32, values, Some(valid))
            .map_err(|source| Error::internal("build the column of pixels").with_source(source))?;
        Ok(Output::from(vec![Arc::new(list) as ArrayRef]).with_errors(errors))
    }
}

#[cfg(test)]
mod tests;
