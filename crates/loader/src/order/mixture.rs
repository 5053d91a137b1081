//! The division of an epoch's samples among the sources.

use cenote_base::{Error, Result};

/// The number of samples that each source contributes to an epoch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mixture {
    /// The rows of each source.
    rows: Vec<u64>,
    /// The samples of each source in an epoch.
    samples: Vec<u64>,
}

impl Mixture {
    /// Mixes sources of `rows` rows each. Without weights, each row comes once an epoch. With weights, an epoch has
    /// `epoch_rows` samples (by default as many as all rows), divided in proportion to the weights, and each source
    /// continues where it stopped in the previous epoch: a row comes again only after all other rows of its source have
    /// come as often.
    ///
    /// # Errors
    /// `InvalidInput` for weights that are not positive numbers, or a source without rows.
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
        Ok(Self { rows, samples })
    }

    /// Returns the number of rows and the number of samples in an epoch of each source.
    pub(super) fn sources(&self) -> impl Iterator<Item = (u64, u64)> {
        self.rows.iter().copied().zip(self.samples.iter().copied())
    }

    /// Returns the number of samples in an epoch.
    pub(crate) fn epoch_rows(&self) -> u64 {
        self.samples.iter().sum()
    }
}

/// Divides `total` into whole parts in proportion to `weights`: the parts with the largest remainders are rounded up.
fn divide(total: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| total as f64 * weight / sum).collect();
    let mut parts: Vec<u64> = exact.iter().map(|part| part.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder
        .sort_by(|a, b| (exact[*b] - exact[*b].floor()).total_cmp(&(exact[*a] - exact[*a].floor())).then(a.cmp(b)));
    let missing = total - parts.iter().sum::<u64>().min(total);
    by_remainder.into_iter().cycle().take(missing as usize).for_each(|at| parts[at] += 1);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        for total in [0, 1, 10, 999] {
            for weights in [&[1.0][..], &[1.0, 1.0, 1.0], &[0.1, 0.2, 0.7], &[1e-9, 1.0]] {
                assert_eq!(divide(total, weights).iter().sum::<u64>(), total);
            }
        }
        assert_eq!(divide(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
    }
}
