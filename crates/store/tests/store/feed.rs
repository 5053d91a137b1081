//! The promises of the change feed: each change once, whatever is interrupted, in batches of bounded size.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use cenote_base::{ByteSize, Error, Random};
use cenote_store::{ChangeFeed, Faults, Store, StoreOptions, Table, TableSpec, Version, blob_field};

/// A change: version, operation, key, and the values before and after.
type Change = (u64, String, i64, Option<i64>, Option<i64>);

fn options(faults: Faults) -> StoreOptions {
    StoreOptions { bulk_bytes: ByteSize(4_000), fold_bytes: ByteSize::mib(64), faults, ..StoreOptions::default() }
}

async fn open(directory: &Path, faults: Faults) -> Table {
    Store::open(directory, options(faults)).await.unwrap().table("t").await.unwrap()
}

async fn new_table(directory: &Path) -> Table {
    let store = Store::open(directory, options(Faults::default())).await.unwrap();
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Int64, true),
        Field::new("note", DataType::Utf8, true),
        blob_field("data"),
    ];
    store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap()
}

fn batch(ids: impl IntoIterator<Item = i64>, value: i64) -> RecordBatch {
    let ids: Int64Array = ids.into_iter().collect();
    let values = Int64Array::from(vec![value; ids.len()]);
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("value", Arc::new(values) as _)]).unwrap()
}

fn changes(batch: &RecordBatch) -> Vec<Change> {
    let versions = batch["version"].as_primitive::<UInt64Type>();
    let operations = batch["operation"].as_string::<i32>();
    let keys = batch["key"].as_struct().column(0).as_primitive::<Int64Type>();
    let side = |name: &str, row: usize| {
        let side = batch[name].as_struct();
        side.is_valid(row).then(|| side.column_by_name("value").unwrap().as_primitive::<Int64Type>().value(row))
    };
    let change = |row| {
        let operation = operations.value(row).to_owned();
        (versions.value(row), operation, keys.value(row), side("before", row), side("after", row))
    };
    (0..batch.num_rows()).map(change).collect()
}

/// Reads the rest of `feed`.
async fn rest(feed: &mut ChangeFeed) -> Vec<Change> {
    let mut all = Vec::new();
    while let Some(batch) = feed.next().await.unwrap() {
        all.extend(changes(&batch));
    }
    all
}

fn each(version: Version, operation: &str, ids: Range<i64>, before: Option<i64>, after: Option<i64>) -> Vec<Change> {
    ids.map(|id| (version.0, operation.to_owned(), id, before, after)).collect()
}

async fn version(table: &Table) -> Version {
    table.snapshot().await.unwrap().version()
}

