//! Resampling with SIMD, from one pixel buffer into another.

use std::ops::Deref;

use fast_image_resize::images::{CroppedImageMut, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{GrayImage, ImageBuffer, Rgb, RgbImage};

use crate::geometry::{Fit, ImageSize, Layout, fit_within};

/// A resampler that keeps its buffers between pictures.
#[derive(Default)]
pub(crate) struct Scaler(Resizer);

/// Returns the options of a triangle filter that widens with the reduction, as Pillow's `BILINEAR` does, so that
/// nothing aliases.
pub(crate) fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false)
}

impl Scaler {
    /// Writes `image` into `frame`, which holds black RGB8 pixels of `size`.
    pub(crate) fn fill<P: Deref<Target = [u8]>>(
        &mut self,
        image: &ImageBuffer<Rgb<u8>, P>,
        frame: &mut [u8],
        size: ImageSize,
        fit: Fit,
    ) -> Result<(), String> {
        let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).map_err(reason)?;
        let mut target = Image::from_slice_u8(size.width, size.height, frame, PixelType::U8x3).map_err(reason)?;
        let Layout { crop, placement } = fit.layout(image.dimensions().into(), size);
        let options = options().crop(crop.left, crop.top, crop.width, crop.height);
        if fit == Fit::Contain {
            let inner =
                CroppedImageMut::new(&mut target, placement.left, placement.top, placement.width, placement.height);
            return self.0.resize(&source, &mut inner.map_err(reason)?, &options).map_err(reason);
        }
        self.0.resize(&source, &mut target, &options).map_err(reason)
    }

    /// Shrinks `image`, in its proportions, so that no side is longer than `side`. Returns it as it is if it is small
    /// enough.
    pub(crate) fn within(&mut self, image: RgbImage, side: u32) -> Result<RgbImage, String> {
        let size = ImageSize::from(image.dimensions());
        let smaller = fit_within(size, ImageSize { width: side, height: side });
        if smaller == size {
            return Ok(image);
        }
        let mut small = RgbImage::new(smaller.width, smaller.height);
        self.fill(&image, &mut small, smaller, Fit::Stretch)?;
        Ok(small)
    }

    /// Resamples `luma` to `width` × `height`.
    pub(crate) fn luma(&mut self, luma: &GrayImage, width: u32, height: u32) -> Result<GrayImage, String> {
        let mut small = GrayImage::new(width, height);
        let source = ImageRef::new(luma.width(), luma.height(), luma.as_raw(), PixelType::U8).map_err(reason)?;
        let mut target = Image::from_slice_u8(width, height, &mut small, PixelType::U8).map_err(reason)?;
        self.0.resize(&source, &mut target, &options()).map_err(reason)?;
        Ok(small)
    }
}

/// Returns the reason for the person who looks at the row.
pub(crate) fn reason(error: impl std::fmt::Display) -> String {
    format!("cannot be resized: {error}")
}
