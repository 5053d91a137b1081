//! `thumbnail_image`: a small JPEG to look at.

use std::sync::Arc;

use arrow::array::{ArrayRef, LargeBinaryBuilder};
use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use cenote_operator::{Definition, Output, ParamType, Port, PortType, Rows};
use turbojpeg::{Compressor, PixelFormat, Subsamp};

use crate::decode::{DecodeTarget, Decoder};
use crate::rows;
use crate::scale::Scaler;

pub(crate) fn definition() -> Definition {
    Definition::new("thumbnail_image", 2, "A small upright JPEG in the picture's proportions", |params| {
        let (side, quality) = (params.unsigned_in("size", 1..=4096)?, params.unsigned_in("quality", 1..=100)?);
        let field = Field::new("thumbnail", DataType::LargeBinary, true);
        Ok(rows::with_state(
            vec![field],
            move || Thumbnailer::new(quality as i32),
            move |thumbnailer, rows| thumbnailer.process(rows, side as u32),
        ))
    })
    .input(Port::new("image", PortType::Bytes))
    .param(
        "size",
        ParamType::Unsigned,
        160,
        "The longer side in pixels, from 1 to 4096; smaller pictures keep their size",
    )
    .param("quality", ParamType::Unsigned, 80, "JPEG quality, from 1 to 100")
}

struct Thumbnailer {
    decoder: Decoder,
    scaler: Scaler,
    compressor: Compressor,
}

impl Thumbnailer {
    fn new(quality: i32) -> Result<Self> {
        let broken = |source: turbojpeg::Error| Error::internal("start the JPEG compressor").with_source(source);
        let mut compressor = Compressor::new().map_err(broken)?;
        compressor.set_quality(quality).map_err(broken)?;
        compressor.set_subsamp(Subsamp::Sub2x2).map_err(broken)?;
        Ok(Self { decoder: Decoder::default(), scaler: Scaler::default(), compressor })
    }

    fn process(&mut self, rows: &Rows<'_>, side: u32) -> Result<Output> {
        let (thumbnails, errors) = rows::map(rows, |bytes| self.thumbnail(bytes, side))?;
        let mut column = LargeBinaryBuilder::new();
        thumbnails.iter().for_each(|jpeg| column.append_option(jpeg.as_deref()));
        Ok(Output::from(vec![Arc::new(column.finish()) as ArrayRef]).with_errors(errors))
    }

    fn thumbnail(&mut self, bytes: &[u8], side: u32) -> Result<turbojpeg::OwnedBuf, String> {
        let image = self.scaler.within(self.decoder.decode(bytes, DecodeTarget::Within(side, side))?, side)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let format = PixelFormat::RGB;
        let source = turbojpeg::Image { pixels: image.as_raw().as_slice(), width, pitch: width * 3, height, format };
        let jpeg = self.compressor.compress_to_owned(source).map_err(|error| format!("cannot be compressed: {error}"));
        self.decoder.recycle(image);
        jpeg
    }
}

#[cfg(test)]
mod tests;
