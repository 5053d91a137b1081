//! What an index is asked to be: plain data.

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
}

impl Metric {
    pub(crate) fn to_lance(self) -> DistanceType {
        match self {
            Self::L2 => DistanceType::L2,
            Self::Cosine => DistanceType::Cosine,
            Self::Dot => DistanceType::Dot,
        }
    }

    /// This metric's distance from the number that Lance calls its distance.
    pub(crate) fn distance_of(self, raw: f32) -> f32 {
        match self {
            Self::L2 => raw.max(0.0).sqrt(),
            Self::Cosine => raw.max(0.0),
            Self::Dot => raw - 1.0,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Cosine => "cosine",
            Self::Dot => "dot",
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
            _ => Err(Error::invalid_input(format!("`{text}` is no metric: use l2, cosine or dot"))),
        }
    }
}

/// What an index is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexKind {
    /// Nearest vectors of a `FixedSizeList<Float32>` column. Not useful for a metric other than its own.
    Vector {
        /// The distance it ranks by.
        metric: Metric,
    },
    /// Words of a text column, ranked by BM25. Not useful for substrings or regular expressions.
    FullText {
        /// The language whose stems and stop words count, such as `English`.
        language: String,
        /// Whether `running` finds `run`.
        stem: bool,
        /// Whether words like `the` are left out.
        remove_stop_words: bool,
    },
    /// Order of a plain column: quicker filters on it.
    Scalar,
}

impl IndexKind {
    /// A vector index for `metric`.
    pub fn vector(metric: Metric) -> Self {
        Self::Vector { metric }
    }

    /// A full-text index for English, with stems and without stop words.
    pub fn full_text() -> Self {
        Self::FullText { language: "English".to_owned(), stem: true, remove_stop_words: true }
    }

    /// The kind that people write as `vector` (with an optional metric), `text` or `scalar`.
    ///
    /// # Errors
    /// `InvalidInput` for another word, or a metric where none belongs.
    pub fn parse(kind: &str, metric: Option<&str>) -> Result<Self> {
        let kind = match kind.to_ascii_lowercase().as_str() {
            "vector" => {
                let metric = metric.map(str::parse).transpose()?.unwrap_or_default();
                return Ok(Self::Vector { metric });
            }
            "text" => Self::full_text(),
            "scalar" => Self::Scalar,
            _ => {
                let what = format!("`{kind}` is no kind of index: use vector, text or scalar");
                return Err(Error::invalid_input(what));
            }
        };
        match metric {
            None => Ok(kind),
            Some(_) => Err(Error::invalid_input(format!("a {kind} index has no metric; only a vector index has one"))),
        }
    }

    /// Whether an index of kind `other` does the work of this one: the same sort of index, with the same metric.
    pub fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vector { metric }, Self::Vector { metric: other }) => metric == other,
            (Self::FullText { .. }, Self::FullText { .. }) | (Self::Scalar, Self::Scalar) => true,
            _ => false,
        }
    }
}

impl fmt::Display for IndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vector { .. } => "vector",
            Self::FullText { .. } => "text",
            Self::Scalar => "scalar",
        })
    }
}

/// An index to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    /// Its name, unique in the table; `None`: made from column and kind.
    pub name: Option<String>,
    /// The column it covers.
    pub column: String,
    /// What it is for.
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

    /// The name given, or `column_kind`, with the metric for vectors.
    pub fn effective_name(&self) -> String {
        match (&self.name, &self.kind) {
            (Some(name), _) => name.clone(),
            (None, IndexKind::Vector { metric }) => format!("{}_{metric}", self.column),
            (None, kind) => format!("{}_{kind}", self.column),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kinds_are_read_as_people_write_them() {
        assert_eq!(IndexKind::parse("vector", None).unwrap(), IndexKind::vector(Metric::L2));
        assert_eq!(IndexKind::parse("Vector", Some("Cosine")).unwrap(), IndexKind::vector(Metric::Cosine));
        assert_eq!(IndexKind::parse("text", None).unwrap(), IndexKind::full_text());
        for (kind, metric, says) in
            [("fts", None, "vector, text or scalar"), ("text", Some("l2"), "no metric"), ("vector", Some("l3"), "dot")]
        {
            let error = IndexKind::parse(kind, metric).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }
}
