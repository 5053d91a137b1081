#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cenote_base::Random;

use super::*;

/// Returns a hash near a border of the buckets, or one of few with the same top bits, or any hash.
fn hash(random: &mut Random) -> u128 {
    let low = u128::from(random.below(200));
    match random.below(4) {
        0 => low,
        1 => u128::MAX - low,
        2 => low << 120 | low,
        _ => u128::from(Random::new(low as u64).next_u64()) << 64 | low,
    }
}

fn check(index: &KeyIndex, model: &BTreeMap<u128, u64>, asked: &[u128]) {
    let expected: Vec<Option<u64>> = asked.iter().map(|hash| model.get(hash).copied()).collect();
    assert_eq!(index.get_many(asked).unwrap(), expected);
    for (hash, row) in asked.iter().zip(expected).take(20) {
        assert_eq!(index.get_many(&[*hash]).unwrap(), [row], "{hash:x}");
        // It may not be in memory, but is never wrong.
        assert!(index.get_many_cached(&[*hash]).unwrap().is_none_or(|cached| cached == [row]), "{hash:x}");
    }
}

fn advance(index: &KeyIndex, version: u64, entries: Vec<(u128, Option<u64>)>) -> KeyIndex {
    let next = index.advance(version, entries).unwrap();
    next.save(version).unwrap();
    next
}

fn files(directory: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Makes the index of version 1 with one level of `count` entries.
fn one_level(directory: &Path, count: u64) -> (KeyIndex, PathBuf) {
    let mut random = Random::new(3);
    let mut hash = || u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    let entries = (0..count).map(|row| (hash(), Some(row))).collect();
    let index = advance(&KeyIndex::empty(directory).unwrap(), 1, entries);
    let path = index.levels[0].path.clone();
    (index, path)
}

fn open_error(directory: &Path) -> ErrorKind {
    KeyIndex::open(directory, 1).unwrap_err().kind()
}

#[test]
fn answers_as_a_map_does_after_every_advance_and_reopen() {
    for seed in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random::new(seed);
        let mut model = BTreeMap::new();
        let mut index = KeyIndex::empty(directory.path()).unwrap();
        let mut past = Vec::new();
        for version in 1..25 {
            let size = 1 << random.below(9);
            let delete_percent = [5, 50, 95][random.below(3) as usize];
            let mut entries = BTreeMap::new();
            for _ in 0..random.below(size) {
                let row = (random.below(100) >= delete_percent).then(|| random.below(GONE));
                entries.insert(hash(&mut random), row);
            }
            for (hash, row) in &entries {
                match row {
                    Some(row) => model.insert(*hash, *row),
                    None => model.remove(hash),
                };
            }
            // Unordered: the largest low bits first.
            let mut entries: Vec<_> = entries.into_iter().collect();
            entries.sort_by_key(|(hash, _)| std::cmp::Reverse(*hash as u64));
            index = advance(&index, version, entries);
            let reopened = KeyIndex::open(directory.path(), version).unwrap().unwrap();
            let mut asked: Vec<u128> = (0..300).map(|_| hash(&mut random)).collect();
            asked.extend([0, u128::MAX]);
            check(&index, &model, &asked);
            check(&reopened, &model, &asked);
            check(&reopened, &model, &model.keys().copied().collect::<Vec<_>>());
            past.push((reopened, model.clone()));
            // Half of the time, the next index is made from what was read instead of what was written.
            if random.below(2) == 0 {
                index = KeyIndex::open(directory.path(), version).unwrap().unwrap();
            }
        }
        for (version, (index, model)) in (1..).zip(&past) {
            let asked: Vec<u128> = (0..100).map(|_| hash(&mut random)).collect();
            check(index, model, &asked);
            check(&KeyIndex::open(directory.path(), version).unwrap().unwrap(), model, &asked);
        }
    }
}

