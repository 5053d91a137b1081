//! Sizes and parts of pictures, without their pixels.

use cenote_base::{Error, Result};
pub use cenote_device::resize::Crop;
use cenote_device::resize::Placement;
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
    pub(crate) fn layout(self, size: (u32, u32), frame: (u32, u32)) -> Layout {
        let crop = Crop::whole(size.0, size.1);
        let placement = Placement { left: 0, top: 0, width: frame.0, height: frame.1 };
        match self {
            Self::Stretch => Layout { crop, placement },
            Self::Cover => {
                let CropBox { left, top, width, height } =
                    CropBox::fit_src_into_dst_size(size.0, size.1, frame.0, frame.1, None);
                Layout { crop: Crop { left, top, width, height }, placement }
            }
            Self::Contain => {
                let (width, height) = fit_inside(size, frame);
                let (left, top) = ((frame.0 - width) / 2, (frame.1 - height) / 2);
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
    /// The width and height of the picture.
    pub(crate) size: (u32, u32),
    /// The width and height of the frame.
    pub(crate) frame: (u32, u32),
}

impl View {
    /// Returns the least size of the whole picture at which the part has as many pixels as the frame.
    pub(crate) fn size_min(&self) -> (u32, u32) {
        let whole = |side: u32, out: u32, part: f64| (f64::from(side) * f64::from(out) / part).ceil() as u32;
        let (Crop { width, height, .. }, size, frame) = (self.crop, self.size, self.frame);
        (whole(size.0, frame.0, width), whole(size.1, frame.1, height))
    }
}

/// Returns the size of a picture of `size` when shrunk, in its proportions, into `bounds`. A picture that fits keeps
/// its size.
pub(crate) fn fit_within(size: (u32, u32), bounds: (u32, u32)) -> (u32, u32) {
    scaled(size, bounds, 1.0)
}

/// Returns the size of the largest picture with the proportions of `size` inside `bounds`, enlarged if need be.
fn fit_inside(size: (u32, u32), bounds: (u32, u32)) -> (u32, u32) {
    scaled(size, bounds, f64::INFINITY)
}

fn scaled(size: (u32, u32), bounds: (u32, u32), ratio_max: f64) -> (u32, u32) {
    let ratio = |side: u32, bound: u32| f64::from(bound) / f64::from(side);
    let ratio = ratio(size.0, bounds.0).min(ratio(size.1, bounds.1)).min(ratio_max);
    let scaled = |side: u32, bound: u32| ((f64::from(side) * ratio).round() as u32).clamp(1, bound);
    (scaled(size.0, bounds.0), scaled(size.1, bounds.1))
}
