//! The addresses of the rows of a base, by row id.
//!
//! Lance has an index of row ids too, but it is rebuilt for every version, and in a fragment with holes it finds the
//! nth row by counting from the start, for each id. This one keeps the live rows of a fragment in runs, and shares them
//! between versions.

use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

use cenote_base::Result;
use lance::Dataset;
use lance::dataset::fragment::FileFragment;
use lance::dataset::rowids::load_row_id_sequence;
use lance_core::utils::address::RowAddress;
use lance_core::utils::deletion::DeletionVector;
use lance_table::rowids::RowIdSequence;
use lance_table::rowids::segment::U64Segment;
use moka::sync::Cache;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::blocking::blocking;
use crate::errors::lance_error;

/// Rows whose ids and offsets both increase by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdRun {
    first: u64,
    offset: u32,
    rows: u32,
}

/// The live rows of a fragment, by id.
#[derive(Debug)]
struct FragmentAddresses {
    fragment: u32,
    /// Sorted by id.
    runs: Vec<IdRun>,
    ids: RangeInclusive<u64>,
}

/// The live rows of a base, by id.
#[derive(Debug)]
pub(crate) struct RowAddresses(Vec<Arc<FragmentAddresses>>);

/// A cache of the row addresses of fragments, shared by all tables.
#[derive(Debug)]
pub(crate) struct AddressCache(Cache<u128, Arc<FragmentAddresses>>);

impl AddressCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let bytes = |_: &u128, addresses: &Arc<FragmentAddresses>| u32::try_from(addresses.bytes()).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(bytes_max).weigher(bytes).build())
    }
}

impl RowAddresses {
    pub(crate) async fn of(base: &Dataset, cache: &AddressCache) -> Result<Self> {
        let mut fragments = Vec::with_capacity(base.fragments().len());
        for fragment in base.get_fragments() {
            let key = identity(&fragment);
            if let Some(known) = cache.0.get(&key) {
                fragments.push(known);
                continue;
            }
            let ids = load_row_id_sequence(base, fragment.metadata()).await.map_err(lance_error)?;
            let deleted = fragment.get_deletion_vector().await.map_err(lance_error)?;
            let number = fragment.id() as u32;
            let made = blocking(move || Ok(FragmentAddresses::new(number, &ids, deleted.as_deref()))).await?;
            let made = Arc::new(made);
            cache.0.insert(key, Arc::clone(&made));
            fragments.push(made);
        }
        Ok(Self(fragments))
    }

    pub(crate) fn get(&self, row_id: u64) -> Option<RowAddress> {
        self.0.iter().find_map(|fragment| fragment.get(row_id))
    }
}

impl FragmentAddresses {
    fn new(fragment: u32, ids: &RowIdSequence, deleted: Option<&DeletionVector>) -> Self {
        let mut runs = Vec::new();
        let mut deleted = deleted.into_iter().flat_map(DeletionVector::to_sorted_iter).peekable();
        let mut start = 0;
        for segment in ids.segments() {
            let end = start + segment.len() as u32;
            if let U64Segment::Range(range) = segment {
                let mut at = start;
                while let Some(hole) = deleted.next_if(|hole| *hole < end) {
                    push(&mut runs, IdRun { first: range.start + u64::from(at - start), offset: at, rows: hole - at });
                    at = hole + 1;
                }
                push(&mut runs, IdRun { first: range.start + u64::from(at - start), offset: at, rows: end - at });
            } else {
                for (offset, first) in (start..).zip(segment.iter()) {
                    if deleted.next_if_eq(&offset).is_none() {
                        push(&mut runs, IdRun { first, offset, rows: 1 });
                    }
                }
            }
            start = end;
        }
        runs.sort_unstable_by_key(|run| run.first);
        runs.shrink_to_fit();
        // Without rows, an empty range.
        let ids = match (runs.first(), runs.last()) {
            (Some(first), Some(last)) => first.first..=last.first + u64::from(last.rows) - 1,
            _ => RangeInclusive::new(1, 0),
        };
        Self { fragment, runs, ids }
    }

    fn get(&self, row_id: u64) -> Option<RowAddress> {
        if !self.ids.contains(&row_id) {
            return None;
        }
        let run = self.runs[..self.runs.partition_point(|run| run.first <= row_id)].last()?;
        let within = u32::try_from(row_id - run.first).ok().filter(|within| *within < run.rows)?;
        Some(RowAddress::new_from_parts(self.fragment, run.offset + within))
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&self.runs[..])
    }
}

/// Adds `run`, merging it with the last one if it continues that.
fn push(runs: &mut Vec<IdRun>, run: IdRun) {
    match runs.last_mut() {
        _ if run.rows == 0 => {}
        Some(last) if last.first + u64::from(last.rows) == run.first && last.offset + last.rows == run.offset => {
            last.rows += run.rows;
        }
        _ => runs.push(run),
    }
}

/// Returns a hash that identifies a fragment as it is in one version, by its files and deletions.
fn identity(fragment: &FileFragment) -> u128 {
    let metadata = fragment.metadata();
    let mut hasher = SipHasher13::new();
    hasher.write_usize(fragment.id());
    metadata.files.iter().for_each(|file| file.path.hash(&mut hasher));
    if let Some(deleted) = &metadata.deletion_file {
        (deleted.read_version, deleted.id).hash(&mut hasher);
    }
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use cenote_base::Random;

    use super::*;

    #[test]
    fn rows_are_found_wherever_compactions_left_them() {
        let mut random = Random::new(5);
        for _ in 0..500 {
            // Files one after another, in any order of their ids, with and without holes, and with some rows deleted
            // since.
            let parts = 1 + random.below(4);
            let mut starts: Vec<u64> = (0..parts).map(|part| part * 40).collect();
            starts.sort_by_cached_key(|_| random.next_u64());
            let mut ids = RowIdSequence::new();
            for start in starts {
                let mut part: Vec<u64> = (start..start + 1 + random.below(8)).collect();
                if random.below(3) > 0 {
                    part.retain(|_| random.below(4) > 0);
                }
                if random.below(4) == 0 {
                    part.reverse();
                }
                ids.extend(RowIdSequence::try_from_iter(part).unwrap());
            }
            let is_deleted: Vec<bool> = ids.iter().map(|_| random.below(3) == 0).collect();
            let deleted: DeletionVector =
                (0..).zip(&is_deleted).filter_map(|(row, gone)| gone.then_some(row)).collect();
            let addresses = RowAddresses(vec![Arc::new(FragmentAddresses::new(7, &ids, Some(&deleted)))]);
            for id in 0..200 {
                let live = ids.iter().zip(&is_deleted).position(|(row, gone)| row == id && !gone);
                let expected = live.map(|offset| RowAddress::new_from_parts(7, offset as u32));
                assert_eq!(addresses.get(id), expected, "{id} of {ids:?} without {deleted:?}");
            }
        }
    }
}
