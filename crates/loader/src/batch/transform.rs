//! Transforms from encoded pictures and videos to tensors.
//!
//! Crops, resizes and flips only change the part of the picture that is seen and its size; their combination is one
//! part of the source, which is cut out and resampled once. Chance comes from the loader's seed, the epoch and the row,
//! so a sample looks the same whichever process loads it.

use arrow::buffer::Buffer;
use cenote_base::{Error, Random, Result};
use cenote_operators_image::{Crop, Framer, ImageSize};
use cenote_operators_video::{ClipFrames, read_clip};

/// A step from the value of a column to a tensor or to blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    /// Decodes a picture, upright, as RGB. Always the first step.
    DecodeImage,
    /// Decodes frames of a video, upright, as RGB; all frames of a clip are cut, resized and mirrored alike. Always the
    /// first step. Tensors have a dimension of frames after the rows.
    DecodeVideo {
        /// Frames in a clip.
        frames: usize,
        /// Milliseconds from frame to frame; `None` spreads the frames over the whole video.
        every_ms: Option<u64>,
        /// Whether a clip begins anywhere in the video, rather than being its middle.
        random: bool,
    },
    /// Stretches to `height` × `width`; without `width`, scales so that the shorter side is `height`.
    Resize {
        /// Height, in pixels.
        height: u32,
        /// Width, in pixels.
        width: Option<u32>,
    },
    /// Cuts out the middle.
    CenterCrop {
        /// Height, in pixels.
        height: u32,
        /// Width, in pixels.
        width: u32,
    },
    /// Cuts out a part of random area and proportions and scales it to size: the usual augmentation for ImageNet
    /// (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015).
    RandomResizedCrop {
        /// Height, in pixels.
        height: u32,
        /// Width, in pixels.
        width: u32,
        /// Smallest and largest share of the area.
        scale: (f64, f64),
        /// Smallest and largest ratio of width to height.
        ratio: (f64, f64),
    },
    /// Mirrors left and right at random.
    RandomHorizontalFlip {
        /// Probability, from 0 to 1.
        probability: f64,
    },
    /// Scales numbers to 0 to 1, subtracts `mean` and divides by `std` for each colour: a `float32` tensor of 3 ×
    /// height × width. Without this step a tensor is `uint8` of height × width × 3. Always the last step.
    Normalize {
        /// Means of red, green and blue.
        mean: [f32; 3],
        /// Standard deviations of red, green and blue.
        std: [f32; 3],
    },
    /// Packs the sequences of a batch, lists of whole numbers, into blocks of `length`. Always the only step of its
    /// column. A second column, whose name is that of the first with `_row` at its end, has the row of each number: -1
    /// for `pad`, which fills the last block.
    Pack {
        /// Numbers in a block.
        length: i32,
        /// The number that pads.
        pad: i64,
    },
}

/// Attempts to draw a random part before the largest possible one is taken, as is customary.
const CROP_TRIES: usize = 10;
/// Longest side of a picture or frame, in pixels.
const SIDE_MAX: u32 = 16_384;
/// Longest clip, in frames.
const FRAMES_MAX: usize = 1024;

/// Checked transforms, whose tensors all have one size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TransformChain {
    steps: Vec<Transform>,
    /// The clip of a video; `None` for pictures.
    clip: Option<Clip>,
    height: u32,
    width: u32,
    normalization: Option<Normalization>,
}

/// The frames of a video that make a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Clip {
    frames: ClipFrames,
    /// Whether it begins anywhere in the video.
    random: bool,
}

/// The mean and the standard deviation of each colour.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Normalization {
    mean: [f32; 3],
    std: [f32; 3],
}

/// A part of the source picture, and the size at which it is seen.
#[derive(Debug, Clone, Copy)]
struct PictureView {
    part: Crop,
    width: f64,
    height: f64,
    mirrored: bool,
}

impl PictureView {
    /// Cuts `width` × `height` out of this view, from (`left`, `top`) on.
    fn cut(self, left: f64, top: f64, width: f64, height: f64) -> Self {
        let (across, down) = (self.part.width / self.width, self.part.height / self.height);
        let left = if self.mirrored { self.width - left - width } else { left };
        let part = Crop {
            left: self.part.left + left * across,
            top: self.part.top + top * down,
            width: width * across,
            height: height * down,
        };
        Self { part, width, height, ..self }
    }

    /// Scales this view to `width` × `height`.
    fn sized(self, width: f64, height: f64) -> Self {
        Self { width, height, ..self }
    }
}

