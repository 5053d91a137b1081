//! The options of a graph: plain data.

use std::fmt;
use std::str::FromStr;

use cenote_base::{ByteSize, Error, Result};
use serde::{Deserialize, Serialize};

/// Largest dimension for which a sum of squared code differences fits 32 bits.
const DIMENSION_MAX: usize = 32_768;

/// A distance between two vectors. Smaller is nearer, whatever the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The Euclidean distance: the root of the sum of squared differences.
    #[default]
    L2,
    /// 1 − cosine of the angle: 0 for the same direction, 2 for the opposite one. Undefined for a zero vector: a graph
    /// measures 1 to it, and a search of a table never finds it.
    Cosine,
    /// The negated inner product.
    Dot,
    /// The number of bits that differ, for vectors given as packed bits.
    Hamming,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Hamming => "hamming",
        })
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "l2" => Ok(Self::L2),
            "cosine" => Ok(Self::Cosine),
            "dot" => Ok(Self::Dot),
            "hamming" => Ok(Self::Hamming),
            _ => Err(Error::invalid_input(format!("`{text}` is not a metric: use l2, cosine, dot or hamming"))),
        }
    }
}

/// The form of the vectors that a walk compares. Distances of hits are always computed from the vectors as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Traversal {
    /// Vectors rounded to 8 bits per number, all on one scale. Not useful where near neighbours differ by less than
    /// about a hundredth of the range of all values: tight clusters far apart, or vectors of very different lengths.
    Int8,
    /// The vectors as given. Slower, with four times the memory traffic.
    Float32,
}

/// The options of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphOptions {
    /// Numbers in a vector, from 1 to 32,768; for [`Metric::Hamming`] bits, a multiple of 8.
    pub dimension: usize,
    /// The distance.
    pub metric: Metric,
    /// The form of the vectors that walks compare; [`Metric::Hamming`] ignores it.
    pub traversal: Traversal,
    /// Links of a node in the upper layers, from 4 to 128; twice as many in the base layer. More links raise recall and
    /// memory.
    pub m: usize,
    /// Width of the walk that finds the neighbours of a new vector, from `m` to 4096. Wider raises recall and build
    /// time.
    pub ef_construction: usize,
    /// Seed of the draw that places nodes in upper layers.
    pub seed: u64,
    /// Limit on the memory of the graph, in bytes.
    pub capacity_bytes: u64,
}

impl GraphOptions {
    /// Returns options with `m` 16, `ef_construction` 150, 8-bit traversal and 1 GiB of memory.
    pub fn new(dimension: usize, metric: Metric) -> Self {
        Self {
            dimension,
            metric,
            traversal: Traversal::Int8,
            m: 16,
            ef_construction: 150,
            seed: 0,
            capacity_bytes: ByteSize::mib(1024).0,
        }
    }

    /// Checks that every option is in its range.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::invalid_input(what));
        if self.dimension == 0 || self.dimension > DIMENSION_MAX {
            return refuse(format!("dimension {} is not from 1 to {DIMENSION_MAX}", self.dimension));
        }
        if self.metric == Metric::Hamming && !self.dimension.is_multiple_of(8) {
            return refuse(format!("hamming needs a dimension in whole bytes, not {} bits", self.dimension));
        }
        if !(4..=128).contains(&self.m) {
            return refuse(format!("m {} is not from 4 to 128", self.m));
        }
        if self.ef_construction < self.m || self.ef_construction > 4096 {
            return refuse(format!("ef_construction {} is not from m ({}) to 4096", self.ef_construction, self.m));
        }
        Ok(())
    }
}
