//! Sizes and parts of pictures, without their pixels.

use cenote_base::{Error, Result};
use cenote_device::resize::Placement;
pub use cenote_device::resize::{Crop, ImageSize};
use fast_image_resize::CropBox;

/// The way a picture meets a frame of other proportions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Fills the frame; the overhang is cut off on both sides alike.
    Cover,
    /// Lies inside the frame, centred on black.
    Contain,
    /// Is distorted to the frame.
    Stretch,
}

/// The part of a picture that goes into a frame, and the part of the frame that it fills.
pub(crate) struct Layout {
    pub(crate) crop: Crop,
    pub(crate) placement: Placement,
}

impl Fit {
    /// Parses the name of a fit.
    ///
    /// # Errors
    /// `InvalidInput` for any other text.
    pub(crate) fn parse(name: &str) -> Result<Self> {
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

    /// Lays a picture of `size` out in `frame`.
    pub(crate) fn layout(self, size: ImageSize, frame: ImageSize) -> Layout {
        let crop = Crop::whole(size.width, size.height);
        let placement = Placement { left: 0, top: 0, width: frame.width, height: frame.height };
        match self {
            Self::Stretch => Layout { crop, placement },
            Self::Cover => {
                let CropBox { left, top, width, height } =
                    CropBox::fit_src_into_dst_size(size.width, size.height, frame.width, frame.height, None);
                Layout { crop: Crop { left, top, width, height }, placement }
            }
            Self::Contain => {
                let ImageSize { width, height } = fit_inside(size, frame);
                let (left, top) = ((frame.width - width) / 2, (frame.height - height) / 2);
                Layout { crop, placement: Placement { left, top, width, height } }
            }
        }
    }
}

/// A part of a picture that is to be resized to a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// The part, in upright pixels of the picture.
    pub(crate) crop: Crop,
    /// The size of the picture.
    pub(crate) size: ImageSize,
    /// The size of the frame.
    pub(crate) frame: ImageSize,
}

impl View {
    /// Returns the least size of the whole picture at which the part has as many pixels as the frame.
    pub(crate) fn size_min(&self) -> ImageSize {
        let whole = |side: u32, out: u32, part: f64| (f64::from(side) * f64::from(out) / part).ceil() as u32;
        let Self { crop, size, frame } = self;
        ImageSize {
            width: whole(size.width, frame.width, crop.width),
            height: whole(size.height, frame.height, crop.height),
        }
    }
}

/// Returns the size of a picture of `size` when shrunk, in its proportions, into `bounds`. A picture that fits keeps
/// its size.
pub(crate) fn fit_within(size: ImageSize, bounds: ImageSize) -> ImageSize {
    scaled(size, bounds, 1.0)
}

/// Returns the size of the largest picture with the proportions of `size` inside `bounds`, enlarged if need be.
fn fit_inside(size: ImageSize, bounds: ImageSize) -> ImageSize {
    scaled(size, bounds, f64::INFINITY)
}

/// Scales `size` by the largest ratio, up to `ratio_max`, at which it fits into `bounds`.
fn scaled(size: ImageSize, bounds: ImageSize, ratio_max: f64) -> ImageSize {
    let ratio = |side: u32, bound: u32| f64::from(bound) / f64::from(side);
    let ratio = ratio(size.width, bounds.width).min(ratio(size.height, bounds.height)).min(ratio_max);
    let scaled = |side: u32, bound: u32| ((f64::from(side) * ratio).round() as u32).clamp(1, bound);
    ImageSize { width: scaled(size.width, bounds.width), height: scaled(size.height, bounds.height) }
}
