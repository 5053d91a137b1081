//! What a table's log says of its base: which Lance versions there were, what each holds, and who still needs what.

use std::collections::{BTreeMap, BTreeSet};

use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, new_identity};
use crate::version::Version;

/// The format of log segments and their checkpoints. Since 2, versions between tagged ones and the oldest other may be
/// gone.
const FORMAT: u32 = 2;

/// One version of the base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseMark {
    /// The Lance version.
    pub(crate) base: u64,
    /// The first Lance version with the same rows.
    pub(crate) since: u64,
    /// The newest write it holds. Those between `folded` and this one that are not in the log as rows went straight to
    /// it.
    pub(crate) version: u64,
    /// Every write up to here is in it.
    pub(crate) folded: u64,
    /// The Lance version whose key index fits.
    pub(crate) keys: u64,
    /// When `version` was written, or a little later: microseconds since 1970.
    pub(crate) time: i64,
    /// When it became the base, in place of the one before: microseconds since 1970.
    #[serde(default)]
    pub(crate) made: i64,
    /// Bytes that were written to the table since it was made.
    #[serde(default)]
    pub(crate) accepted: u64,
    /// Bytes that were written for them, to the log and to the base.
    #[serde(default)]
    pub(crate) stored: u64,
}

/// A change of what is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Note {
    /// A name for a version, which is kept until the name is removed.
    Tag { name: String, version: Option<u64> },
    /// How far a reader of the change feed has come, or that it is gone.
    Consumer { name: String, version: Option<u64> },
    /// Base versions below `base` are gone, but for those that tags name a version of.
    Collected {
        base: u64,
        #[serde(default)]
        tagged: BTreeSet<u64>,
    },
}

/// The state that notes and marks add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// The versions of the base, oldest first; the last one is current.
    pub(crate) marks: Vec<BaseMark>,
    pub(crate) tags: BTreeMap<String, u64>,
    pub(crate) consumers: BTreeMap<String, u64>,
    /// The oldest version that was left when the past was last collected, tagged ones apart.
    #[serde(default)]
    oldest: u64,
    /// What keys are hashed with: random for each table, so that nobody can choose keys that collide. It tells the
    /// table from others of its name too.
    pub(crate) hash_key: Identity,
}

impl History {
    /// The history of a table whose base is `mark` and that nothing is known of before.
    pub(crate) fn new(mark: BaseMark) -> Self {
        Self { marks: vec![mark], hash_key: new_identity(), ..Self::default() }
    }

    /// The current version of the base.
    pub(crate) fn current(&self) -> Result<BaseMark> {
        self.marks.last().copied().ok_or_else(|| Error::corrupt("the table's history names no base"))
    }

    /// The version from which on every one can be read. The log goes back at least as far.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest.max(self.marks.first().map_or(0, |mark| mark.version))
    }

    /// Whether `version`, which is no newer than the newest, can be read.
    pub(crate) fn has(&self, version: Version) -> bool {
        version.0 >= self.oldest() || self.tags.values().any(|tagged| *tagged == version.0)
    }

    /// The tagged versions before `oldest`, in order, each with the base that it is read from.
    pub(crate) fn tagged_before(&self, oldest: u64) -> BTreeMap<u64, BaseMark> {
        let versions = self.tags.values().copied().filter(|version| *version < oldest);
        versions.filter_map(|version| Some((version, self.at(Version(version))?))).collect()
    }

    /// The newest base that holds nothing newer than `version`.
    pub(crate) fn at(&self, version: Version) -> Option<BaseMark> {
        self.marks.iter().rev().find(|mark| mark.version <= version.0).copied()
    }

    /// The base that was current at `time`, if one is known that was.
    pub(crate) fn current_at(&self, time: i64) -> Option<BaseMark> {
        self.marks.iter().rev().find(|mark| mark.made <= time).copied()
    }

    pub(crate) fn add(&mut self, mark: BaseMark) {
        // Of several bases with the same rows (an index was built), the newest will do.
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

/// The first frame of a segment: all that the segments before it add up to, rows apart.
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
        // The format first: a newer one may have other fields.
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Error::unsupported(format!(
                "the table's log has format {format}, and this version of Cenote reads up to {FORMAT}: use a newer one"
            )));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}