#[test]
fn levels_stay_few_and_each_is_over_four_times_the_newer() {
    let directory = tempfile::tempdir().unwrap();
    let mut index = KeyIndex::empty(directory.path()).unwrap();
    let key = |row| u128::from(Random::new(row).next_u64()) << 64;
    let mut levels_max = 0;
    for version in 0..150 {
        let entries = (version * 10..(version + 1) * 10).map(|row| (key(row), Some(row)));
        index = advance(&index, version, entries.collect());
        levels_max = levels_max.max(index.levels.len());
        for pair in index.levels.windows(2) {
            assert!(pair[0].entries * MERGE_RATIO < pair[1].entries, "{index:?}");
        }
        // What is left suffices to go on.
        KeyIndex::collect(directory.path(), &BTreeSet::from([version])).unwrap();
    }
    assert!((3..=4).contains(&levels_max), "{levels_max} levels");
    assert_eq!(index.levels.iter().map(|level| level.entries).sum::<u64>(), 1500);
    let asked: Vec<u128> = (0..1500).map(key).collect();
    assert_eq!(index.get_many(&asked).unwrap(), (0..1500).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_gone_key_leaves_the_oldest_level() {
    let directory = tempfile::tempdir().unwrap();
    let (index, _) = one_level(directory.path(), 1000);
    let keys: Vec<u128> = index.levels[0].entries().map(|entry| entry.unwrap().0).collect();
    let gone = |keys: &[u128]| keys.iter().map(|hash| (*hash, None)).collect::<Vec<_>>();

    let index = advance(&index, 2, gone(&keys[..100]));
    assert_eq!(index.levels.len(), 2, "its word stays while an older level has the key");
    let index = advance(&index, 3, gone(&keys[100..400]));
    assert_eq!(index.levels.iter().map(|level| level.entries).collect::<Vec<_>>(), [600]);
    let index = advance(&index, 4, gone(&keys[400..]));
    assert_eq!(index.levels.len(), 0);
    assert_eq!(KeyIndex::open(directory.path(), 4).unwrap().unwrap().get_many(&keys).unwrap(), vec![None; 1000]);
    let index = advance(&index, 5, gone(&keys));
    assert_eq!(index.levels.len(), 0, "there is nothing to be gone from");
}

#[test]
fn an_advance_by_nothing_names_the_same_levels() {
    let directory = tempfile::tempdir().unwrap();
    let (index, path) = one_level(directory.path(), 10);
    advance(&index, 2, Vec::new());
    let same = KeyIndex::open(directory.path(), 2).unwrap().unwrap();
    assert_eq!(same.levels.iter().map(|level| &level.path).collect::<Vec<_>>(), [&path]);
}

#[test]
fn hashes_at_the_borders_of_buckets_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let bits = 5;
    let count = BUCKET_ENTRIES << bits;
    let border = |bucket: u128| bucket << (128 - bits);
    let mut keys: Vec<u128> = (0..1 << bits).flat_map(|bucket| [border(bucket), border(bucket) | 1]).collect();
    keys.extend((1..1 << bits).map(|bucket| border(bucket) - 1));
    keys.push(u128::MAX);
    // One bucket with nearly all entries.
    keys.extend((0..).map(|low| border(7) + 100 + low).take(count as usize - keys.len()));
    let entries = keys.iter().enumerate().map(|(row, hash)| (*hash, Some(row as u64))).collect();
    let index = advance(&KeyIndex::empty(directory.path()).unwrap(), 1, entries);
    assert_eq!(index.levels[0].bucket_bits, bits);
    for index in [index, KeyIndex::open(directory.path(), 1).unwrap().unwrap()] {
        assert_eq!(index.get_many(&keys).unwrap(), (0..count).map(Some).collect::<Vec<_>>());
        let absent = [2, border(1) - 2, border(7) + 99, border(8) + 2, u128::MAX - 1];
        assert_eq!(index.get_many(&absent).unwrap(), [None; 5]);
        assert_eq!(index.get_many(&[keys[5], 2, keys[5]]).unwrap(), [Some(5), None, Some(5)]);
    }
}

#[test]
fn a_truncated_level_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let (_, path) = one_level(directory.path(), 1000);
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 1, FOOTER_BYTES - 1, FOOTER_BYTES, 1000 * ENTRY_BYTES, bytes.len() - ENTRY_BYTES, bytes.len() - 1]
    {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert_eq!(open_error(directory.path()), ErrorKind::Corrupt, "{length} bytes");
    }
    // The footer is intact, but not what it describes.
    std::fs::write(&path, &bytes[ENTRY_BYTES..]).unwrap();
    assert_eq!(open_error(directory.path()), ErrorKind::Corrupt);
    let error = KeyIndex::open(directory.path(), 1).unwrap_err();
    assert!(error.message().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_flipped_bit_of_directory_or_footer_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (_, path) = one_level(directory.path(), 1000);
    let bytes = std::fs::read(&path).unwrap();
    let format = bytes.len() - FOOTER_BYTES + 12..bytes.len() - FOOTER_BYTES + 16;
    for at in 1000 * ENTRY_BYTES..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).unwrap();
        let kind = open_error(directory.path());
        // A flipped format looks like one of a later version.
        assert!(kind == ErrorKind::Corrupt || format.contains(&at) && kind == ErrorKind::Unsupported, "{at}: {kind}");
    }
    std::fs::write(&path, &bytes).unwrap();
    assert!(KeyIndex::open(directory.path(), 1).unwrap().is_some());
}

