//! From encoded pictures and videos to tensors: transforms, of which only the geometry is computed until all are known.
//!
//! Every crop, resize and flip says which part of the picture is looked at, and at what size. What they come to is one part of the
//! source, cut out and resampled once. Chance comes from the loader's seed, the epoch and the row, so a sample looks the same whoever
//! loads it.

use arrow::buffer::Buffer;
use cenote_base::{Error, Random, Result};
use cenote_operators_image::{Framer, Part};
use cenote_operators_video::{ClipFrames, read_clip};
use serde::{Deserialize, Serialize};

/// A step from an encoded picture or video to a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Transform {
    /// Reads the picture, upright, as RGB. Always the first.
    DecodeImage,
    /// Reads frames of a video, upright, as RGB; those of a clip are cut, resized and mirrored alike. Always the first. Tensors have one
    /// dimension more, behind the rows: frames.
    DecodeVideo {
        /// How many.
        frames: usize,
        /// Milliseconds from one to the next; `None`: they are spread over the whole video.
        every_ms: Option<u64>,
        /// Whether a clip begins anywhere in the video, rather than is its middle.
        random: bool,
    },
    /// Stretches to `height` × `width`; without `width`, shrinks or enlarges so that the shorter side is `height`.
    Resize {
        /// Pixels.
        height: u32,
        /// Pixels.
        width: Option<u32>,
    },
    /// Cuts the middle out.
    CenterCrop {
        /// Pixels.
        height: u32,
        /// Pixels.
        width: u32,
    },
    /// Cuts out a part of random area and proportions, and scales it to size: the augmentation that ImageNet is trained with
    /// (Szegedy et al.: "Going Deeper with Convolutions", CVPR 2015).
    RandomResizedCrop {
        /// Pixels.
        height: u32,
        /// Pixels.
        width: u32,
        /// The part's share of the area, from and to.
        scale: (f64, f64),
        /// The part's width by its height, from and to.
        ratio: (f64, f64),
    },
    /// Mirrors left and right.
    RandomHorizontalFlip {
        /// How likely, from 0 to 1.
        probability: f64,
    },
    /// Gives numbers from 0 to 1, less `mean` and divided by `std` for each colour, as `float32` of 3 × height × width. Without it a
    /// tensor is `uint8` of height × width × 3. Always the last.
    Normalize {
        /// For red, green and blue.
        mean: [f32; 3],
        /// For red, green and blue.
        std: [f32; 3],
    },
    /// Puts the sequences of a batch, lists of whole numbers, one after the other into blocks of `length`; the only one of its column.
    /// Which row each number is of stands in a second column, called after the first with `_row` at its end: -1 for `pad`, which fills the
    /// last block up.
    Pack {
        /// Numbers.
        length: i32,
        /// The number that fills up.
        pad: i64,
    },
}

/// Tries of a random part before the largest possible one is taken, as is customary.
const CROP_TRIES: usize = 10;
/// Larger frames are refused.
const SIDE_MAX: u32 = 16_384;
/// Longer clips are refused.
const FRAMES_MAX: usize = 1024;

/// Transforms that were checked: what they make has one size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chain {
    steps: Vec<Transform>,
    /// Of videos: which frames, and whether a clip begins anywhere.
    clip: Option<(ClipFrames, bool)>,
    height: u32,
    width: u32,
    normalize: Option<([f32; 3], [f32; 3])>,
}

/// A part of the source, and the size at which it is seen.
#[derive(Debug, Clone, Copy)]
struct View {
    part: Part,
    width: f64,
    height: f64,
    mirrored: bool,
}

impl View {
    /// The part from (`left`, `top`) on of what is seen, `width` × `height` of what is seen.
    fn cut(self, left: f64, top: f64, width: f64, height: f64) -> Self {
        let (across, down) = (self.part.width / self.width, self.part.height / self.height);
        let left = if self.mirrored { self.width - left - width } else { left };
        let part = Part {
            left: self.part.left + left * across,
            top: self.part.top + top * down,
            width: width * across,
            height: height * down,
        };
        Self { part, width, height, ..self }
    }

    fn sized(self, width: f64, height: f64) -> Self {
        Self { width, height, ..self }
    }
}

