//! The live rows of a base, by fragment.
//!
//! An index may hold rows that are not live: those that the base has deleted since, those that a compaction has removed
//! from its fragments, and those that have moved to another fragment, where their values may differ. So the rows of
//! each fragment are known separately.
//!
//! The files of a fragment never change. A value derived from its rows serves every base that has the fragment, and for
//! a new base only new fragments and new deletions are read.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenote_base::{Error, Result};
use cenote_store::{RecordBatches, Snapshot, blocking, lance_error};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::rowids::load_row_id_sequence;
use lance::dataset::scanner::{RowAddrTreeMap, Scanner};
use lance::table::format::{DeletionFile, IndexMetadata};
use lance_select::RowSetOps;
use roaring::RoaringBitmap;

/// Rows of uncovered fragments, or superseded ones, that searches keep in memory, at most: more are read batch by batch
/// for each search.
pub(crate) const UNCOVERED_ROWS_MAX: usize = 100_000;
/// Fragments that are read concurrently.
const PARALLEL: usize = 16;

/// A counter of the rows that were read to fill the caches of searches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Examined(Arc<AtomicU64>);

impl Examined {
    pub(crate) fn add(&self, rows: usize) {
        self.0.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A fragment of a base.
#[derive(Debug, Clone)]
pub(crate) struct Fragment {
    id: u32,
    /// The id of the fragment and the names of its files, which together are unique among all tables.
    files: Arc<str>,
    live: Arc<FragmentRows>,
}

/// The rows of a fragment that are not deleted.
#[derive(Debug)]
struct FragmentRows {
    deletions: Option<DeletionFile>,
    /// The offsets of deleted rows in the fragment.
    holes: RoaringBitmap,
    ids: RowAddrTreeMap,
}

impl Fragment {
    /// Returns the ids of its rows that are not deleted.
    pub(crate) fn rows(&self) -> &RowAddrTreeMap {
        &self.live.ids
    }
}

/// The fragments of a base.
#[derive(Debug)]
pub(crate) struct Fragments {
    all: Vec<Fragment>,
    /// A hash of the ids, names and types of the columns.
    schema: u64,
}

impl Fragments {
    /// Reads the fragments of `base`, but for the rows that are known from `known`, the fragments of another version.
    pub(crate) async fn read(base: &Dataset, known: Option<&Self>, examined: &Examined) -> Result<Self> {
        let known: HashMap<&str, &Fragment> =
            known.into_iter().flat_map(|known| &known.all).map(|fragment| (&*fragment.files, fragment)).collect();
        let read = stream::iter(base.get_fragments()).map(|file| {
            let files = files_of(&file);
            let former = known.get(&*files).map(|fragment| Arc::clone(&fragment.live));
            async move {
                let live = FragmentRows::read(base, &file, former, examined).boxed().await?;
                Ok::<_, Error>(Fragment { id: file.id() as u32, files, live })
            }
        });
        let all = read.buffered(PARALLEL).try_collect().await?;
        let mut schema = DefaultHasher::new();
        for field in base.schema().fields_pre_order() {
            (field.id, &field.name, field.logical_type.to_string()).hash(&mut schema);
        }
        Ok(Self { all, schema: schema.finish() })
    }

    /// Returns a hash of the columns, which differs from that of a base in which a name refers to another column.
    pub(crate) fn schema(&self) -> u64 {
        self.schema
    }

    /// Returns all fragments.
    pub(crate) fn all(&self) -> &[Fragment] {
        &self.all
    }

    /// Returns the fragments with `ids`.
    pub(crate) fn of(&self, ids: &RoaringBitmap) -> Vec<Fragment> {
        self.all.iter().filter(|fragment| ids.contains(fragment.id)).cloned().collect()
    }

    /// Returns the fragments without `ids`.
    pub(crate) fn without(&self, ids: &RoaringBitmap) -> Vec<Fragment> {
        self.all.iter().filter(|fragment| !ids.contains(fragment.id)).cloned().collect()
    }

    /// Returns the ids of the fragments that one of `segments` covers.
    pub(crate) fn covered(&self, segments: &[IndexMetadata]) -> RoaringBitmap {
        let is_covered = |fragment: &&Fragment| {
            let covers = |segment: &IndexMetadata| {
                segment.fragment_bitmap.as_ref().is_none_or(|covered| covered.contains(fragment.id))
            };
            segments.iter().any(covers)
        };
        self.all.iter().filter(is_covered).map(|fragment| fragment.id).collect()
    }
}

/// Returns the live rows of all `fragments`.
pub(crate) fn rows_of(fragments: &[Fragment]) -> RowAddrTreeMap {
    RowAddrTreeMap::union_all(&fragments.iter().map(Fragment::rows).collect::<Vec<_>>())
}

/// Makes a scan of `fragments` of `base`.
pub(super) fn scan(base: &Dataset, fragments: &[Fragment]) -> Scanner {
    let ids: RoaringBitmap = fragments.iter().map(|fragment| fragment.id).collect();
    let chosen = base.fragments().iter().filter(|fragment| ids.contains(fragment.id as u32));
    let mut scanner = base.scan();
    scanner.with_fragments(chosen.cloned().collect());
    scanner
}

/// Reads `column` of the rows of `fragment`, with their row ids.
pub(crate) async fn read(base: &Dataset, column: &str, fragment: &Fragment) -> Result<RecordBatches> {
    let mut scanner = scan(base, std::slice::from_ref(fragment));
    scanner.project(&[column]).map_err(lance_error)?.with_row_id();
    let batches = scanner.try_into_stream().await.map_err(lance_error)?;
    Ok(batches.map_err(lance_error).boxed())
}

/// Returns the field id of `column`, which a later column of the same name does not share; -1 without such a column.
pub(crate) fn column_id(snapshot: &Snapshot, column: &str) -> i32 {
    snapshot.base().schema().field(column).map_or(-1, |field| field.id)
}

fn files_of(file: &FileFragment) -> Arc<str> {
    let names = file.metadata().files.iter().map(|file| file.path.as_str());
    std::iter::once(file.id().to_string().as_str()).chain(names).collect::<Vec<_>>().join("\0").into()
}

impl FragmentRows {
    /// Reads the live rows of `file`, starting from `former`, those of another version of the base.
    async fn read(
        base: &Dataset,
        file: &FileFragment,
        former: Option<Arc<Self>>,
        examined: &Examined,
    ) -> Result<Arc<Self>> {
        let deletions = file.metadata().deletion_file.clone();
        if let Some(former) = former.as_ref().filter(|former| former.deletions == deletions) {
            return Ok(Arc::clone(former));
        }
        let ids = load_row_id_sequence(base, file.metadata()).await.map_err(lance_error)?;
        let deleted = file.get_deletion_vector().await.map_err(lance_error)?;
        let examined = examined.clone();
        blocking(move || {
            let holes = deleted.as_deref().map_or_else(RoaringBitmap::new, RoaringBitmap::from);
            let (mut live, new) = match former.filter(|former| former.holes.is_subset(&holes)) {
                Some(former) => (former.ids.clone(), &holes - &former.holes),
                None => {
                    examined.add(ids.len() as usize);
                    (RowAddrTreeMap::from(ids.as_ref()), holes.clone())
                }
            };
            examined.add(new.len() as usize);
            for id in ids.select(new.iter().map(|hole| hole as usize)) {
                live.remove(id);
            }
            Ok(Arc::new(Self { deletions, holes, ids: live }))
        })
        .await
    }
}

/// A value for each of some fragments, made from the rows of that fragment.
#[derive(Debug)]
pub(crate) struct PerFragment<V>(Vec<FragmentEntry<V>>);

/// A value made from the rows of one fragment.
#[derive(Debug)]
pub(crate) struct FragmentEntry<V> {
    /// The fragment as the current base has it.
    pub(crate) fragment: Fragment,
    /// The rows that the value was made from. Some may have been deleted since.
    source: Arc<FragmentRows>,
    pub(crate) value: Arc<V>,
}

impl<V> PerFragment<V> {
    /// Takes over the entries of `known` that are valid for `fragments`. Also returns the fragments that have none.
    pub(crate) fn carried(known: Option<&Self>, fragments: &[Fragment]) -> (Self, Vec<Fragment>) {
        let known: HashMap<&str, &FragmentEntry<V>> =
            known.into_iter().flat_map(|known| &known.0).map(|entry| (&*entry.fragment.files, entry)).collect();
        let (mut entries, mut missing) = (Vec::with_capacity(fragments.len()), Vec::new());
        for fragment in fragments {
            // An older base may have rows that were deleted before the value was made.
            let serves = |entry: &&&FragmentEntry<V>| entry.source.holes.is_subset(&fragment.live.holes);
            match known.get(&*fragment.files).filter(serves) {
                Some(entry) => entries.push(FragmentEntry {
                    fragment: fragment.clone(),
                    source: Arc::clone(&entry.source),
                    value: Arc::clone(&entry.value),
                }),
                None => missing.push(fragment.clone()),
            }
        }
        (Self(entries), missing)
    }

    /// Adds `value`, made from all live rows of `fragment`.
    pub(crate) fn push(&mut self, fragment: Fragment, value: V) {
        self.0.push(FragmentEntry { source: Arc::clone(&fragment.live), fragment, value: Arc::new(value) });
    }

    /// Returns whether the entries are of exactly `fragments`, with the same live rows.
    pub(crate) fn are_of(&self, fragments: &[Fragment]) -> bool {
        let known: HashMap<&str, &Arc<FragmentRows>> =
            self.0.iter().map(|entry| (&*entry.fragment.files, &entry.fragment.live)).collect();
        let is_same =
            |fragment: &Fragment| known.get(&*fragment.files).is_some_and(|live| Arc::ptr_eq(live, &fragment.live));
        self.0.len() == fragments.len() && fragments.iter().all(is_same)
    }

    /// Iterates over the entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &FragmentEntry<V>> {
        self.0.iter()
    }
}
