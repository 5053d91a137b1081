//! The kinds of index, with the options of their builds.

use std::fmt;
use std::str::FromStr;

use cenote_base::{Error, Result, did_you_mean};
use serde::{Deserialize, Serialize};

use crate::metric::Metric;

/// The kind of an index, with the options of its build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// An index for nearest vectors. Not useful for a metric other than its own.
    Vector(VectorOptions),
    /// An index for the words of a text column, ranked by BM25. Not useful for substrings or regular expressions.
    FullText(TextOptions),
    /// An index for filters on a column.
    Scalar(ScalarStructure),
}

/// The options of a vector index. An option that is `None` is derived from the number of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorOptions {
    /// The distance by which the index ranks.
    pub metric: Metric,
    /// The structure in which the vectors are kept.
    #[serde(default)]
    pub structure: VectorStructure,
    /// Partitions of the vectors, of which a search probes some; not for [`VectorStructure::Hnsw`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<usize>,
    /// Sub-vectors of a vector in product quantisation; a divisor of its width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_vectors: Option<usize>,
    /// Links of a node in a graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<usize>,
    /// Width of the search that finds a new node's neighbours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<usize>,
}

/// The structure of a vector index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorStructure {
    /// On disk: [`Self::IvfFlat`] for few rows, [`Self::IvfSq`] for many, or [`Self::IvfHnswSq`] with options of a
    /// graph.
    #[default]
    Auto,
    /// On disk: whole vectors. Not useful for many rows.
    IvfFlat,
    /// On disk: product-quantised vectors.
    IvfPq,
    /// On disk: vectors of 8 bits per number.
    IvfSq,
    /// On disk: vectors of a few bits per number after a rotation (RaBitQ).
    IvfRq,
    /// On disk: a graph over vectors of 8 bits per number in each partition.
    IvfHnswSq,
    /// On disk: a graph over product-quantised vectors in each partition.
    IvfHnswPq,
    /// In memory: one graph. Not useful for a column that does not fit there.
    Hnsw,
}

/// The options by which a full-text index splits texts into words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextOptions {
    /// The language of stems and stop words, such as `English`.
    pub language: String,
    /// Whether words are stemmed: whether `running` finds `run`.
    pub stem: bool,
    /// Whether words like `the` are left out.
    pub remove_stop_words: bool,
    /// The lengths of n-grams, which then replace words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ngram: Option<NGramLengths>,
}

/// The lengths of the n-grams of a text, in letters. A definition stores them as a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct NGramLengths {
    /// The least length.
    pub min: u32,
    /// The greatest length.
    pub max: u32,
}

impl Default for NGramLengths {
    /// Returns 3 for both.
    fn default() -> Self {
        Self { min: 3, max: 3 }
    }
}

impl From<(u32, u32)> for NGramLengths {
    fn from((min, max): (u32, u32)) -> Self {
        Self { min, max }
    }
}

impl From<NGramLengths> for (u32, u32) {
    fn from(lengths: NGramLengths) -> Self {
        (lengths.min, lengths.max)
    }
}

/// The structure of a scalar index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalarStructure {
    /// Sorted values, for equality and ranges.
    #[serde(rename = "btree")]
    BTree,
    /// The rows of each value. Not useful for many distinct values.
    Bitmap,
    /// The rows of each label, for a column of lists.
    LabelList,
    /// The least and the greatest value of each zone of rows.
    #[serde(rename = "zonemap")]
    ZoneMap,
    /// A Bloom filter for each zone of rows, for equality.
    BloomFilter,
    /// The trigrams of texts, for `contains`.
    #[serde(rename = "ngram")]
    NGram,
}

const VECTOR_NAMES: [(&str, VectorStructure); 8] = [
    ("vector", VectorStructure::Auto),
    ("ivf_flat", VectorStructure::IvfFlat),
    ("ivf_pq", VectorStructure::IvfPq),
    ("ivf_sq", VectorStructure::IvfSq),
    ("ivf_rq", VectorStructure::IvfRq),
    ("ivf_hnsw_sq", VectorStructure::IvfHnswSq),
    ("ivf_hnsw_pq", VectorStructure::IvfHnswPq),
    ("hnsw", VectorStructure::Hnsw),
];
const SCALAR_NAMES: [(&str, ScalarStructure); 7] = [
    ("btree", ScalarStructure::BTree),
    ("scalar", ScalarStructure::BTree),
    ("bitmap", ScalarStructure::Bitmap),
    ("label_list", ScalarStructure::LabelList),
    ("zonemap", ScalarStructure::ZoneMap),
    ("bloom_filter", ScalarStructure::BloomFilter),
    ("ngram", ScalarStructure::NGram),
];

