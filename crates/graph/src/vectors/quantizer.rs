//! The rounding of vectors to 8 bits per number.

/// Share of values that the range of codes covers. The rest is clamped, so that outliers do not cost precision.
const COVERED: f64 = 0.9995;
/// Largest code; the smallest is its negative.
const CODE_MAX: f32 = 127.0;

/// A scale of codes: `code = round((value − mean) / step)`, with one mean a dimension and one step for all, so that
/// distances between codes are distances between vectors but for rounding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantizer {
    pub(crate) mean: Vec<f32>,
    pub(crate) step: f32,
}

impl Quantizer {
    /// Learns a scale from sample vectors. `centred` subtracts the mean, which an inner product forbids.
    pub(crate) fn train<'a>(sample: impl Iterator<Item = &'a [f32]> + Clone, dimension: usize, centred: bool) -> Self {
        let mut mean = vec![0f64; dimension];
        if centred {
            let mut count = 0f64;
            for vector in sample.clone() {
                count += 1.0;
                mean.iter_mut().zip(vector).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            mean.iter_mut().for_each(|sum| *sum /= count.max(1.0));
        }
        let mean: Vec<f32> = mean.into_iter().map(|value| value as f32).collect();
        let mut spread: Vec<f32> =
            sample.flat_map(|vector| vector.iter().zip(&mean).map(|(value, mean)| (value - mean).abs())).collect();
        let covered = (spread.len() as f64 * COVERED) as usize;
        let range = match spread.len() {
            0 => 0.0,
            len => *spread.select_nth_unstable_by(covered.min(len - 1), f32::total_cmp).1,
        };
        let step = range / CODE_MAX;
        Self { mean, step: if step.is_normal() { step } else { 1.0 } }
    }

    /// Returns whether the steps differ by a quarter, or a mean by a quarter of the range.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let mut means = self.mean.iter().zip(&other.mean);
        !(0.8..=1.25).contains(&(self.step / other.step))
            || means.any(|(a, b)| (a - b).abs() > other.step * CODE_MAX / 4.0)
    }

    /// Counts the values that are out of range and so lose more than by rounding.
    pub(crate) fn clamped(&self, vector: &[f32]) -> usize {
        let range = self.step * (CODE_MAX + 0.5);
        vector.iter().zip(&self.mean).filter(|(value, mean)| (*value - *mean).abs() > range).count()
    }

    /// Returns the code of each value in turn.
    pub(crate) fn codes(&self, vector: &[f32]) -> impl Iterator<Item = i8> {
        /// `1.5 · 2²³`: adding and subtracting it rounds to a whole number on every processor in two instructions.
        const ROUND: f32 = 12_582_912.0;
        let scale = self.step.recip();
        vector.iter().zip(&self.mean).map(move |(value, mean)| {
            let scaled = ((value - mean) * scale).clamp(-CODE_MAX, CODE_MAX);
            (scaled + ROUND - ROUND) as i8
        })
    }
}

#[cfg(test)]
mod tests {
    use cenote_base::Random;

    use super::*;

    #[test]
    fn a_code_is_within_half_a_step() {
        let mut random = Random::new(3);
        let vectors: Vec<Vec<f32>> =
            (0..500).map(|_| (0..20).map(|at| at as f32 * 100.0 + random.unit() as f32).collect()).collect();
        let quantizer = Quantizer::train(vectors.iter().map(Vec::as_slice), 20, true);
        assert!(quantizer.step < 0.6 / CODE_MAX, "{}", quantizer.step);
        let mut beyond = 0;
        for vector in &vectors {
            for ((code, value), mean) in quantizer.codes(vector).zip(vector).zip(&quantizer.mean) {
                let back = f32::from(code) * quantizer.step + mean;
                beyond += usize::from((back - value).abs() > quantizer.step * 0.55);
            }
        }
        assert!(beyond <= 10, "{beyond} of 10,000");
    }

    #[test]
    fn far_values_are_clamped_and_equal_ones_have_a_step() {
        let quantizer = Quantizer::train([[1f32; 3].as_slice(); 9].into_iter(), 3, true);
        assert_eq!(quantizer.codes(&[1.0, 1e30, -1e30]).collect::<Vec<_>>(), [0, 127, -127]);
        assert_eq!(quantizer.clamped(&[1.0, 1e30, -1e30]), 2);
    }
}
