//! Samples, and the mixing of seeds.

use cenote_base::Random;

/// A row to load: its source, and its number in the selection of that source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sample {
    pub(crate) source: usize,
    pub(crate) row: u64,
    /// The number of whole passes over the rows of its source before this sample. With weights, a row may come several
    /// times in an epoch; otherwise this is 0.
    pub(crate) pass: u64,
}

/// Derives a seed from several numbers.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x5851_f42d_4c95_7f2d, |seed, part| Random::new(seed ^ part).next_u64())
}
