//! Resampling with SIMD, from one pixel buffer into another.

use std::ops::Deref;

use cenote_base::Error;
use cenote_device::resize::Crop;
use cenote_device::resize::frames::Part;
use fast_image_resize::images::{CroppedImageMut, Image, ImageRef};
use fast_image_resize::{CropBox, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{GrayImage, ImageBuffer, Rgb, RgbImage};

use crate::decode::fit_within;

/// How a picture meets a frame of other proportions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Fills the frame; what hangs over is cut off on both sides alike.
    Cover,
    /// Lies inside the frame, centred on black.
    Contain,
    /// Is distorted to the frame.
    Stretch,
}

impl Fit {
    /// # Errors
    /// `InvalidInput` for a name that no fit has.
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "cover" => Ok(Self::Cover),
            "contain" => Ok(Self::Contain),
            "stretch" => Ok(Self::Stretch),
            other => {
                Err(Error::invalid_input(format!("parameter `fit` must be cover, contain or stretch, found `{other}`")))
            }
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cover => "cover",
            Self::Contain => "contain",
            Self::Stretch => "stretch",
        }
    }

    /// The part of a picture of `size` that goes into a frame, and where it goes.
    pub(crate) fn layout(self, (width, height): (u32, u32), (frame_width, frame_height): (u32, u32)) -> (Part, Crop) {
        let (part, frame) =
            (Part::whole(width, height), Crop { left: 0, top: 0, width: frame_width, height: frame_height });
        match self {
            Self::Stretch => (part, frame),
            Self::Cover => {
                let CropBox { left, top, width, height } =
                    CropBox::fit_src_into_dst_size(width, height, frame_width, frame_height, None);
                (Part { left, top, width, height }, frame)
            }
            Self::Contain => {
                let (width, height) = fit_inside(width, height, frame_width, frame_height);
                (part, Crop { left: (frame_width - width) / 2, top: (frame_height - height) / 2, width, height })
            }
        }
    }
}

/// A resampler that keeps its buffers between pictures. The filter is a triangle that widens with the reduction, as
/// Pillow's `BILINEAR` is: no aliasing.
#[derive(Default)]
pub(crate) struct Scaler(Resizer);

pub(crate) fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false)
}

impl Scaler {
    /// Writes `image` into `frame`, which holds `width` × `height` black RGB8 pixels.
    pub(crate) fn fill<P: Deref<Target = [u8]>>(
        &mut self,
        image: &ImageBuffer<Rgb<u8>, P>,
        frame: &mut [u8],
        (width, height): (u32, u32),
        fit: Fit,
    ) -> Result<(), String> {
        let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).map_err(text)?;
        let mut target = Image::from_slice_u8(width, height, frame, PixelType::U8x3).map_err(text)?;
        let (part, place) = fit.layout(image.dimensions(), (width, height));
        let options = options().crop(part.left, part.top, part.width, part.height);
        if fit == Fit::Contain {
            let inner = CroppedImageMut::new(&mut target, place.left, place.top, place.width, place.height);
            return self.0.resize(&source, &mut inner.map_err(text)?, &options).map_err(text);
        }
        self.0.resize(&source, &mut target, &options).map_err(text)
    }

    /// `image` shrunk, in its proportions, so that no side is longer than `side`; one that is small enough comes back.
    pub(crate) fn within(&mut self, image: RgbImage, side: u32) -> Result<RgbImage, String> {
        let (width, height) = fit_within(image.width(), image.height(), side, side);
        if (width, height) == image.dimensions() {
            return Ok(image);
        }
        let mut small = RgbImage::new(width, height);
        self.fill(&image, &mut small, (width, height), Fit::Stretch)?;
        Ok(small)
    }

    /// `luma` resampled to `width` × `height`.
    pub(crate) fn luma(&mut self, luma: &GrayImage, width: u32, height: u32) -> Result<GrayImage, String> {
        let mut small = GrayImage::new(width, height);
        let source = ImageRef::new(luma.width(), luma.height(), luma.as_raw(), PixelType::U8).map_err(text)?;
        let mut target = Image::from_slice_u8(width, height, &mut small, PixelType::U8).map_err(text)?;
        self.0.resize(&source, &mut target, &options()).map_err(text)?;
        Ok(small)
    }
}

/// The size of the largest picture of these proportions inside the frame, enlarged if need be.
fn fit_inside(width: u32, height: u32, frame_width: u32, frame_height: u32) -> (u32, u32) {
    let ratio = (f64::from(frame_width) / f64::from(width)).min(f64::from(frame_height) / f64::from(height));
    let scaled = |side: u32, max: u32| ((f64::from(side) * ratio).round() as u32).clamp(1, max);
    (scaled(width, frame_width), scaled(height, frame_height))
}

fn text(error: impl std::fmt::Display) -> String {
    format!("cannot be resized: {error}")
}
