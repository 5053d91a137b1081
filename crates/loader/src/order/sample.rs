//! A sample, and the seeds that chance is drawn from.

use cenote_base::Random;

/// A row: which source it is of, and its number in that source's selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sample {
    pub(crate) source: usize,
    pub(crate) row: u64,
    /// How often all rows of its source came before, where weights have them come again: a row may come several times
    /// an epoch.
    pub(crate) pass: u64,
}

/// A seed from several.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x5851_f42d_4c95_7f2d, |seed, part| Random::new(seed ^ part).next_u64())
}
