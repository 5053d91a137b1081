//! A store on a real S3 server (moto, on loopback), and the same behind a failing network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, Error, ErrorKind, Random};
use cenote_store::{Faults, ScanRequest, Store, StoreOptions, Table, TableSpec, Version};

use crate::support::s3::{Network, Server};

type Rows = BTreeMap<i64, i64>;

const PATIENCE: Duration = Duration::from_millis(600);

fn options(server: &Server, cache: &Path) -> StoreOptions {
    StoreOptions {
        object_store: server.options(),
        cache_directory: cache.to_owned(),
        lease_patience: PATIENCE,
        bulk_bytes: ByteSize(4_000),
        fold_bytes: ByteSize::mib(64),
        ..StoreOptions::default()
    }
}

fn batch(ids: std::ops::Range<i64>, value: i64) -> RecordBatch {
    let ids: Int64Array = ids.collect();
    let values = Int64Array::from(vec![value; ids.len()]);
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("value", Arc::new(values) as _)]).unwrap()
}

fn spec() -> TableSpec {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)];
    TableSpec::new(Arc::new(Schema::new(fields)), ["id"])
}

async fn contents(table: &Table) -> Rows {
    rows_of(&table.snapshot().await.unwrap()).await
}

async fn rows_of(snapshot: &cenote_store::Snapshot) -> Rows {
    let batch = snapshot.collect(&ScanRequest::default().columns(["id", "value"])).await.unwrap();
    let (ids, values) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
    let rows: Rows = ids.values().iter().copied().zip(values.values().iter().copied()).collect();
    assert_eq!(rows.len(), ids.len(), "a key occurs twice");
    rows
}