/// Performs some writes of each kind.
async fn write_all_kinds(table: &Table) {
    table.upsert(batch(0..50, 1)).await.unwrap();
    table.upsert(batch(0..1_000, 2)).await.unwrap();
    table.update(batch(0..900, 3)).await.unwrap();
    table.delete(&batch(10..20, 0)).await.unwrap();
    table.fold().await.unwrap();
    table.add_columns(&[Field::new("extra", DataType::Utf8, true)]).await.unwrap();
    table.upsert(batch(5..15, 4)).await.unwrap();
    table.compact(true).await.unwrap();
    table.upsert(batch(900..1_100, 5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_waiting_for_changes_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let start = version(&table).await;
    write_all_kinds(&table).await;
    let expected = rest(&mut table.changes(start).await.unwrap()).await;
    assert_eq!(expected.len(), 50 + 1_000 + 900 + 10 + 10 + 200);

    let mut feed = table.changes(start).await.unwrap();
    let (mut random, mut seen, mut dropped) = (Random::new(1), Vec::new(), 0);
    'feed: loop {
        // Each try may go on a little longer, so that calls are cut off at every point and still reach the end.
        for patience in 0.. {
            let mut next = Box::pin(feed.next());
            let mut outcome = Poll::Pending;
            for _ in 0..=random.below(1 << (patience / 16).min(20)) {
                outcome = futures::poll!(&mut next);
                if outcome.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            match outcome {
                Poll::Ready(Ok(Some(batch))) => {
                    seen.extend(changes(&batch));
                    break;
                }
                Poll::Ready(Ok(None)) => break 'feed,
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => dropped += 1,
            }
        }
    }
    assert!(dropped > 50, "{dropped} calls were cut off");
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_feed_that_failed_goes_on_where_it_stood() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let first = table.upsert(batch(0..1_000, 1)).await.unwrap().version;
    let second = table.upsert(batch(500..1_500, 2)).await.unwrap().version;
    // A process that has nothing in memory, and cannot find the files for a while.
    let reader = open(directory.path(), Faults::default()).await;
    let mut feed = reader.changes(first).await.unwrap();
    let (data, away) = (directory.path().join("t.lance/data"), directory.path().join("away"));
    std::fs::rename(&data, &away).unwrap();
    for _ in 0..3 {
        feed.next().await.unwrap_err();
        assert_eq!(feed.version(), first);
    }
    std::fs::rename(&away, &data).unwrap();
    let mut expected = each(second, "update", 500..1_000, Some(1), Some(2));
    expected.extend(each(second, "insert", 1_000..1_500, None, Some(2)));
    assert_eq!(rest(&mut feed).await, expected);
    assert_eq!(feed.version(), second);
}

/// Writes more keys than the log names in one record.
#[tokio::test]
async fn a_large_write_comes_in_parts_and_is_passed_with_the_last() {
    const ROWS: i64 = 40_000;
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let start = table.upsert(batch(0..1, 1)).await.unwrap().version;
    let large = table.upsert(batch(0..ROWS, 2)).await.unwrap().version;
    let deleted = table.delete(&batch(0..ROWS, 0)).await.unwrap().version;
    let last = table.upsert(batch(7..8, 3)).await.unwrap().version;
    let segments = std::fs::read_dir(directory.path().join("t.changes")).unwrap().map(|entry| entry.unwrap().path());
    let log: Vec<u8> = segments.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).unwrap()).collect();
    // The keys of a record are preceded by its kind, epoch, version and time.
    let records = log.windows(13).filter(|window| window.starts_with(b"CNLG") && window[12] & 0x7f == 6).count();
    assert!(records >= 7, "{records} parts of keys");

    let mut feed = open(directory.path(), Faults::default()).await.changes(start).await.unwrap();
    let (mut rows, mut batches, mut seen) = (BTreeMap::from([(0, 1)]), 0, start);
    while feed.version() < last {
        let batch = feed.next().await.unwrap().unwrap();
        assert!(batch.num_rows() <= 8_192);
        batches += 1;
        for (version, _, id, before, after) in changes(&batch) {
            assert!([large, deleted, last].contains(&Version(version)));
            assert_eq!(rows.get(&id).copied(), before);
            match after {
                Some(value) => rows.insert(id, value),
                None => rows.remove(&id),
            };
            assert!(feed.version() <= Version(version));
        }
        let passed = feed.version();
        if passed > seen {
            // All of a write was returned, and nothing of the next one.
            let expected = [(large, ROWS as usize), (deleted, 0), (last, 1)];
            assert!(expected.contains(&(passed, rows.len())), "{} rows at {passed}", rows.len());
            seen = passed;
        }
    }
    assert!(batches > 2 * ROWS / 8_192, "{batches} batches");
    assert_eq!(rows, BTreeMap::from([(7, 3)]));

    // A reader that stored the version in the middle of a write receives all of it again.
    let mut feed = table.changes(start).await.unwrap();
    let begun = changes(&feed.next().await.unwrap().unwrap());
    assert_eq!((feed.version(), begun[0].0), (start, large.0));
    let mut again = rest(&mut table.changes(feed.version()).await.unwrap()).await;
    again.retain(|change| change.0 == large.0);
    assert_eq!(again.len(), ROWS as usize);
}

