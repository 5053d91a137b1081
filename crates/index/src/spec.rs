//! What an index is asked to be: plain data.

use std::fmt;
use std::str::FromStr;

use cenote_base::{Error, Result};
use lance_linalg::distance::DistanceType;
use serde::{Deserialize, Serialize};

use crate::kind::{IndexKind, ScalarStructure, VectorStructure};

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

/// An index to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    /// Its name, unique in the table; `None`: made from column and kind.
    pub name: Option<String>,
    /// The column it covers.
    pub column: String,
    /// What it is for, and how it is built.
    pub kind: IndexKind,
}

impl IndexSpec {
    /// An index of `kind` over `column`, with a name made from both.
    pub fn new(column: impl Into<String>, kind: IndexKind) -> Self {
        Self { name: None, column: column.into(), kind }
    }

    /// The same index under `name`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The name given, or `column_kind`; for vectors with the metric, and with the kind when one was chosen.
    pub fn effective_name(&self) -> String {
        match (&self.name, &self.kind) {
            (Some(name), _) => name.clone(),
            (None, IndexKind::Vector(vector)) if vector.structure == VectorStructure::Auto => {
                format!("{}_{}", self.column, vector.metric)
            }
            (None, IndexKind::Vector(vector)) => format!("{}_{}_{}", self.column, vector.metric, vector.structure),
            (None, IndexKind::Scalar(ScalarStructure::BTree)) => format!("{}_scalar", self.column),
            (None, kind) => format!("{}_{kind}", self.column),
        }
    }
}
