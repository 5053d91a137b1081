//! Files that no version names yet are kept as long as somebody needs them, and no longer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use bytes::Bytes;
use cenote_base::{ByteSize, ErrorKind, ManualClock, Timestamp};
use cenote_store::{Faults, Staged, Store, StoreOptions, Table};

use crate::support::rows::{batch, contents, spec};

const PATIENCE: Duration = Duration::from_millis(300);

fn options() -> StoreOptions {
    StoreOptions { bulk_bytes: ByteSize(10_000), lease_patience: PATIENCE, ..StoreOptions::default() }
}

/// Leaves nothing of the past, nor anything unneeded.
async fn purge(table: &Table) {
    table.compact(true).await.unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap();
}

fn data_files(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory.join("t.lance/data")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn copy_files(names: &BTreeSet<String>, from: &Path, to: &Path) {
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_leaves_what_another_process_has_staged() {
    let directory = tempfile::tempdir().unwrap();
    let table = Store::open(directory.path(), options()).await.unwrap().create_table("t", spec()).await.unwrap();
    let other = Store::open(directory.path(), options()).await.unwrap().table("t").await.unwrap();
    table.upsert(batch((0..1_000).map(|id| (id, 0)))).await.unwrap();
    let staged = table.stage(vec![batch((500..1_500).map(|id| (id, 1)))]).await.unwrap().to_bytes().unwrap();
    purge(&other).await;
    purge(&table).await;
    other.commit(vec![Staged::from_bytes(&staged).unwrap()]).await.unwrap();
    let expected = (0..500).map(|id| (id, 0)).chain((500..1_500).map(|id| (id, 1))).collect();
    assert_eq!(contents(&table.snapshot().await.unwrap()).await, expected);
    purge(&other).await;
    assert_eq!(contents(&other.snapshot().await.unwrap()).await, expected);
    assert_eq!(std::fs::read_dir(directory.path().join("t.staged")).unwrap().count(), 0, "a claim is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_purge_leaves_what_another_process_is_writing() {
    let directory = tempfile::tempdir().unwrap();
    let (arrived, arrivals) = mpsc::sync_channel(1);
    let (go_on, going_on) = mpsc::sync_channel::<()>(1);
    let (going_on, is_armed) = (Mutex::new(going_on), Arc::new(AtomicBool::new(false)));
    let faults = {
        let is_armed = Arc::clone(&is_armed);
        Faults::new(move |operation| {
            if operation == "base.staged" && is_armed.swap(false, Ordering::SeqCst) {
                // Its files exist, and no version names them.
                arrived.send(()).unwrap();
                going_on.lock().unwrap().recv().unwrap();
            }
            Ok(())
        })
    };
    let store = Store::open(directory.path(), StoreOptions { faults, ..options() }).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    let other = Store::open(directory.path(), options()).await.unwrap().table("t").await.unwrap();
    other.upsert(batch((0..1_000).map(|id| (id, 0)))).await.unwrap();
    is_armed.store(true, Ordering::SeqCst);
    let writing = tokio::spawn({
        let table = table.clone();
        async move { table.upsert(batch((500..2_000).map(|id| (id, 1)))).await }
    });
    tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
    purge(&other).await;
    // Other writers need not wait meanwhile.
    other.upsert(batch([(0, 5)])).await.unwrap();
    go_on.send(()).unwrap();
    writing.await.unwrap().unwrap();
    let expected =
        [(0, 5)].into_iter().chain((1..500).map(|id| (id, 0))).chain((500..2_000).map(|id| (id, 1))).collect();
    for table in [&table, &other] {
        assert_eq!(contents(&table.snapshot().await.unwrap()).await, expected);
        table.upsert(batch([(0, 5)])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_takes_what_the_dead_have_left() {
    let directory = tempfile::tempdir().unwrap();
    let table = Store::open(directory.path(), options()).await.unwrap().create_table("t", spec()).await.unwrap();
    table.upsert(batch((0..1_000).map(|id| (id, 0)))).await.unwrap();
    let before = data_files(directory.path());
    let left = directory.path().join("t.lance/data/0123.lance");
    std::fs::write(&left, "half a file").unwrap();
    let claim = r#"{"owner":"process 1","beat":4,"work":"rows","base":1,"staged":null,"files":[]}"#;
    std::fs::create_dir_all(directory.path().join("t.staged")).unwrap();
    std::fs::write(directory.path().join("t.staged/dead"), claim).unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert!(!left.exists());
    assert_eq!(data_files(directory.path()), before);
    assert!(!directory.path().join("t.staged/dead").exists());
    assert_eq!(contents(&table.snapshot().await.unwrap()).await.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staged_rows_that_waited_too_long_are_refused_and_the_table_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000)));
    let options = StoreOptions { clock: Arc::clone(&clock) as _, ..options() };
    let table = Store::open(directory.path(), options).await.unwrap().create_table("t", spec()).await.unwrap();
    table.upsert(batch([(1, 1)])).await.unwrap();
    let staged = table.stage(vec![batch((0..1_000).map(|id| (id, 1)))]).await.unwrap();
    let day = 24 * 60 * 60 * 1_000_000;
    clock.advance(6 * day);
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(data_files(directory.path()).len(), 1, "they were to be kept a day longer");
    clock.advance(2 * day);
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(data_files(directory.path()), BTreeSet::new());
    let refused = table.commit(vec![staged]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    table.upsert(batch([(2, 2)])).await.unwrap();
    table.fold().await.unwrap();
    let expected = [(1, 1), (2, 2)].into_iter().collect();
    assert_eq!(contents(&table.snapshot().await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_taken_for_dead_commits_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let other = Store::open(directory.path(), options()).await.unwrap().create_table("t", spec()).await.unwrap();
    other.upsert(batch((0..1_000).map(|id| (id, 0)))).await.unwrap();
    let (arrived, arrivals) = mpsc::sync_channel(1);
    let (go_on, going_on) = mpsc::sync_channel::<()>(1);
    let path = directory.path().to_owned();
    // A hook that blocks the only thread of a runtime suspends the process: it sends no heartbeats either.
    let suspended = std::thread::spawn(move || {
        let going_on = Mutex::new(going_on);
        let faults = Faults::new(move |operation| {
            if operation == "base.staged" {
                arrived.send(()).unwrap();
                going_on.lock().unwrap().recv().unwrap();
            }
            Ok(())
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let store = Store::open(&path, StoreOptions { faults, ..options() }).await.unwrap();
            store.table("t").await.unwrap().upsert(batch((500..2_000).map(|id| (id, 1)))).await
        })
    });
    tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    let data = directory.path().join("t.lance/data");
    let before = data_files(directory.path());
    copy_files(&before, &data, kept.path());
    other.collect(Some(Duration::ZERO)).await.unwrap();
    assert_eq!(data_files(directory.path()).len(), 1, "the suspended process counts as alive");
    // As if the collection had listed the files before this one was complete: its media would be gone.
    copy_files(&before, kept.path(), &data);
    go_on.send(()).unwrap();
    let refused = tokio::task::spawn_blocking(|| suspended.join().unwrap()).await.unwrap().unwrap_err();
    assert!(refused.kind() == ErrorKind::Conflict && refused.message().contains("heartbeats"), "{refused:#}");
    other.upsert(batch([(1, 2)])).await.unwrap();
    let expected = (0..1_000).map(|id| (id, if id == 1 { 2 } else { 0 })).collect();
    assert_eq!(contents(&other.snapshot().await.unwrap()).await, expected);
}

/// A buffer that tells whether it is still held.
struct Held(Buffer, #[expect(dead_code, reason = "counted")] Arc<()>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// Checks that a load of many stages holds their keys alone: columns that come through Arrow's C interface have one
/// owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staged_rows_do_not_hold_the_memory_they_came_in() {
    let directory = tempfile::tempdir().unwrap();
    let table = Store::open(directory.path(), options()).await.unwrap().create_table("t", spec()).await.unwrap();
    let alive = Arc::new(());
    let held = Held(Buffer::from_vec((0..1_000i64).collect()), Arc::clone(&alive));
    let ids = Int64Array::new(Buffer::from(Bytes::from_owner(held)).into(), None);
    let rows = batch((0..1_000).map(|id| (id, 1)));
    let mut columns = rows.columns().to_vec();
    columns[0] = Arc::new(ids);
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let staged = table.stage(vec![rows]).await.unwrap();
    assert_eq!(Arc::strong_count(&alive), 1);
    table.commit(vec![staged]).await.unwrap();
    assert_eq!(contents(&table.snapshot().await.unwrap()).await.len(), 1_000);
}