impl Chain {
    /// # Errors
    /// `InvalidInput` for an order or numbers that make no sense, or pictures that would come out at different sizes.
    pub(crate) fn new(steps: Vec<Transform>) -> Result<Self> {
        let wrong = |what: &str| Err(Error::invalid_input(format!("transforms: {what}")));
        let clip = match steps.first() {
            Some(Transform::DecodeImage) => None,
            Some(Transform::DecodeVideo { frames: count, every_ms: gap_ms, random }) => {
                if !(1..=FRAMES_MAX).contains(count) {
                    let what = format!("decode_video: a clip has 1 to {FRAMES_MAX} frames, found {count}");
                    return wrong(&what);
                }
                Some((ClipFrames { count: *count, gap_ms: *gap_ms }, *random))
            }
            _ => return wrong("the first one is decode_image or decode_video"),
        };
        let mut size = None;
        let mut normalize = None;
        for step in &steps[1..] {
            if normalize.is_some() {
                return wrong("normalize is the last one");
            }
            match *step {
                Transform::DecodeImage | Transform::DecodeVideo { .. } => return wrong("what decodes comes once"),
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
                    normalize = Some((mean, std));
                }
            }
        }
        let Some((height, width)) = size else {
            return wrong(
                "pictures would have different sizes: add random_resized_crop, center_crop or resize(height, width)",
            );
        };
        Ok(Self { steps, clip, height, width, normalize })
    }

    /// Frames of a video; `None` for pictures.
    pub(crate) fn frames(&self) -> Option<usize> {
        self.clip.map(|(frames, _)| frames.count)
    }

    /// Height, width.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.height, self.width)
    }

    /// Whether tensors are `float32` of 3 × height × width, rather than `uint8` of height × width × 3.
    pub(crate) fn is_float(&self) -> bool {
        self.normalize.is_some()
    }

    /// Numbers of one tensor.
    pub(crate) fn numbers(&self) -> usize {
        self.frames().unwrap_or(1) * self.frame_numbers()
    }

    /// Numbers of one picture or frame.
    fn frame_numbers(&self) -> usize {
        self.height as usize * self.width as usize * 3
    }

    /// Which part of a picture of `size` (width, height) is seen, and whether mirrored.
    fn view(&self, size: (u32, u32), random: &mut Random) -> View {
        let (width, height) = (f64::from(size.0), f64::from(size.1));
        let mut view = View { part: Part { left: 0.0, top: 0.0, width, height }, width, height, mirrored: false };
        for step in &self.steps {
            view = match *step {
                // They look at the whole picture; a chain has no pack.
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
                    // A smaller picture is enlarged to cover the frame, where others would pad it with black.
                    let factor = (width / view.width).max(height / view.height).max(1.0);
                    let view = view.sized(view.width * factor, view.height * factor);
                    view.cut((view.width - width) / 2.0, (view.height - height) / 2.0, width, height)
                }
                Transform::RandomResizedCrop { height, width, scale, ratio } => {
                    random_part(view, scale, ratio, random).sized(f64::from(width), f64::from(height))
                }
                Transform::RandomHorizontalFlip { probability } => {
                    View { mirrored: view.mirrored != (random.unit() < probability), ..view }
                }
            };
        }
        view
    }

    /// Writes the tensor of one picture, or of one clip; `scratch` is for the pixels of a frame.
    ///
    /// # Errors
    /// A reason for the person who looks at the row.
    pub(crate) fn apply(
        &self,
        framer: &mut Framer,
        bytes: &Buffer,
        random: &mut Random,
        mut frame: Frame<'_>,
        scratch: &mut Vec<u8>,
    ) -> std::result::Result<(), String> {
        let out = (self.width, self.height);
        let Some((frames, is_random)) = self.clip else {
            let size = framer.size(bytes)?;
            let view = self.view(size, random);
            return self.write(view, frame, scratch, |pixels| framer.fill(bytes, size, view.part, pixels, out));
        };
        let place = if is_random { random.unit() } else { 0.5 };
        let mut view = None;
        read_clip(bytes.clone(), frames, place, |number, decoded, size| {
            let view = *view.get_or_insert_with(|| self.view(size, random));
            let frame = frame.part(number, self.frame_numbers());
            self.write(view, frame, scratch, |pixels| framer.fill_decoded(decoded, size, view.part, pixels, out))
        })
    }

    /// Writes what `fill` makes of `view`.
    fn write(
        &self,
        view: View,
        frame: Frame<'_>,
        scratch: &mut Vec<u8>,
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), String>,
    ) -> std::result::Result<(), String> {
        match (frame, &self.normalize) {
            (Frame::Float(frame), Some((mean, std))) => {
                scratch.resize(self.frame_numbers(), 0);
                fill(scratch)?;
                self.normalized(scratch, view.mirrored, mean, std, frame);
            }
            (Frame::Byte(frame), _) => {
                fill(frame)?;
                if view.mirrored {
                    frame.chunks_mut(self.width as usize * 3).for_each(mirror);
                }
            }
            (Frame::Float(_), None) => return Err("a float tensor without normalize".to_owned()),
        }
        Ok(())
    }

    fn normalized(&self, pixels: &[u8], mirrored: bool, mean: &[f32; 3], std: &[f32; 3], frame: &mut [f32]) {
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

/// Where a tensor goes.
pub(crate) enum Frame<'a> {
    /// Height × width × 3; of a clip, one frame behind the other.
    Byte(&'a mut [u8]),
    /// 3 × height × width; of a clip, one frame behind the other.
    Float(&'a mut [f32]),
}

impl Frame<'_> {
    /// Where the frame with this number goes, of those of a clip that have so many `numbers`.
    fn part(&mut self, number: usize, numbers: usize) -> Frame<'_> {
        let range = number * numbers..(number + 1) * numbers;
        match self {
            Frame::Byte(frames) => Frame::Byte(&mut frames[range]),
            Frame::Float(frames) => Frame::Float(&mut frames[range]),
        }
    }
}