fn expected(parts: &[(std::ops::Range<i64>, i64)]) -> Rows {
    parts.iter().flat_map(|(ids, value)| ids.clone().map(|id| (id, *value))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn does_what_a_directory_does() {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let store = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    assert!(store.tables().await.unwrap().is_empty());
    let table = store.create_table("t", spec()).await.unwrap();
    assert_eq!(store.create_table("t", spec()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);

    table.upsert(batch(0..10, 1)).await.unwrap();
    let tagged = table.snapshot().await.unwrap().version();
    table.tag("first", tagged).await.unwrap();
    table.update(batch(8..12, 2)).await.unwrap();
    table.delete(&batch(0..2, 0)).await.unwrap();
    assert_eq!(contents(&table).await, expected(&[(2..8, 1), (8..10, 2)]));

    // Another process, with its own cache, sees each write at once, folded or not.
    let elsewhere = tempfile::tempdir().unwrap();
    let reader = Store::open(server.uri("lake"), options(&server, elsewhere.path())).await.unwrap();
    let reader = reader.table("t").await.unwrap();
    assert_eq!(contents(&reader).await, expected(&[(2..8, 1), (8..10, 2)]));
    table.fold().await.unwrap();
    table.upsert(batch(100..1000, 3)).await.unwrap();
    table.upsert(batch(5..6, 4)).await.unwrap();
    let now = expected(&[(2..5, 1), (5..6, 4), (6..8, 1), (8..10, 2), (100..1000, 3)]);
    assert_eq!(contents(&table).await, now);
    assert_eq!(contents(&reader).await, now);

    let mut feed = reader.changes(tagged).await.unwrap();
    let mut operations = BTreeMap::<String, usize>::new();
    while let Some(changes) = feed.next().await.unwrap() {
        for operation in changes["operation"].as_string::<i32>().iter().flatten() {
            *operations.entry(operation.to_owned()).or_default() += 1;
        }
    }
    let counted = [("delete", 2), ("insert", 900), ("update", 3)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(operations, BTreeMap::from(counted));

    table.compact(true).await.unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(contents(&reader).await, now);
    assert_eq!(rows_of(&reader.snapshot_of("first").await.unwrap()).await, expected(&[(0..10, 1)]));
    assert_eq!(reader.changes(tagged).await.unwrap_err().kind(), ErrorKind::NotFound);

    // The cache can be lost.
    drop((store, table, reader));
    std::fs::remove_dir_all(cache.path()).unwrap();
    let store = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    assert_eq!(contents(&store.table("t").await.unwrap()).await, now);
    assert_eq!(store.tables().await.unwrap(), ["t"]);
    store.drop_table("t").await.unwrap();
    assert!(store.tables().await.unwrap().is_empty());
    assert_eq!(store.table("t").await.unwrap_err().kind(), ErrorKind::NotFound);
    store.create_table("t", spec()).await.unwrap();
    assert!(contents(&store.table("t").await.unwrap()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_conditional_put_a_group() {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let puts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&puts);
    let faults = Faults::new(move |operation| {
        seen.fetch_add(usize::from(operation == "object.create"), Ordering::SeqCst);
        Ok(())
    });
    let options = StoreOptions { faults, ..options(&server, cache.path()) };
    let store = Store::open(server.uri("lake"), options).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    table.upsert(batch(0..1, 0)).await.unwrap();
    let before = puts.load(Ordering::SeqCst);
    let writes = (0..40).map(|id| {
        let table = table.clone();
        tokio::spawn(async move { table.upsert(batch(id..id + 1, id)).await.unwrap() })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let made = puts.load(Ordering::SeqCst) - before;
    assert!((1..=20).contains(&made), "{made} puts for 40 concurrent writes");
    assert_eq!(contents(&table).await, (0..40).map(|id| (id, id)).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_is_refused_or_takes_over() {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let impatient = StoreOptions { writer_wait_max: Duration::from_millis(100), ..options(&server, cache.path()) };
    let first = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    let second = Store::open(server.uri("lake"), impatient).await.unwrap();
    let table = first.create_table("t", spec()).await.unwrap();
    table.upsert(batch(0..1, 1)).await.unwrap();

    let refused = second.table("t").await.unwrap().upsert(batch(0..1, 2)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains("process"), "{refused}");
    first.release().await.unwrap();
    second.table("t").await.unwrap().upsert(batch(0..1, 2)).await.unwrap();
    // The first one comes back, and applies what the second wrote.
    second.release().await.unwrap();
    assert_eq!(table.upsert(batch(1..2, 3)).await.unwrap().inserted, 1);
    assert_eq!(contents(&table).await, Rows::from([(0, 2), (1, 3)]));
    assert_eq!(contents(&second.table("t").await.unwrap()).await, Rows::from([(0, 2), (1, 3)]));

    // A writer that dies releases nothing: the next one waits until it counts as dead.
    drop((first, table));
    let third = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    third.table("t").await.unwrap().upsert(batch(2..3, 4)).await.unwrap();
    assert_eq!(contents(&third.table("t").await.unwrap()).await, Rows::from([(0, 2), (1, 3), (2, 4)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_that_was_taken_for_dead_is_fenced() {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let store = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    store.create_table("t", spec()).await.unwrap();
    // A writer whose heartbeats are lost, and whose third write to the log hangs just before it is sent.
    let gate = Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let (waits, armed) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(usize::MAX)));
    let countdown = Arc::clone(&armed);
    let faults = Faults::new(move |operation| match operation {
        "object.put" if countdown.load(Ordering::SeqCst) < usize::MAX => Err(Error::unavailable("lost")),
        "object.create" if countdown.load(Ordering::SeqCst) == 0 => {
            countdown.store(usize::MAX - 1, Ordering::SeqCst);
            let (open, changed) = &*waits;
            drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
            Ok(())
        }
        _ => Ok(()),
    });
    let slow = StoreOptions { faults, ..options(&server, cache.path()) };
    let slow = Store::open(server.uri("lake"), slow).await.unwrap().table("t").await.unwrap();
    slow.upsert(batch(0..1, 1)).await.unwrap();
    armed.store(0, Ordering::SeqCst);
    let hanging = tokio::spawn(async move { slow.upsert(batch(0..2, 2)).await });
    while armed.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its successor takes over and writes where the slow one is about to.
    let next = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    let table = next.table("t").await.unwrap();
    table.upsert(batch(0..1, 3)).await.unwrap();
    table.fold().await.unwrap();
    next.release().await.unwrap();
    armed.store(usize::MAX, Ordering::SeqCst);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    // The slow one notices, applies what happened, and writes after it.
    hanging.await.unwrap().unwrap();
    assert_eq!(contents(&table).await, Rows::from([(0, 2), (1, 2)]));
    let versions: Vec<Version> = table.versions().await.unwrap().iter().map(|listed| listed.version).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_read_from_the_local_disk() {
    let server = Server::start().await;
    let (writer, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(server.uri("lake"), options(&server, writer.path())).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    table.upsert(batch(0..100_000, 1)).await.unwrap();
    table.upsert(batch(0..10, 2)).await.unwrap();
    table.fold().await.unwrap();
    let expected = expected(&[(0..10, 2), (10..100_000, 1)]);
    let open = async |bytes_max: u64| {
        let options = StoreOptions { block_cache_bytes_max: ByteSize(bytes_max), ..options(&server, cache.path()) };
        Store::open(server.uri("lake"), options).await.unwrap()
    };
    let read = async |store: &Store| contents(&store.table("t").await.unwrap()).await;
    let files = || {
        let entries = std::fs::read_dir(cache.path().join("blocks")).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect::<BTreeMap<_, _>>()
    };

    let first = open(1 << 30).await;
    assert_eq!(read(&first).await, expected);
    let usage = first.block_cache().unwrap();
    assert!(usage.missed_bytes > 100_000, "{usage:?}");
    assert_eq!(usage.bytes, files().values().sum::<u64>());

    // Another process fetches nothing of the base.
    let second = open(1 << 30).await;
    assert_eq!(read(&second).await, expected);
    let usage = second.block_cache().unwrap();
    assert_eq!((usage.missed_bytes, usage.bytes), (0, files().values().sum::<u64>()));
    assert!(usage.hit_bytes > 100_000, "{usage:?}");

    // A damaged block is not used, and neither is one that was removed.
    let (path, _) = files().into_iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let third = open(1 << 30).await;
    assert_eq!(read(&third).await, expected);
    assert!(third.block_cache().unwrap().missed_bytes > 0);
    files().into_keys().for_each(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(read(&third).await, expected);

    // The cache stays within its limit, whatever it held before.
    let small = open(300 << 10).await;
    assert_eq!(read(&small).await, expected);
    let usage = small.block_cache().unwrap();
    assert!(usage.bytes <= 300 << 10, "{usage:?}");
    assert_eq!(usage.bytes, files().values().sum::<u64>());
    assert_eq!(open(0).await.block_cache(), None);
    assert_eq!(read(&open(0).await).await, expected);

    // Files that are deleted in the store do not stay in the cache.
    let own = || {
        let entries = std::fs::read_dir(writer.path().join("blocks")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    assert_eq!(read(&store).await, expected);
    let before = own();
    assert!(!before.is_empty());
    table.delete(&batch(50_000..50_001, 0)).await.unwrap();
    table.compact(true).await.unwrap();
    assert!(own().is_superset(&before), "the base's former files are still there");
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert!(own().is_disjoint(&before));
    assert_eq!(read(&store).await.len(), 99_999);
    assert!(!own().is_empty());
    store.drop_table("t").await.unwrap();
    assert_eq!(own(), BTreeSet::new());
}

/// Writes through a network that resets, stalls, cuts and refuses, and reads over a good one.
async fn survive(network: Network, seed: u64) {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let whole = Store::open(server.uri("lake"), options(&server, cache.path())).await.unwrap();
    whole.create_table("t", spec()).await.unwrap();
    whole.release().await.unwrap();
    let proxy = server.behind(network, seed).await;
    let mut random = Random::new(seed);
    let mut options = options(&server, cache.path());
    options.object_store = proxy.options();
    options.lease_patience = Duration::from_secs(5);

    // The possible values of each key: the last one acknowledged, and those that were tried since and failed.
    let mut possible: BTreeMap<i64, Vec<Option<i64>>> = BTreeMap::new();
    let mut table = None;
    let mut acknowledged = 0;
    for step in 0..60 {
        if table.is_none() {
            let Ok(store) = Store::open(server.uri("lake"), options.clone()).await else { continue };
            table = store.table("t").await.ok();
        }
        let Some(open) = &table else { continue };
        let from = random.below(40) as i64;
        let keys = from..from + 1 + random.below(if step % 9 == 0 { 400 } else { 6 }) as i64;
        let (outcome, becomes) = match random.below(8) {
            0 => (open.fold().await, None),
            1 => (open.compact(false).await, None),
            2 => (open.delete(&batch(keys.clone(), 0)).await.map(drop), Some(None)),
            _ => (open.upsert(batch(keys.clone(), step)).await.map(drop), Some(Some(step))),
        };
        if let Some(value) = becomes {
            for key in keys {
                let values = possible.entry(key).or_insert_with(|| vec![None]);
                if outcome.is_ok() {
                    values.clear();
                }
                values.push(value);
            }
        }
        acknowledged += usize::from(outcome.is_ok());
        if random.below(12) == 0 {
            table = None;
        }
    }
    assert!(acknowledged > 5, "the network let {acknowledged} of 60 operations through");
    assert!(proxy.faults() > 0, "the network never failed");
    drop((table, whole));
    let whole = Store::open(server.uri("lake"), self::options(&server, cache.path())).await.unwrap();
    let table = whole.table("t").await.unwrap();
    table.upsert(batch(9_999..10_000, 0)).await.unwrap();
    table.fold().await.unwrap();
    let rows = contents(&table).await;
    for (key, values) in &possible {
        let found = rows.get(key).copied();
        assert!(values.contains(&found), "key {key} is {found:?}, and may be {values:?}; seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_behind_resets() {
    survive(Network::Resets, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_behind_lost_answers() {
    survive(Network::LostAnswers, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_behind_refusals_and_stalls() {
    survive(Network::Busy, 3).await;
}
