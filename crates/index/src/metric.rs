//! The distances between vectors.

use std::fmt;
use std::str::FromStr;

use cenote_base::{Error, Result};
use lance_linalg::distance::DistanceType;
use serde::{Deserialize, Serialize};

/// How far two vectors are from each other. Smaller is nearer in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Euclidean distance: the root of the sum of squared differences.
    #[default]
    L2,
    /// 1 − cosine of the angle: 0 for the same direction, 2 for the opposite one. Undefined for a zero vector.
    Cosine,
    /// The inner product, negated.
    Dot,
    /// The number of bits that differ, between vectors of bytes.
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

    /// This metric's distance from the number that Lance calls its distance.
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
            _ => Err(Error::invalid_input(format!("`{text}` is no metric: use l2, cosine, dot or hamming"))),
        }
    }
}