impl IndexKind {
    /// Returns a vector index for `metric`, on disk.
    pub fn vector(metric: Metric) -> Self {
        Self::Vector(VectorOptions { metric, ..VectorOptions::default() })
    }

    /// Returns a graph for `metric`, in memory.
    pub fn hnsw(metric: Metric) -> Self {
        Self::Vector(VectorOptions { metric, structure: VectorStructure::Hnsw, ..VectorOptions::default() })
    }

    /// Returns a full-text index for English, with stemming and without stop words.
    pub fn full_text() -> Self {
        Self::FullText(TextOptions { language: "English".to_owned(), stem: true, remove_stop_words: true, ngram: None })
    }

    /// Returns an index for equality and ranges.
    pub fn scalar() -> Self {
        Self::Scalar(ScalarStructure::BTree)
    }

    /// Parses a kind written as `vector` (or one of its structures, such as `ivf_pq`), `text`, or `scalar` (or one of
    /// its structures, such as `bitmap`), with options such as `metric` and `cosine`.
    ///
    /// # Errors
    /// `InvalidInput` for another word, an option that the kind does not have, or a value that does not parse.
    pub fn parse<'a>(kind: &str, options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let word = kind.to_ascii_lowercase();
        let named = |name: &str| name == word;
        let mut kind = if let Some((_, structure)) = VECTOR_NAMES.iter().find(|(name, _)| named(name)) {
            Self::Vector(VectorOptions { structure: *structure, ..VectorOptions::default() })
        } else if let Some((_, structure)) = SCALAR_NAMES.iter().find(|(name, _)| named(name)) {
            Self::Scalar(*structure)
        } else if named("text") {
            Self::full_text()
        } else {
            let names = VECTOR_NAMES.iter().map(|(name, _)| *name).chain(["text"]);
            let names: Vec<&str> = names.chain(SCALAR_NAMES.iter().map(|(name, _)| *name)).collect();
            return Err(Error::invalid_input(format!(
                "`{word}` is not a kind of index{}; there are {}",
                did_you_mean(&word, names.iter().copied()),
                names.join(", ")
            )));
        };
        for (name, value) in options {
            kind.set(name, value)?;
        }
        Ok(kind)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        fn read<T: FromStr>(name: &str, value: &str) -> Result<T> {
            let what = format!("option `{name}` of an index cannot be `{value}`");
            value.parse().map_err(|_| Error::invalid_input(what))
        }
        let kind = self.to_string();
        let unknown = |known: &[&str]| {
            let hint = did_you_mean(name, known.iter().copied());
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(Error::invalid_input(format!("a {kind} index has no option `{name}`{hint}; there are {known}")))
        };
        match self {
            Self::Vector(options) => match name {
                "metric" => options.metric = value.parse()?,
                "partitions" => options.partitions = Some(read(name, value)?),
                "sub_vectors" => options.sub_vectors = Some(read(name, value)?),
                "m" => options.m = Some(read(name, value)?),
                "ef_construction" => options.ef_construction = Some(read(name, value)?),
                _ => return unknown(&["metric", "partitions", "sub_vectors", "m", "ef_construction"]),
            },
            Self::FullText(options) => match name {
                "language" => options.language = value.to_owned(),
                "stem" => options.stem = read(name, value)?,
                "remove_stop_words" => options.remove_stop_words = read(name, value)?,
                "ngram_min" => options.ngram.get_or_insert_default().min = read(name, value)?,
                "ngram_max" => options.ngram.get_or_insert_default().max = read(name, value)?,
                _ => return unknown(&["language", "stem", "remove_stop_words", "ngram_min", "ngram_max"]),
            },
            Self::Scalar(_) => return unknown(&[]),
        }
        Ok(())
    }

    /// Returns whether an index of kind `other` serves in place of this one: it has the same metric and the same
    /// structure, unless this one leaves the structure open.
    pub fn same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vector(one), Self::Vector(other)) => {
                one.metric == other.metric
                    && (one.structure == other.structure
                        || (one.structure == VectorStructure::Auto && other.structure != VectorStructure::Hnsw))
            }
            (Self::FullText(_), Self::FullText(_)) => true,
            (Self::Scalar(one), Self::Scalar(other)) => one == other,
            _ => false,
        }
    }

    /// Returns whether an index of kind `other` answers the same searches, whatever its structure.
    pub(crate) fn is_same_use(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vector(one), Self::Vector(other)) => one.metric == other.metric,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Returns a text that only equal kinds share: the one that a definition stores.
    pub(crate) fn key(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|source| Error::internal("write a kind of index").with_source(source))
    }

    /// Returns the metric of a vector index.
    pub fn metric(&self) -> Option<Metric> {
        match self {
            Self::Vector(options) => Some(options.metric),
            _ => None,
        }
    }

    /// Returns the options of an index that is kept in memory.
    pub(crate) fn resident_options(&self) -> Option<&VectorOptions> {
        match self {
            Self::Vector(options) if self.is_resident() => Some(options),
            _ => None,
        }
    }

    /// Returns whether the index is kept in memory.
    pub fn is_resident(&self) -> bool {
        matches!(self, Self::Vector(options) if options.structure == VectorStructure::Hnsw)
    }
}

