//! Planning which files of a base to join.
//!
//! Files form levels by their number of rows: the files of successive levels have at least 1, 32, 1,024 and 32,768
//! rows. Files of one level are joined as soon as they add up to one of the next level, so a row is rewritten once per
//! level. Rows add up exactly when files are joined and bytes do not, because a small file is mostly overhead. A file
//! that is large enough, in rows or in bytes, is full and left alone, so wide rows pass fewer levels. A file that has
//! lost most of its rows counts by what is left of it.
//!
//! Only files that are covered by the same indexes are joined, because an index covers all rows of a file or none.

use std::collections::BTreeMap;

/// Rows of a file of one level, relative to the level below.
const LEVEL_RATIO: usize = 32;
/// Upkeep rewrites a file by itself once it has lost this share of its rows.
const DELETED_SHARE: f64 = 0.5;

/// The target sizes of joined files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Target bytes of a joined file, media included; it has at most twice as many.
    pub(crate) bytes: u64,
    /// Target rows of a joined file; it has at most twice as many.
    pub(crate) rows: usize,
}

/// A file of a base with its sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) fragment: u64,
    pub(crate) rows: usize,
    pub(crate) deleted: usize,
    pub(crate) bytes: u64,
    /// The indexes that cover it.
    pub(crate) indexes: Vec<usize>,
}

/// Files to be joined into one.
pub(crate) type Group = Vec<File>;

impl File {
    fn live(&self) -> usize {
        self.rows - self.deleted
    }

    fn live_bytes(&self) -> u64 {
        (self.bytes as u128 * self.live() as u128 / self.rows.max(1) as u128) as u64
    }

    fn has_lost(&self, share: f64) -> bool {
        self.deleted as f64 > self.rows as f64 * share
    }

    /// Returns its level, or `None` when it is full.
    fn level(&self, limits: Limits) -> Option<u32> {
        let (rows, bytes) = match self.has_lost(DELETED_SHARE) {
            true => (self.live(), self.live_bytes()),
            false => (self.rows, self.bytes),
        };
        // Half of the bytes suffice: a joined file is smaller than its parts together, and must not be joined with such
        // parts again.
        let is_full = rows >= limits.rows || bytes >= limits.bytes / 2;
        (!is_full).then(|| rows.max(1).ilog(LEVEL_RATIO))
    }
}

/// Files to join, until there are enough of them.
#[derive(Debug, Default)]
struct Gathered {
    files: Group,
    rows: usize,
    bytes: u64,
}

impl Gathered {
    /// Adds `file`; returns all files once they have `rows` rows or `bytes` bytes together.
    fn add(&mut self, file: &File, rows: usize, bytes: u64) -> Option<Group> {
        self.files.push(file.clone());
        self.rows += file.live();
        self.bytes += file.live_bytes();
        (self.rows >= rows || self.bytes >= bytes).then(|| std::mem::take(self).files)
    }
}

/// Returns the live rows of `group`.
pub(crate) fn live_rows(group: &[File]) -> usize {
    group.iter().map(File::live).sum()
}

/// Returns the bytes of the live rows of `group`.
pub(crate) fn live_bytes(group: &[File]) -> u64 {
    group.iter().map(File::live_bytes).sum()
}

/// Plans the joins that upkeep does by itself; `files` are in order of age.
pub(crate) fn due(files: &[File], limits: Limits) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut levels: BTreeMap<(&[usize], u32), Gathered> = BTreeMap::new();
    for file in files {
        let Some(level) = file.level(limits) else { continue };
        let rows = LEVEL_RATIO.saturating_pow(level + 1).min(limits.rows);
        groups.extend(levels.entry((&file.indexes, level)).or_default().add(file, rows, limits.bytes));
    }
    let left = levels.into_values().flat_map(|gathered| gathered.files);
    groups.extend(left.filter(|file| file.has_lost(DELETED_SHARE)).map(|file| vec![file]));
    groups
}

/// Plans the joins of a requested compaction: all files that are not full, and those that have lost more than
/// `deleted_share` of their rows.
pub(crate) fn all(files: &[File], limits: Limits, deleted_share: f64) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut gathered: BTreeMap<&[usize], Gathered> = BTreeMap::new();
    for file in files.iter().filter(|file| file.level(limits).is_some() || file.has_lost(deleted_share)) {
        groups.extend(gathered.entry(&file.indexes).or_default().add(file, limits.rows, limits.bytes));
    }
    groups.extend(gathered.into_values().map(|gathered| gathered.files));
    groups.retain(|group| group.len() > 1 || group.iter().any(|file| file.has_lost(deleted_share)));
    groups
}

#[cfg(test)]
mod tests {
    use cenote_base::Random;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMITS: Limits = Limits { bytes: 16 * MIB, rows: 1 << 17 };
    /// Bytes of a file in addition to its rows.
    const OVERHEAD_BYTES: u64 = 1_500;

    /// A table that is written fold by fold.
    #[derive(Default)]
    struct Simulation {
        row_bytes: u64,
        files: Vec<File>,
        /// The fragment to which each row was folded, by key; and the fragment that replaced each fragment.
        folded_to: Vec<u64>,
        joined_to: Vec<u64>,
        accepted: u64,
        stored: u64,
        /// The maximum number of files that were not full.
        files_max: usize,
    }