impl TransformChain {
    /// Checks `steps`.
    ///
    /// # Errors
    /// `InvalidInput` for steps in the wrong order, numbers out of range, or tensors that would have different sizes.
    pub(crate) fn new(steps: Vec<Transform>) -> Result<Self> {
        let wrong = |what: &str| Err(Error::invalid_input(format!("transforms: {what}")));
        let clip = match steps.first() {
            Some(Transform::DecodeImage) => None,
            Some(Transform::DecodeVideo { frames: count, every_ms: gap_ms, random }) => {
                if !(1..=FRAMES_MAX).contains(count) {
                    let what = format!("decode_video: a clip has 1 to {FRAMES_MAX} frames, found {count}");
                    return wrong(&what);
                }
                Some(Clip { frames: ClipFrames { count: *count, gap_ms: *gap_ms }, random: *random })
            }
            _ => return wrong("the first step is decode_image or decode_video"),
        };
        let mut size = None;
        let mut normalization = None;
        for step in &steps[1..] {
            if normalization.is_some() {
                return wrong("normalize is the last one");
            }
            match *step {
                Transform::DecodeImage | Transform::DecodeVideo { .. } => {
                    return wrong("decode_image and decode_video only come first");
                }
                Transform::Pack { .. } => return wrong("pack is the only one of its column"),
                Transform::Resize { height, width: None } => {
                    check_side(height, height)?;
                    size = None;
                }
                Transform::Resize { height, width: Some(width) } => size = Some(check_side(height, width)?),
                Transform::CenterCrop { height, width } => size = Some(check_side(height, width)?),
                Transform::RandomResizedCrop { height, width, scale, ratio } => {
                    size = Some(check_side(height, width)?);
                    let ordered = |(from, to): (f64, f64)| from > 0.0 && from <= to && to.is_finite();
                    if !ordered(scale) || scale.1 > 1.0 || !ordered(ratio) {
                        return wrong("random_resized_crop: scale and ratio are (from, to), above 0, scale up to 1");
                    }
                }
                Transform::RandomHorizontalFlip { probability } => {
                    if !(0.0..=1.0).contains(&probability) {
                        return wrong("random_horizontal_flip: a probability is from 0 to 1");
                    }
                }
                Transform::Normalize { mean, std } => {
                    if std.contains(&0.0) || mean.iter().chain(&std).any(|number| !number.is_finite()) {
                        return wrong("normalize: numbers are finite, and std is not 0");
                    }
                    normalization = Some(Normalization { mean, std });
                }
            }
        }
        let Some((height, width)) = size else {
            return wrong(
                "pictures would have different sizes: add random_resized_crop, center_crop or resize(height, width)",
            );
        };
        Ok(Self { steps, clip, height, width, normalization })
    }

    /// Returns the frames of a clip; `None` for pictures.
    fn frames(&self) -> Option<usize> {
        self.clip.map(|clip| clip.frames.count)
    }

    /// Returns the dimensions of the tensor of one row.
    pub(crate) fn shape(&self) -> impl Iterator<Item = usize> {
        let (height, width) = (self.height as usize, self.width as usize);
        self.frames().into_iter().chain(if self.is_float() { [3, height, width] } else { [height, width, 3] })
    }

    /// Returns whether tensors are `float32` of 3 × height × width, rather than `uint8` of height × width × 3.
    pub(super) fn is_float(&self) -> bool {
        self.normalization.is_some()
    }

    /// Returns the count of numbers in the tensor of one row.
    pub(crate) fn numbers(&self) -> usize {
        self.frames().unwrap_or(1) * self.frame_numbers()
    }

    /// Returns the count of numbers in one picture or frame.
    fn frame_numbers(&self) -> usize {
        self.height as usize * self.width as usize * 3
    }

    /// Draws the part of a picture of `size` that is seen, and whether it is mirrored.
    fn view(&self, size: ImageSize, random: &mut Random) -> PictureView {
        let (width, height) = (f64::from(size.width), f64::from(size.height));
        let mut view =
            PictureView { part: Crop { left: 0.0, top: 0.0, width, height }, width, height, mirrored: false };
        for step in &self.steps {
            view = match *step {
                // These see the whole picture; a chain never has a pack.
                Transform::DecodeImage
                | Transform::DecodeVideo { .. }
                | Transform::Normalize { .. }
                | Transform::Pack { .. } => view,
                Transform::Resize { height, width: Some(width) } => view.sized(f64::from(width), f64::from(height)),
                Transform::Resize { height, width: None } => {
                    let factor = f64::from(height) / view.width.min(view.height);
                    view.sized((view.width * factor).round().max(1.0), (view.height * factor).round().max(1.0))
                }
                Transform::CenterCrop { height, width } => {
                    let (width, height) = (f64::from(width), f64::from(height));
                    // A smaller picture is enlarged to cover the frame, where other libraries pad it with black.
                    let factor = (width / view.width).max(height / view.height).max(1.0);
                    let view = view.sized(view.width * factor, view.height * factor);
                    view.cut((view.width - width) / 2.0, (view.height - height) / 2.0, width, height)
                }
                Transform::RandomResizedCrop { height, width, scale, ratio } => {
                    random_part(view, scale, ratio, random).sized(f64::from(width), f64::from(height))
                }
                Transform::RandomHorizontalFlip { probability } => {
                    PictureView { mirrored: view.mirrored != (random.unit() < probability), ..view }
                }
            };
        }
        view
    }