fn mirror(line: &mut [u8]) {
    let pixels = line.len() / 3;
    for at in 0..pixels / 2 {
        for colour in 0..3 {
            line.swap(at * 3 + colour, (pixels - 1 - at) * 3 + colour);
        }
    }
}

fn check_side(height: u32, width: u32) -> Result<(u32, u32)> {
    let fits = |side: u32| (1..=SIDE_MAX).contains(&side);
    match fits(height) && fits(width) {
        true => Ok((height, width)),
        false => Err(Error::invalid_input(format!(
            "transforms: a side has 1 to {SIDE_MAX} pixels, found {height} × {width}"
        ))),
    }
}

fn random_part(view: View, scale: (f64, f64), ratio: (f64, f64), random: &mut Random) -> View {
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
    // The largest part in the middle whose proportions are allowed.
    let proportion = (view.width / view.height).clamp(ratio.0, ratio.1);
    let (width, height) = (view.width.min(view.height * proportion), view.height.min(view.width / proportion));
    view.cut((view.width - width) / 2.0, (view.height - height) / 2.0, width, height)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn view(steps: Vec<Transform>, size: (u32, u32), seed: u64) -> View {
        Chain::new([vec![Transform::DecodeImage], steps].concat()).unwrap().view(size, &mut Random::new(seed))
    }

    #[test]
    fn resize_and_center_crop_come_to_one_part_of_the_source() {
        let steps =
            vec![Transform::Resize { height: 256, width: None }, Transform::CenterCrop { height: 224, width: 224 }];
        let seen = view(steps, (1024, 512), 0);
        assert_eq!((seen.width, seen.height), (224.0, 224.0));
        assert_eq!(seen.part, Part { left: 288.0, top: 32.0, width: 448.0, height: 448.0 });
    }

    #[test]
    fn a_picture_smaller_than_the_frame_is_enlarged_to_cover_it() {
        let seen = view(vec![Transform::CenterCrop { height: 100, width: 100 }], (50, 200), 0);
        assert_eq!(seen.part, Part { left: 0.0, top: 75.0, width: 50.0, height: 50.0 });
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
        assert_eq!(seen.cut(0.0, 0.0, 2.0, 10.0).part, Part { left: 80.0, top: 0.0, width: 20.0, height: 100.0 });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let says = |steps: Vec<Transform>, text: &str| {
            let error = Chain::new(steps).unwrap_err();
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