    impl Simulation {
        fn write(&mut self, rows: usize) -> u64 {
            let fragment = self.joined_to.len() as u64;
            self.joined_to.push(fragment);
            self.stored += rows as u64 * self.row_bytes;
            self.files.push(file(fragment, rows, 0, rows as u64 * self.row_bytes + OVERHEAD_BYTES));
            fragment
        }

        fn newest(&self, mut fragment: u64) -> u64 {
            while self.joined_to[fragment as usize] != fragment {
                fragment = self.joined_to[fragment as usize];
            }
            fragment
        }

        /// Logs and folds `rows` rows, of which `replaced` percent replace others, and joins what is due.
        fn fold(&mut self, rows: usize, replaced: u64, random: &mut Random) {
            self.stored += rows as u64 * self.row_bytes;
            self.accepted += rows as u64 * self.row_bytes;
            let known = self.folded_to.len() as u64;
            let fragment = self.write(rows);
            for _ in 0..rows {
                let key = random.below(known.max(1)) as usize;
                let old = self.folded_to.get(key).map(|old| self.newest(*old)).filter(|old| *old != fragment);
                match old.filter(|_| random.below(100) < replaced) {
                    Some(old) => {
                        // Fragments are numbered in order of age.
                        let file = self.files.partition_point(|file| file.fragment < old);
                        self.files[file].deleted += 1;
                        self.folded_to[key] = fragment;
                    }
                    None => self.folded_to.push(fragment),
                }
            }
            self.files.retain(|file| file.live() > 0);
            for group in due(&self.files, LIMITS) {
                let joined = self.write(live_rows(&group));
                group.iter().for_each(|file| self.joined_to[file.fragment as usize] = joined);
                self.files.retain(|file| !group.contains(file));
            }
            let small = self.files.iter().filter(|file| file.level(LIMITS).is_some()).count();
            self.files_max = self.files_max.max(small);
        }
    }

    #[test]
    fn a_byte_is_written_five_times_at_most_however_wide_rows_are() {
        for (row_bytes, rows) in [(16, 40), (100, 300), (3_000, 40), (3_000, 2_000), (100_000, 40), (MIB, 2)] {
            for replaced in [0, 50, 90] {
                let mut random = Random::new(7);
                let mut table = Simulation { row_bytes, ..Simulation::default() };
                for _ in 0..(300_000 / rows).min(3_000) {
                    table.fold(rows, replaced, &mut random);
                }
                let what = format!("{row_bytes} bytes a row, {rows} rows a fold, {replaced} % of them replace others");
                let amplification = table.stored as f64 / table.accepted as f64;
                assert!((2.0..=5.0).contains(&amplification), "{what}: {amplification}");
                assert!(table.files_max <= 4 * LEVEL_RATIO, "{what}: {} files", table.files_max);
                assert_eq!(live_rows(&table.files), table.folded_to.len(), "{what}");
            }
        }
    }

    fn file(fragment: u64, rows: usize, deleted: usize, bytes: u64) -> File {
        File { fragment, rows, deleted, bytes, indexes: Vec::new() }
    }

    fn fragments(groups: &[Group]) -> Vec<Vec<u64>> {
        groups.iter().map(|group| group.iter().map(|file| file.fragment).collect()).collect()
    }

    #[test]
    fn a_full_file_is_left_alone_and_a_small_one_waits_for_others() {
        let mut files = vec![file(1, 700, 0, 9 * MIB), file(2, 1 << 17, 0, MIB)];
        files.extend((3..=28).map(|fragment| file(fragment, 40, 0, 2_000)));
        // They had enough rows for the next level, until some were deleted.
        files[4].deleted = 20;
        assert_eq!(fragments(&due(&files, LIMITS)), [[0; 0]; 0]);
        files.push(file(29, 40, 0, 2_000));
        assert_eq!(fragments(&due(&files, LIMITS)), [(3..=29).collect::<Vec<u64>>()]);
    }

    #[test]
    fn wide_rows_are_joined_by_their_bytes() {
        let files: Vec<File> = (0..9).map(|fragment| file(fragment, 2, 0, 5 * MIB)).collect();
        assert_eq!(fragments(&due(&files, LIMITS)), [[0, 1, 2, 3], [4, 5, 6, 7]]);
    }

    #[test]
    fn a_file_that_lost_most_of_its_rows_is_written_anew() {
        let files = [file(1, 1 << 18, (1 << 17) + 1, MIB), file(2, 1 << 18, 1 << 17, MIB), file(3, 9, 8, 100)];
        assert_eq!(fragments(&due(&files, LIMITS)), [[3], [1]]);
        assert_eq!(fragments(&all(&files, LIMITS, 0.1)), [vec![1, 2], vec![3]]);
        assert_eq!(fragments(&all(&files, LIMITS, 0.6)), [[1, 3]]);
        assert_eq!(fragments(&all(&files[1..2], LIMITS, 0.0)), [[2]]);
        assert_eq!(fragments(&all(&files[1..2], LIMITS, 0.5)), [[0; 0]; 0]);
    }

    #[test]
    fn files_of_different_indexes_are_not_joined() {
        let indexed = |fragment| File { indexes: vec![0], ..file(fragment, 40, 0, 1_000) };
        let mut files: Vec<File> = (0..25).map(indexed).collect();
        files.extend((25..50).map(|fragment| file(fragment, 40, 0, 1_000)));
        assert_eq!(fragments(&due(&files, LIMITS)), [[0; 0]; 0]);
        assert_eq!(fragments(&all(&files, LIMITS, 0.1)), [(25..50).collect::<Vec<u64>>(), (0..25).collect()]);
    }
}