#[test]
fn entries_that_a_disk_made_up_are_no_answer_and_their_file_is_given_up() {
    for flips in [0, 1] {
        let directory = tempfile::tempdir().unwrap();
        let (index, path) = one_level(directory.path(), 1000);
        let keys: Vec<u128> = index.levels[0].entries().map(|entry| entry.unwrap().0).collect();
        let mut bytes = std::fs::read(&path).unwrap();
        match flips {
            // A block of the disk that was never written.
            0 => bytes[..4096].fill(0),
            _ => bytes[500 * ENTRY_BYTES + 20] ^= 1,
        }
        std::fs::write(&path, &bytes).unwrap();
        let index = KeyIndex::open(directory.path(), 1).unwrap().unwrap();
        assert_eq!(index.get_many(&keys).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!path.exists());
        assert!(index.get_many_cached(&keys).is_err());
        assert_eq!(index.advance(2, vec![(1, Some(1)); 1000]).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(KeyIndex::open(directory.path(), 1).unwrap().is_none());
        std::fs::write(&path, &bytes).unwrap();
        KeyIndex::discard_damaged(directory.path(), 1).unwrap();
        assert!(!path.exists());
        // The rest is still valid.
        let last = keys.last().copied().unwrap();
        assert!(index.get_many(&[last]).unwrap()[0].is_some());
    }
}

#[test]
fn a_level_of_format_1_is_read_and_merged() {
    let directory = tempfile::tempdir().unwrap();
    let (index, path) = one_level(directory.path(), 1000);
    let expected: Vec<(u128, u64)> = index.levels[0].entries().map(Result::unwrap).collect();
    let bytes = std::fs::read(&path).unwrap();
    let (body, footer) = bytes.split_at(bytes.len() - FOOTER_BYTES);
    let buckets = index.levels[0].buckets.len() - 1;
    let (mut old, mut footer) = (body[..body.len() - 4 * buckets].to_vec(), footer.to_vec());
    footer[12..16].copy_from_slice(&1u32.to_le_bytes());
    let crc = checksum(&old[1000 * ENTRY_BYTES..], &footer[..16]);
    footer[16..20].copy_from_slice(&crc.to_le_bytes());
    old.extend(footer);
    std::fs::write(&path, old).unwrap();

    let index = KeyIndex::open(directory.path(), 1).unwrap().unwrap();
    let (keys, rows): (Vec<u128>, Vec<Option<u64>>) = expected.into_iter().map(|(key, row)| (key, Some(row))).unzip();
    assert_eq!(index.get_many(&keys).unwrap(), rows);
    let merged = advance(&index, 2, (0..500).map(|low| (low, Some(low as u64))).collect());
    assert_eq!(merged.levels.len(), 1);
    assert_eq!(merged.get_many(&keys).unwrap(), rows);
    assert!(KeyIndex::is_whole(directory.path(), &merged.levels[0].name).unwrap());
}

#[test]
fn a_later_format_is_unsupported_and_a_bad_manifest_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let (index, path) = one_level(directory.path(), 10);
    let manifest = directory.path().join(manifest_name(1));
    let written = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, r#"{"format":3,"levels":[]}"#).unwrap();
    assert_eq!(open_error(directory.path()), ErrorKind::Unsupported);
    for bad in ["", "{", r#"{"format":1}"#] {
        std::fs::write(&manifest, bad).unwrap();
        assert_eq!(open_error(directory.path()), ErrorKind::Corrupt, "{bad}");
    }
    std::fs::write(&manifest, written).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let footer = bytes.len() - FOOTER_BYTES;
    bytes[footer + 12..footer + 16].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(open_error(directory.path()), ErrorKind::Unsupported);
    drop(index);
}