    /// Writes the tensor of one picture or of one clip; `scratch` holds the pixels of a frame.
    ///
    /// # Errors
    /// The reason why the media cannot be decoded, for a user.
    pub(super) fn apply(
        &self,
        framer: &mut Framer,
        bytes: &Buffer,
        random: &mut Random,
        mut tensor: TensorSlice<'_>,
        scratch: &mut Vec<u8>,
    ) -> std::result::Result<(), String> {
        let out = ImageSize { width: self.width, height: self.height };
        let Some(Clip { frames, random: anywhere }) = self.clip else {
            let size = framer.size(bytes)?;
            let view = self.view(size, random);
            return self.write(view, tensor, scratch, |pixels| framer.fill(bytes, size, view.part, pixels, out));
        };
        let place = if anywhere { random.unit() } else { 0.5 };
        let mut view = None;
        read_clip(bytes.clone(), frames, place, |number, decoded, size| {
            let size = ImageSize::from(size);
            let view = *view.get_or_insert_with(|| self.view(size, random));
            let frame = tensor.frame(number, self.frame_numbers());
            self.write(view, frame, scratch, |pixels| framer.fill_decoded(decoded, size, view.part, pixels, out))
        })
    }

    /// Writes the frame of `view`, whose pixels `fill` gives.
    fn write(
        &self,
        view: PictureView,
        frame: TensorSlice<'_>,
        scratch: &mut Vec<u8>,
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), String>,
    ) -> std::result::Result<(), String> {
        match (frame, &self.normalization) {
            (TensorSlice::Float(frame), Some(normalization)) => {
                scratch.resize(self.frame_numbers(), 0);
                fill(scratch)?;
                self.normalize(scratch, view.mirrored, normalization, frame);
            }
            (TensorSlice::Byte(frame), _) => {
                fill(frame)?;
                if view.mirrored {
                    frame.chunks_mut(self.width as usize * 3).for_each(mirror);
                }
            }
            (TensorSlice::Float(_), None) => return Err("a float tensor without normalize".to_owned()),
        }
        Ok(())
    }

    /// Writes the normalised `pixels` to `frame`, colour by colour.
    fn normalize(&self, pixels: &[u8], mirrored: bool, normalization: &Normalization, frame: &mut [f32]) {
        let Normalization { mean, std } = normalization;
        let width = self.width as usize;
        let plane = width * self.height as usize;
        for (colour, plane) in frame.chunks_mut(plane).enumerate() {
            let (factor, offset) = (1.0 / (255.0 * std[colour]), mean[colour] / std[colour]);
            for (line, out) in pixels.chunks(width * 3).zip(plane.chunks_mut(width)) {
                let values = line.chunks_exact(3).map(|pixel| f32::from(pixel[colour]) * factor - offset);
                match mirrored {
                    true => out.iter_mut().rev().zip(values).for_each(|(out, value)| *out = value),
                    false => out.iter_mut().zip(values).for_each(|(out, value)| *out = value),
                }
            }
        }
    }
}

/// The tensor of one row or of one frame, to be written.
pub(super) enum TensorSlice<'a> {
    /// Height × width × 3, for each frame of a clip.
    Byte(&'a mut [u8]),
    /// 3 × height × width, for each frame of a clip.
    Float(&'a mut [f32]),
}

impl TensorSlice<'_> {
    /// Returns frame `number` of a clip whose frames have `numbers` numbers each.
    fn frame(&mut self, number: usize, numbers: usize) -> TensorSlice<'_> {
        let range = number * numbers..(number + 1) * numbers;
        match self {
            TensorSlice::Byte(frames) => TensorSlice::Byte(&mut frames[range]),
            TensorSlice::Float(frames) => TensorSlice::Float(&mut frames[range]),
        }
    }
}

/// Mirrors a line of pixels.
fn mirror(line: &mut [u8]) {
    let pixels = line.len() / 3;
    for at in 0..pixels / 2 {
        for colour in 0..3 {
            line.swap(at * 3 + colour, (pixels - 1 - at) * 3 + colour);
        }
    }
}

