//! The distances between vectors.

use std::fmt;
use std::str::FromStr;

use cenote_base::{Error, Result};
use lance_linalg::distance::DistanceType;
use serde::{Deserialize, Serialize};

/// A distance between two vectors. The smaller, the nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The Euclidean distance: the root of the sum of squared differences.
    #[default]
    L2,
    /// 1 − cosine of the angle: 0 for the same direction, 2 for the opposite one. Undefined for a zero vector.
    Cosine,
    /// The negated inner product.
    Dot,
    /// The number of bits that differ between two vectors of bytes.
    Hamming,
}

impl Metric {
    pub(crate) fn to_lance(self) -> DistanceType {
        match self {
            Self::L2 => DistanceType::L2,
            Self::Cosine => DistanceType::Cosine,
            Self::Dot => DistanceType::Dot,
            Self::Hamming => DistanceType::Hamming,
        }
    }

    pub(crate) fn to_graph(self) -> cenote_graph::Metric {
        match self {
            Self::L2 => cenote_graph::Metric::L2,
            Self::Cosine => cenote_graph::Metric::Cosine,
            Self::Dot => cenote_graph::Metric::Dot,
            Self::Hamming => cenote_graph::Metric::Hamming,
        }
    }

    /// Converts Lance's measure of distance `raw` to this metric: Lance does not take the root of an L2 distance, and
    /// adds 1 to a dot product.
    pub(crate) fn distance_of(self, raw: f32) -> f32 {
        match self {
            Self::L2 => raw.max(0.0).sqrt(),
            Self::Cosine => raw.max(0.0),
            Self::Dot => raw - 1.0,
            Self::Hamming => raw,
        }
    }
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