#[test]
fn no_manifest_or_a_lost_level_is_no_index() {
    let directory = tempfile::tempdir().unwrap();
    let (_, path) = one_level(directory.path(), 10);
    assert!(KeyIndex::open(directory.path(), 2).unwrap().is_none());
    assert!(KeyIndex::open(&directory.path().join("none"), 1).unwrap().is_none());
    std::fs::remove_file(path).unwrap();
    assert!(KeyIndex::open(directory.path(), 1).unwrap().is_none());
}

#[test]
fn collect_keeps_what_the_kept_versions_name() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = one_level(directory.path(), 1000);
    let second = advance(&first, 2, vec![(5, Some(5))]);
    let third = advance(&second, 3, (0..50).map(|low| (low, None)).collect());
    let fourth = advance(&third, 4, (0..900).map(|low| (low, Some(4))).collect());
    let left_by_a_crash = directory.path().join(unique_name(9, "part"));
    std::fs::write(&left_by_a_crash, "{").unwrap();
    let left = File::options().write(true).open(&left_by_a_crash).unwrap();
    left.set_modified(left.metadata().unwrap().modified().unwrap() - ABANDONED_AGE).unwrap();
    let being_written = directory.path().join(unique_name(9, "part"));
    std::fs::write(&being_written, "{").unwrap();

    KeyIndex::collect(directory.path(), &BTreeSet::from([2, 4, 77])).unwrap();
    let named = second.levels.iter().chain(&fourth.levels).map(|level| level.name.clone());
    let part = being_written.file_name().unwrap().to_str().unwrap().to_owned();
    let expected: BTreeSet<String> = named.chain(["2.json".to_owned(), "4.json".to_owned(), part]).collect();
    assert_eq!(files(directory.path()), expected);
    std::fs::remove_file(being_written).unwrap();
    assert!(KeyIndex::open(directory.path(), 1).unwrap().is_none());
    assert!(KeyIndex::open(directory.path(), 3).unwrap().is_none());
    let open = |version| KeyIndex::open(directory.path(), version).unwrap().unwrap();
    assert_eq!(open(2).get_many(&[5, 6]).unwrap(), [Some(5), None]);
    assert_eq!(open(4).get_many(&[5, 900]).unwrap(), [Some(4), None]);
    // An index in use still has its files.
    assert_eq!(third.get_many(&[5, 60]).unwrap(), [None, None]);
    advance(&fourth, 5, (0..900).map(|low| (low, None)).collect());
    assert_eq!(open(5).get_many(&[5, 899]).unwrap(), [None, None]);

    KeyIndex::collect(directory.path(), &BTreeSet::new()).unwrap();
    assert_eq!(files(directory.path()), BTreeSet::new());
    KeyIndex::collect(&directory.path().join("none"), &BTreeSet::from([1])).unwrap();
}

#[test]
fn is_shared_between_threads() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<KeyIndex>();
}