impl fmt::Display for VectorStructure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VECTOR_NAMES.iter().find(|(_, known)| known == self).map_or("vector", |(name, _)| *name))
    }
}

impl fmt::Display for ScalarStructure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCALAR_NAMES.iter().find(|(_, known)| known == self).map_or("scalar", |(name, _)| *name))
    }
}

impl fmt::Display for IndexKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vector(options) => options.structure.fmt(f),
            Self::FullText(_) => f.write_str("text"),
            Self::Scalar(structure) => structure.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn kinds_are_read_as_people_write_them() {
        assert_eq!(IndexKind::parse("vector", []).unwrap(), IndexKind::vector(Metric::L2));
        assert_eq!(IndexKind::parse("Vector", [("metric", "Cosine")]).unwrap(), IndexKind::vector(Metric::Cosine));
        assert_eq!(IndexKind::parse("hnsw", [("metric", "dot")]).unwrap(), IndexKind::hnsw(Metric::Dot));
        assert_eq!(IndexKind::parse("text", []).unwrap(), IndexKind::full_text());
        for (kind, option, says) in [
            ("fts", ("stem", "true"), "vector, ivf_flat"),
            ("text", ("metric", "l2"), "no option `metric`"),
            ("vector", ("metric", "l3"), "hamming"),
            ("vector", ("partitions", "many"), "cannot be `many`"),
            ("vector", ("metrik", "l2"), "did you mean `metric`?"),
            ("bitmap", ("m", "16"), "there are none"),
        ] {
            let error = IndexKind::parse(kind, [option]).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }

    #[test]
    fn every_option_of_a_text_index_changes_its_key() {
        let key = |options: &[(&'static str, &'static str)]| {
            IndexKind::parse("text", options.iter().copied()).unwrap().key().unwrap()
        };
        let options = [
            ("language", "German"),
            ("stem", "false"),
            ("remove_stop_words", "false"),
            ("ngram_min", "2"),
            ("ngram_max", "5"),
        ];
        let keys: BTreeSet<String> = options.iter().map(|option| key(&[*option])).chain([key(&[])]).collect();
        assert_eq!(keys.len(), options.len() + 1, "{keys:?}");
        assert_eq!(key(&[("stem", "true")]), key(&[]));
    }

    #[test]
    fn a_kind_survives_its_definition() {
        for (name, options) in [
            ("ivf_pq", vec![("metric", "cosine"), ("sub_vectors", "16")]),
            ("text", vec![("ngram_min", "2")]),
            ("zonemap", vec![]),
        ] {
            let kind = IndexKind::parse(name, options).unwrap();
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!(serde_json::from_str::<IndexKind>(&text).unwrap(), kind, "{text}");
            assert_eq!(kind.to_string(), name);
        }
        let ngrams = IndexKind::parse("text", [("ngram_max", "5")]).unwrap();
        assert!(serde_json::to_string(&ngrams).unwrap().contains(r#""ngram":[3,5]"#));
    }
}
