//! The history of a table's base as its log records it: the Lance versions, what each holds, and what is still needed.

use std::collections::{BTreeMap, BTreeSet};

use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, new_identity};
use crate::version::Version;

/// The format of log segments and their checkpoints. Since format 2, versions between tagged ones and the oldest
/// untagged one may have been collected.
const FORMAT: u32 = 2;

/// One version of the base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseMark {
    /// The Lance version.
    pub(crate) base: u64,
    /// The first Lance version with the same rows.
    pub(crate) since: u64,
    /// The newest write that it holds. Writes after `folded` up to this one that the log does not hold as rows went
    /// directly to the base.
    pub(crate) version: u64,
    /// The version up to which every write is in the base.
    pub(crate) folded: u64,
    /// The Lance version that the key index is named after.
    pub(crate) keys: u64,
    /// When `version` was written, or a little later, in microseconds since 1970.
    pub(crate) time: i64,
    /// When this version became the base, in microseconds since 1970.
    #[serde(default)]
    pub(crate) made: i64,
    /// Bytes that were written to the table since it was created.
    #[serde(default)]
    pub(crate) accepted: u64,
    /// Bytes that were written to the log and the base for them.
    #[serde(default)]
    pub(crate) stored: u64,
}

/// A change of what is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Note {
    /// A name for a version was set, or removed (`None`); the version is kept as long as it has a name.
    Tag { name: String, version: Option<u64> },
    /// The position of a consumer of the change feed was set, or removed (`None`).
    Consumer { name: String, version: Option<u64> },
    /// Base versions below `base` were removed, except those of which tags name a version.
    Collected {
        base: u64,
        #[serde(default)]
        tagged: BTreeSet<u64>,
    },
}

/// The state that results from all marks and notes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// The versions of the base, oldest first; the last one is current.
    pub(crate) marks: Vec<BaseMark>,
    pub(crate) tags: BTreeMap<String, u64>,
    pub(crate) consumers: BTreeMap<String, u64>,
    /// The oldest version that the last collection left, apart from tagged ones.
    #[serde(default)]
    oldest: u64,
    /// The secret that keys are hashed with: random for each table, so that nobody can choose keys that collide. It
    /// also distinguishes the table from others of its name.
    pub(crate) hash_key: Identity,
}

impl History {
    /// Makes the history of a table whose base is `mark`, with no earlier versions.
    pub(crate) fn new(mark: BaseMark) -> Self {
        Self { marks: vec![mark], hash_key: new_identity(), ..Self::default() }
    }

    /// Returns the current version of the base.
    pub(crate) fn current(&self) -> Result<BaseMark> {
        self.marks.last().copied().ok_or_else(|| Error::corrupt("the table's history names no base"))
    }

    /// Returns the oldest version from which on every version can be read. The log reaches at least as far back.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest.max(self.marks.first().map_or(0, |mark| mark.version))
    }

    /// Returns whether `version`, which is not newer than the newest, can be read.
    pub(crate) fn has(&self, version: Version) -> bool {
        version.0 >= self.oldest() || self.tags.values().any(|tagged| *tagged == version.0)
    }

    /// Returns the tagged versions before `oldest`, in order, each with the base that it is read from.
    pub(crate) fn tagged_before(&self, oldest: u64) -> BTreeMap<u64, BaseMark> {
        let versions = self.tags.values().copied().filter(|version| *version < oldest);
        versions.filter_map(|version| Some((version, self.at(Version(version))?))).collect()
    }

    /// Returns the newest base that holds nothing newer than `version`.
    pub(crate) fn at(&self, version: Version) -> Option<BaseMark> {
        self.marks.iter().rev().find(|mark| mark.version <= version.0).copied()
    }

    /// Returns the base that was current at `time`, if it is known.
    pub(crate) fn current_at(&self, time: i64) -> Option<BaseMark> {
        self.marks.iter().rev().find(|mark| mark.made <= time).copied()
    }

    pub(crate) fn add(&mut self, mark: BaseMark) {
        // The newest of several bases with the same rows suffices; building an index makes such bases.
        let same = self.marks.pop_if(|old| (old.version, old.folded) == (mark.version, mark.folded));
        let since = same.map_or(mark.base, |same| same.since);
        self.marks.push(BaseMark { since, ..mark });
    }

    pub(crate) fn note(&mut self, note: &Note) {
        let (map, name, version) = match note {
            Note::Tag { name, version } => (&mut self.tags, name, version),
            Note::Consumer { name, version } => (&mut self.consumers, name, version),
            Note::Collected { base, tagged } => {
                self.oldest =
                    self.marks.iter().find(|mark| mark.base >= *base).map_or(self.oldest, |mark| mark.version);
                return self.marks.retain(|mark| mark.base >= *base || tagged.contains(&mark.base));
            }
        };
        match version {
            Some(version) => map.insert(name.clone(), *version),
            None => map.remove(name),
        };
    }
}

/// The first frame of a segment: the result of the segments before it, without rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    format: u32,
    /// The newest version before the segment.
    pub(crate) version: u64,
    pub(crate) history: History,
}

impl Checkpoint {
    pub(crate) fn new(version: u64, history: History) -> Self {
        Self { format: FORMAT, version, history }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |source| Error::corrupt("the checkpoint of a log segment is unreadable").with_source(source);
        // The format is parsed first, because a newer one may have other fields.
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Error::unsupported(format!(
                "the table's log has format {format}, and this version of Cenote reads up to {FORMAT}: use a newer one"
            )));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}
