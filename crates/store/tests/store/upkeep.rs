//! The cost and the result of upkeep: bytes written per byte received, and bytes left that nobody can read any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type};
use cenote_base::{ByteSize, ErrorKind, ManualClock, Random, Timestamp};
use cenote_store::{Faults, RETENTION_PROPERTY, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, Version};

/// Makes rows of `ids` with vectors of `dimensions` numbers, the first of which is `value`.
fn vectors(ids: &[i64], value: usize, dimensions: usize, random: &mut Random) -> RecordBatch {
    let number = |at: usize| if at.is_multiple_of(dimensions) { value as f32 } else { random.next_u64() as f32 };
    let numbers = (0..ids.len() * dimensions).map(number).collect::<Float32Array>();
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, dimensions as i32, Arc::new(numbers), None);
    let columns = [("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef), ("vector", Arc::new(vectors))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name != "id"))).unwrap()
}

/// Returns the first number of each row's vector.
async fn values(table: &Table, dimensions: usize) -> BTreeMap<i64, usize> {
    let batch = table.snapshot().await.unwrap().collect(&ScanRequest::default()).await.unwrap();
    let ids = batch["id"].as_primitive::<Int64Type>().values().iter().copied();
    let numbers = batch["vector"].as_fixed_size_list().values().as_primitive::<Float32Type>().values();
    ids.zip(numbers.iter().step_by(dimensions).map(|number| *number as usize)).collect()
}

/// Folds `rows` rows of `dimensions` numbers, half of which replace others, `folds` times. Checks that files become
/// full at `file_rows` rows or `file_bytes` bytes, and that small files stay few.
async fn keep_in_shape(dimensions: usize, rows: usize, folds: usize, file_rows: usize, file_bytes: ByteSize) {
    let directory = tempfile::tempdir().unwrap();
    // Every call is a reason to fold.
    let options = StoreOptions { fold_rows: 1, file_rows, file_bytes, ..StoreOptions::default() };
    let store = Store::open(directory.path(), options).await.unwrap();
    let mut random = Random::new(1);
    let schema = vectors(&[], 0, dimensions, &mut random).schema();
    let mut spec = TableSpec::new(schema, ["id"]);
    // The cost of history is not measured here.
    spec.properties.insert(RETENTION_PROPERTY.to_owned(), "0".to_owned());
    let table = store.create_table("t", spec).await.unwrap();
    let mut expected: BTreeMap<i64, usize> = BTreeMap::new();
    let (mut files_max, mut full_max) = (0, 0);
    for fold in 0..folds {
        let known = expected.len() as i64;
        let mut ids: BTreeSet<i64> = (known..known + rows as i64 / 2).collect();
        while known > 0 && ids.len() < rows {
            ids.insert(random.below(known as u64) as i64);
        }
        let ids: Vec<i64> = ids.into_iter().collect();
        table.upsert(vectors(&ids, fold, dimensions, &mut random)).await.unwrap();
        expected.extend(ids.iter().map(|id| (*id, fold)));
        while table.tend().await.unwrap().is_some() {}
        let snapshot = table.snapshot().await.unwrap();
        let row_bytes = dimensions * size_of::<f32>();
        let is_full = |rows: usize| rows >= file_rows || (rows * row_bytes) as u64 >= file_bytes.0 * 2 / 3;
        let sizes = snapshot.base().fragments().iter().map(|fragment| fragment.physical_rows.unwrap());
        let full = sizes.clone().filter(|rows| is_full(*rows)).count();
        files_max = files_max.max(sizes.len() - full);
        full_max = full_max.max(full);
        if fold % 64 == 0 {
            assert_eq!(values(&table, dimensions).await, expected);
        }
    }
    assert_eq!(values(&table, dimensions).await, expected);
    assert!(full_max > 0, "no file became full");
    assert!(files_max <= 2 * 32, "{files_max} small files");
    // Writing to the log and to the base makes two.
    let status = table.upkeep().await.unwrap();
    assert!((2.0..=5.0).contains(&status.amplification), "{status:?}");
    table.compact(false).await.unwrap();
    assert_eq!(values(&table, dimensions).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_of_narrow_rows_is_written_five_times_at_most() {
    // Two levels below full files.
    keep_in_shape(64, 40, 200, 1_500, ByteSize::mib(64)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_of_wide_rows_is_written_five_times_at_most() {
    keep_in_shape(4_096, 4, 150, 1 << 20, ByteSize(1_500_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_opens_a_table_reads_no_keys_of_rows_that_were_written_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { bulk_bytes: ByteSize(1), ..StoreOptions::default() };
    let store = Store::open(directory.path(), options.clone()).await.unwrap();
    let table = store.create_table("t", TableSpec::new(notes([], "").schema(), ["id"])).await.unwrap();
    table.upsert(notes(0..200_000, "first")).await.unwrap();
    let segments = std::fs::read_dir(directory.path().join("t.changes")).unwrap().map(|entry| entry.unwrap().path());
    let newest = segments.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap();
    let bytes = std::fs::metadata(&newest).unwrap().len();
    assert!(bytes < 10_000, "{bytes} bytes in {}", newest.display());

    let again = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    again.upsert(notes([5, 200_000], "second")).await.unwrap();
    for table in [table, again] {
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(snapshot.count(None).await.unwrap(), 200_001);
        assert_eq!(snapshot.count(Some("note = 'second'".into())).await.unwrap(), 2);
    }
}

fn notes(ids: impl IntoIterator<Item = i64>, note: &str) -> RecordBatch {
    let ids: Int64Array = ids.into_iter().collect();
    let notes = StringArray::from(vec![note; ids.len()]);
    let columns = [("id", Arc::new(ids) as ArrayRef), ("note", Arc::new(notes))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name != "id"))).unwrap()
}

async fn read(snapshot: &Snapshot) -> BTreeMap<i64, String> {
    let batch = snapshot.collect(&ScanRequest::default()).await.unwrap();
    let (ids, notes) = (batch["id"].as_primitive::<Int64Type>(), batch["note"].as_string::<i32>());
    ids.values().iter().copied().zip(notes.iter().flatten().map(str::to_owned)).collect()
}

/// Counts the files under `directory` that hold `text`.
fn files_with(directory: &Path, text: &str) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => files_with(&path, text),
        false => usize::from(std::fs::read(&path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes())),
    };
    entries.map(count).sum()
}

#[tokio::test]
async fn a_tag_keeps_its_version_and_nothing_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.create_table("t", TableSpec::new(notes([], "").schema(), ["id"])).await.unwrap();
    let rows = |parts: &[(std::ops::Range<i64>, &str)]| -> BTreeMap<i64, String> {
        parts.iter().flat_map(|(ids, note)| ids.clone().map(|id| (id, (*note).to_owned()))).collect()
    };
    // One tag is on a base, one on later writes that were folded afterwards. Some rows were inserted and deleted
    // before, between and after them.
    table.upsert(notes(20..21, "firstsecret")).await.unwrap();
    table.delete(&notes(20..21, "")).await.unwrap();
    let plain = table.upsert(notes(0..4, "plain")).await.unwrap().version;
    table.fold().await.unwrap();
    table.tag("plain", plain).await.unwrap();
    let between = table.upsert(notes(21..22, "middlesecret")).await.unwrap().version;
    table.delete(&notes(21..22, "")).await.unwrap();
    table.fold().await.unwrap();
    let changed = table.upsert(notes(2..6, "changed")).await.unwrap().version;
    table.tag("changed", changed).await.unwrap();
    table.upsert(notes(22..23, "lastsecret")).await.unwrap();
    table.fold().await.unwrap();
    table.delete(&notes(22..23, "")).await.unwrap();
    let newest = table.upsert(notes(0..1, "newest")).await.unwrap().version;
    table.compact(true).await.unwrap();

    let held = table.snapshot_of("plain").await.unwrap();
    let oldest = table.collect(Some(Duration::ZERO)).await.unwrap().oldest;
    assert_eq!(oldest, newest);
    for secret in ["middlesecret", "lastsecret"] {
        assert_eq!(files_with(directory.path(), secret), 0, "{secret}");
    }
    let expected =
        [("plain", plain, rows(&[(0..4, "plain")])), ("changed", changed, rows(&[(0..2, "plain"), (2..6, "changed")]))];
    let other = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    for table in [&table, &other] {
        for (tag, version, rows) in &expected {
            assert_eq!(&read(&table.snapshot_of(tag).await.unwrap()).await, rows, "{tag}");
            assert_eq!(&read(&table.snapshot_at(*version).await.unwrap()).await, rows, "{tag}");
        }
        let listed: Vec<Version> = table.versions().await.unwrap().iter().map(|listed| listed.version).collect();
        assert_eq!(listed, [plain, changed, newest]);
        let error = table.snapshot_at(between).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let what = format!(
            "there is no version {between}: versions {newest} to {newest} can be read, and older ones that have a tag"
        );
        assert_eq!(error.to_string(), what);
        // The versions after a tagged one are gone, and the feed must not skip them.
        let error = table.changes(plain).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(read(&held).await, expected[0].2);

    // Later collections neither lose what a tag keeps, nor keep it longer than the tag.
    for round in 0..4 {
        table.upsert(notes([30 + round], "later")).await.unwrap();
        table.fold().await.unwrap();
        table.collect(Some(Duration::ZERO)).await.unwrap();
    }
    assert_eq!(read(&other.snapshot_of("plain").await.unwrap()).await, expected[0].2);
    table.untag("changed").await.unwrap();
    drop(held);
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(other.snapshot_at(changed).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(read(&other.snapshot_of("plain").await.unwrap()).await, expected[0].2);
    let keeps = |tag: &str| files_with(&directory.path().join("t.lance/_refs"), tag);
    assert_eq!((keeps("version"), files_with(directory.path(), "firstsecret")), (1, 0));
}

#[tokio::test]
async fn a_reader_elsewhere_keeps_its_snapshot_for_the_time_of_retention() {
    const HOUR: i64 = 3_600_000_000;
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000)));
    let options = StoreOptions { clock: Arc::clone(&clock) as _, ..StoreOptions::default() };
    let store = Store::open(directory.path(), options.clone()).await.unwrap();
    let table = store.create_table("t", TableSpec::new(notes([], "").schema(), ["id"])).await.unwrap();
    for part in 0..3 {
        table.upsert(notes(part * 10..part * 10 + 10, "old")).await.unwrap();
        table.fold().await.unwrap();
    }
    // Nothing was written for longer than the retention, and then the same rows are rewritten.
    clock.advance(48 * HOUR);
    let elsewhere = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    let held = elsewhere.snapshot().await.unwrap();
    table.compact(true).await.unwrap();
    table.collect(None).await.unwrap();
    assert_eq!(read(&held).await.len(), 30);
    clock.advance(23 * HOUR);
    table.upsert(notes(0..1, "new")).await.unwrap();
    table.fold().await.unwrap();
    table.collect(None).await.unwrap();
    assert_eq!(read(&held).await.len(), 30);
    clock.advance(2 * HOUR);
    let files = || std::fs::read_dir(directory.path().join("t.lance/data")).unwrap().count();
    let before = files();
    // On a local disk, beyond that as long as it is held.
    assert!(table.collect(None).await.unwrap().held > 0);
    assert_eq!((read(&held).await.len(), files()), (30, before));
    drop(held);
    assert_eq!(table.collect(None).await.unwrap().held, 0);
    assert_eq!(before - files(), 3);
    assert_eq!(read(&table.snapshot().await.unwrap()).await.len(), 30);
}

/// Keeps the table in an object store, with a copy of the key index on the reader's disk.
#[tokio::test]
async fn who_only_reads_keeps_no_key_files_of_the_past() {
    let directory = tempfile::tempdir().unwrap();
    let open = async |cache: &str| {
        let options = StoreOptions { cache_directory: directory.path().join(cache), ..StoreOptions::default() };
        let place = format!("file-object-store://{}", directory.path().join("store").display());
        Store::open(place, options).await.unwrap()
    };
    let store = open("writer").await;
    let table = store.create_table("t", TableSpec::new(notes([], "").schema(), ["id"])).await.unwrap();
    let reader = open("reader").await.table("t").await.unwrap();
    let names = |place: &Path| -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let kept = directory.path().join("store/t.changes/keys");
    let cache = directory.path().join("reader");
    for round in 0..12 {
        table.upsert(notes(round * 100..round * 100 + 100, "note")).await.unwrap();
        table.fold().await.unwrap();
        table.collect(Some(Duration::ZERO)).await.unwrap();
        assert_eq!(reader.snapshot().await.unwrap().count(None).await.unwrap(), round as usize * 100 + 100);
        let found = reader.snapshot().await.unwrap().get(&notes([round * 100], ""), None).await.unwrap();
        assert_eq!(found.num_rows(), 1);
        // A copy is spared while another process may still be making it.
        let age = Duration::from_secs(2 * 60 * 60);
        let tables = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path().join("t"));
        let copies: Vec<_> = tables.filter(|path| path.is_dir()).collect();
        assert_eq!(copies.len(), 1);
        for copy in names(&copies[0]) {
            let file = std::fs::File::options().write(true).open(copies[0].join(copy)).unwrap();
            file.set_modified(file.metadata().unwrap().modified().unwrap() - age).unwrap();
        }
        let extra: Vec<_> = names(&copies[0]).into_iter().filter(|name| !names(&kept).contains(name)).collect();
        assert!(extra.len() <= 4, "copies of what is gone: {extra:?}");
    }
}

/// Counts requests: each takes a while, and nobody can write during a collection.
#[tokio::test]
async fn segments_of_the_log_are_removed_with_few_requests() {
    let directory = tempfile::tempdir().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let faults = Faults::new(move |operation| {
        seen.fetch_add(usize::from(operation == "object.delete"), Ordering::SeqCst);
        Ok(())
    });
    let options = StoreOptions { cache_directory: directory.path().join("cache"), faults, ..StoreOptions::default() };
    let place = format!("file-object-store://{}", directory.path().join("store").display());
    let store = Store::open(place, options).await.unwrap();
    let table = store.create_table("t", TableSpec::new(notes([], "").schema(), ["id"])).await.unwrap();
    for id in 0..40 {
        table.upsert(notes([id], "note")).await.unwrap();
    }
    table.fold().await.unwrap();
    let objects = || {
        let folders = std::fs::read_dir(directory.path().join("store/t.changes/log")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    assert!(objects() > 40);
    count.store(0, Ordering::SeqCst);
    assert!(table.collect(Some(Duration::ZERO)).await.unwrap().segments > 0);
    assert!(objects() < 5);
    assert!(count.load(Ordering::SeqCst) <= 5, "{} requests", count.load(Ordering::SeqCst));
}