/// Fails after the commit to the base and before its log record, as if the process died.
#[tokio::test]
async fn a_patch_in_place_that_was_not_logged_reaches_the_feed() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    let start = table.upsert(batch(0..1_000, 1)).await.unwrap().version;
    drop(table);
    let faults = Faults::new(|operation| match operation {
        "base.committed" => Err(Error::unavailable("the process died")),
        _ => Ok(()),
    });
    open(directory.path(), faults).await.update(batch(100..300, 2)).await.unwrap_err();

    let table = open(directory.path(), Faults::default()).await;
    let adopted = Version(table.upsert(batch(2_000..2_001, 3)).await.unwrap().version.0 - 1);
    let mut expected = each(adopted, "update", 100..300, Some(1), Some(2));
    expected.push((adopted.0 + 1, "insert".to_owned(), 2_000, None, Some(3)));
    assert_eq!(rest(&mut table.changes(start).await.unwrap()).await, expected);
}

/// Fails after a fold's commit and before its log record, as if the process died. Meanwhile a key is written again
/// whose deletion was folded.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fold_that_was_not_logged_deletes_nothing_in_the_feed() {
    let directory = tempfile::tempdir().unwrap();
    let table = new_table(directory.path()).await;
    table.upsert(batch(0..10, 1)).await.unwrap();
    table.fold().await.unwrap();
    let start = table.delete(&batch(1..3, 0)).await.unwrap().version;
    drop(table);
    let (sealed, is_sealed) = std::sync::mpsc::sync_channel(1);
    let (go, may_go) = std::sync::mpsc::sync_channel::<()>(1);
    let may_go = std::sync::Mutex::new(may_go);
    let faults = Faults::new(move |operation| match operation {
        "base.commit" => {
            sealed.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
            Ok(())
        }
        "base.committed" => Err(Error::unavailable("the process died")),
        _ => Ok(()),
    });
    let folding = open(directory.path(), faults).await;
    let fold = tokio::spawn(async move { folding.fold().await });
    tokio::task::spawn_blocking(move || is_sealed.recv().unwrap()).await.unwrap();
    let table = open(directory.path(), Faults::default()).await;
    let again = table.upsert(batch(1..2, 2)).await.unwrap().version;
    go.send(()).unwrap();
    fold.await.unwrap().unwrap_err();
    drop(table);
    let table = open(directory.path(), Faults::default()).await;
    let last = table.upsert(batch(5..6, 3)).await.unwrap().version;
    let expected = [(again, "insert", 1, None, Some(2)), (last, "update", 5, Some(1), Some(3))];
    let expected = expected.map(|(version, what, id, before, after)| (version.0, what.to_owned(), id, before, after));
    assert_eq!(rest(&mut table.changes(start).await.unwrap()).await, expected);
}

/// Cuts a large write off at each of its writes to the log, or after them; it must be in the feed once or not at all.
#[tokio::test]
async fn keys_without_their_base_mean_nothing() {
    for fault in 1.. {
        let directory = tempfile::tempdir().unwrap();
        let table = new_table(directory.path()).await;
        let start = table.upsert(batch(0..20_000, 1)).await.unwrap().version;
        drop(table);
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let faults = Faults::new(move |operation| match operation {
            "log.write" if seen.fetch_add(1, Ordering::SeqCst) + 1 >= fault => Err(Error::unavailable("died")),
            _ => Ok(()),
        });
        let outcome = open(directory.path(), faults).await.upsert(batch(10_000..30_000, 2)).await;
        let table = open(directory.path(), Faults::default()).await;
        let newest = table.upsert(batch(5..6, 3)).await.unwrap().version;
        let found = rest(&mut table.changes(start).await.unwrap()).await;
        let large = Version(start.0 + 1);
        let mut expected = each(large, "update", 10_000..20_000, Some(1), Some(2));
        expected.extend(each(large, "insert", 20_000..30_000, None, Some(2)));
        expected.push((newest.0, "update".to_owned(), 5, Some(1), Some(3)));
        let mut sorted = found.clone();
        sorted.sort_by_key(|change| (change.0, change.2));
        assert_eq!(sorted.len(), expected.len(), "cut off at write {fault}");
        assert_eq!(sorted, expected, "cut off at write {fault}");
        let versions: Vec<u64> = table.versions().await.unwrap().iter().map(|listed| listed.version.0).collect();
        assert_eq!(versions.last(), Some(&newest.0));
        assert_eq!(newest, Version(large.0 + 1));
        if outcome.is_ok() && count.load(Ordering::SeqCst) < fault {
            assert!(fault > 3, "the write took {fault} writes to the log only");
            return;
        }
    }
}
