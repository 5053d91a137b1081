//! The division of an epoch's samples among the sources.

use cenote_base::{Error, Result};

/// The number of samples that each source contributes to an epoch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mixture {
    sources: Vec<SourceShare>,
}

/// A source's part of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SourceShare {
    /// The rows of the source.
    pub(super) rows: u64,
    /// The samples of the source in an epoch.
    pub(super) samples: u64,
}

impl Mixture {
    /// Mixes sources of `rows` rows each. Without weights, each row comes once an epoch. With weights, an epoch has
    /// `epoch_rows` samples (by default as many as all rows), divided in proportion to the weights, and each source
    /// continues where it stopped in the previous epoch: a row comes again only after all other rows of its source have
    /// come as often.
    ///
    /// # Errors
    /// `InvalidInput` for weights that are not positive numbers, a source without rows, or an epoch without samples.
    pub(crate) fn new(rows: Vec<u64>, weights: Option<&[f64]>, epoch_rows: Option<u64>) -> Result<Self> {
        let total: u64 = rows.iter().sum();
        if total == 0 {
            return Err(Error::invalid_input(
                "there are no rows to load: the table is empty, or nothing satisfies `where`",
            ));
        }
        let samples = match (weights, epoch_rows) {
            (None, None) => rows.clone(),
            (None, Some(_)) => return Err(Error::invalid_input("epoch_rows is only for sources with weights")),
            (Some(_), Some(0)) => return Err(Error::invalid_input("an epoch has one sample or more: epoch_rows is 0")),
            (Some(weights), epoch_rows) => {
                if weights.iter().any(|weight| !weight.is_finite() || *weight <= 0.0) {
                    return Err(Error::invalid_input("weights must be positive numbers"));
                }
                if let Some(empty) = rows.iter().position(|rows| *rows == 0) {
                    return Err(Error::invalid_input(format!(
                        "source {empty} of the mixture has a weight and no rows"
                    )));
                }
                divide(epoch_rows.unwrap_or(total), weights)
            }
        };
        let share = |(rows, samples)| SourceShare { rows, samples };
        Ok(Self { sources: rows.into_iter().zip(samples).map(share).collect() })
    }

    /// Returns the part of each source in an epoch.
    pub(super) fn sources(&self) -> &[SourceShare] {
        &self.sources
    }

    /// Returns the number of samples in an epoch.
    pub(crate) fn epoch_rows(&self) -> u64 {
        self.sources.iter().map(|source| source.samples).sum()
    }
}

/// Bits of a double below its exponent.
const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;

/// Divides `total` into whole parts in proportion to `weights`: the parts with the largest remainders are rounded up.
fn divide(total: u64, weights: &[f64]) -> Vec<u64> {
    // Scaled to at most 2, so that neither the sum nor a product overflows. Division by a power of two is exact, so
    // weights of any size are divided alike.
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let unit = f64::from_bits(largest.to_bits() >> MANTISSA_BITS << MANTISSA_BITS);
    let weights: Vec<f64> = weights.iter().map(|weight| weight / unit).collect();
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| total as f64 * weight / sum).collect();
    let mut missing = total;
    let mut parts = Vec::with_capacity(exact.len());
    for part in &exact {
        // Beyond 2^53 samples the parts are rounded, and could add up to more than the total.
        let part = (part.floor() as u64).min(missing);
        missing -= part;
        parts.push(part);
    }
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()).then(a.cmp(b)));
    by_remainder.into_iter().cycle().take(missing as usize).for_each(|at| parts[at] += 1);
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_add_up() {
        for total in [1, 10, 999, 1 << 60, u64::MAX] {
            for weights in
                [&[1.0][..], &[1.0, 1.0, 1.0], &[0.1, 0.2, 0.7], &[1e-9, 1.0], &[f64::MAX, 1.0], &[f64::MAX; 3]]
            {
                assert_eq!(divide(total, weights).iter().sum::<u64>(), total, "{total} by {weights:?}");
            }
        }
        assert_eq!(divide(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
    }

    #[test]
    fn the_unit_of_the_weights_does_not_matter() {
        for unit in [f64::MIN_POSITIVE, 1.0, f64::MAX / 4.0] {
            assert_eq!(divide(40, &[3.0 * unit, unit]), [30, 10], "in units of {unit:e}");
        }
    }

    #[test]
    fn an_epoch_without_samples_is_refused() {
        let error = Mixture::new(vec![3], Some(&[1.0]), Some(0)).unwrap_err();
        assert_eq!(error.message(), "an epoch has one sample or more: epoch_rows is 0");
    }
}