/// Checks that both sides are in range, and returns them.
fn check_side(height: u32, width: u32) -> Result<(u32, u32)> {
    let fits = |side: u32| (1..=SIDE_MAX).contains(&side);
    match fits(height) && fits(width) {
        true => Ok((height, width)),
        false => Err(Error::invalid_input(format!(
            "transforms: a side has 1 to {SIDE_MAX} pixels, found {height} × {width}"
        ))),
    }
}

/// Draws the part of `view` for [`Transform::RandomResizedCrop`].
fn random_part(view: PictureView, scale: (f64, f64), ratio: (f64, f64), random: &mut Random) -> PictureView {
    let between = |random: &mut Random, (from, to): (f64, f64)| from + (to - from) * random.unit();
    let area = view.width * view.height;
    for _ in 0..CROP_TRIES {
        let part = area * between(random, scale);
        let proportion = between(random, (ratio.0.ln(), ratio.1.ln())).exp();
        let (width, height) = ((part * proportion).sqrt(), (part / proportion).sqrt());
        if width <= view.width && height <= view.height {
            let left = between(random, (0.0, view.width - width));
            let top = between(random, (0.0, view.height - height));
            return view.cut(left, top, width, height);
        }
    }
    // The largest part in the middle with allowed proportions.
    let proportion = (view.width / view.height).clamp(ratio.0, ratio.1);
    let (width, height) = (view.width.min(view.height * proportion), view.height.min(view.width / proportion));
    view.cut((view.width - width) / 2.0, (view.height - height) / 2.0, width, height)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn view(steps: Vec<Transform>, size: (u32, u32), seed: u64) -> PictureView {
        TransformChain::new([vec![Transform::DecodeImage], steps].concat())
            .unwrap()
            .view(size.into(), &mut Random::new(seed))
    }

    #[test]
    fn resize_and_center_crop_come_to_one_part_of_the_source() {
        let steps =
            vec![Transform::Resize { height: 256, width: None }, Transform::CenterCrop { height: 224, width: 224 }];
        let seen = view(steps, (1024, 512), 0);
        assert_eq!((seen.width, seen.height), (224.0, 224.0));
        assert_eq!(seen.part, Crop { left: 288.0, top: 32.0, width: 448.0, height: 448.0 });
    }

    #[test]
    fn a_picture_smaller_than_the_frame_is_enlarged_to_cover_it() {
        let seen = view(vec![Transform::CenterCrop { height: 100, width: 100 }], (50, 200), 0);
        assert_eq!(seen.part, Crop { left: 0.0, top: 75.0, width: 50.0, height: 50.0 });
    }

    #[test]
    fn random_parts_stay_inside_and_within_their_limits() {
        let (scale, ratio) = ((0.08, 1.0), (0.75, 4.0 / 3.0));
        for seed in 0..500 {
            for size in [(640, 480), (10, 1000), (1, 1)] {
                let step = Transform::RandomResizedCrop { height: 32, width: 32, scale, ratio };
                let part = view(vec![step], size, seed).part;
                assert!(part.left >= 0.0 && part.top >= 0.0 && part.width > 0.0 && part.height > 0.0, "{part:?}");
                assert!(part.left + part.width <= f64::from(size.0) + 1e-6, "{part:?}");
                assert!(part.top + part.height <= f64::from(size.1) + 1e-6, "{part:?}");
                let proportion = part.width / part.height;
                assert!((0.75 - 1e-6..=4.0 / 3.0 + 1e-6).contains(&proportion), "{part:?}");
            }
        }
    }

    #[test]
    fn a_crop_after_a_flip_sees_the_mirrored_picture() {
        let flip = Transform::RandomHorizontalFlip { probability: 1.0 };
        let seen = view(vec![flip, Transform::Resize { height: 10, width: Some(10) }], (100, 100), 0);
        assert!(seen.mirrored);
        assert_eq!(seen.cut(0.0, 0.0, 2.0, 10.0).part, Crop { left: 80.0, top: 0.0, width: 20.0, height: 100.0 });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let says = |steps: Vec<Transform>, text: &str| {
            let error = TransformChain::new(steps).unwrap_err();
            assert!(error.message().contains(text), "{error}");
        };
        says(vec![], "decode_image");
        says(vec![Transform::DecodeImage], "different sizes");
        says(vec![Transform::DecodeImage, Transform::Pack { length: 4, pad: 0 }], "the only one of its column");
        says(vec![Transform::DecodeImage, Transform::Resize { height: 10, width: None }], "different sizes");
        says(vec![Transform::DecodeImage, Transform::CenterCrop { height: 0, width: 5 }], "1 to 16384");
        let normalize = Transform::Normalize { mean: [0.0; 3], std: [1.0; 3] };
        says(vec![Transform::DecodeImage, normalize, Transform::CenterCrop { height: 5, width: 5 }], "the last one");
    }
}
