//! Joins of base files while the table is written.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use cenote_base::{ByteSize, ErrorKind, Random};
use cenote_store::{Faults, ROW_ID, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, blob_field};

type Rows = BTreeMap<i64, (String, Option<Vec<u8>>)>;

fn schema() -> SchemaRef {
    let id = Field::new("id", DataType::Int64, false);
    Arc::new(Schema::new(vec![id, Field::new("note", DataType::Utf8, true), blob_field("data")]))
}

/// Returns media of each kind: null, inside the data file, and beside it.
fn media(id: i64) -> Option<Vec<u8>> {
    let bytes = [0, 10, 3_000, 70_000][id as usize % 4];
    (id % 5 > 0).then(|| vec![id as u8; bytes + id as usize % 7])
}

fn whole(ids: impl IntoIterator<Item = i64>, note: &str) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let data: LargeBinaryArray = ids.iter().map(|id| media(*id)).collect();
    let notes = StringArray::from(vec![note; ids.len()]);
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids)), Arc::new(notes), Arc::new(data)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn expected(ids: impl IntoIterator<Item = i64>, note: &str) -> Rows {
    ids.into_iter().map(|id| (id, (note.to_owned(), media(id)))).collect()
}

fn keys(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter_with_nullable([("id", ids, false)]).unwrap()
}

fn notes(ids: impl IntoIterator<Item = i64>, note: &str) -> RecordBatch {
    whole(ids, note).project(&[0, 1]).unwrap()
}

async fn read(snapshot: &Snapshot) -> Rows {
    let rows = snapshot.collect(&ScanRequest::default()).await.unwrap();
    let (ids, notes) = (rows["id"].as_primitive::<Int64Type>(), rows["note"].as_string::<i32>());
    let data = rows["data"].as_binary::<i64>();
    let row = |row: usize| {
        let data = data.is_valid(row).then(|| data.value(row).to_vec());
        (ids.value(row), (notes.value(row).to_owned(), data))
    };
    let read: Rows = (0..rows.num_rows()).map(row).collect();
    assert_eq!(read.len(), rows.num_rows(), "a key occurs twice");
    read
}

/// Returns row ids by key.
async fn row_ids(snapshot: &Snapshot) -> BTreeMap<i64, u64> {
    let rows = snapshot.collect(&ScanRequest::default().columns(["id"]).with_row_id()).await.unwrap();
    let row_ids = rows[ROW_ID].as_primitive::<UInt64Type>().values().iter().copied();
    rows["id"].as_primitive::<Int64Type>().values().iter().copied().zip(row_ids).collect()
}

fn files(snapshot: &Snapshot) -> Vec<usize> {
    snapshot.base().fragments().iter().map(|fragment| fragment.num_rows().unwrap()).collect()
}

/// Makes a table of [`PARTS`] files with [`PART`] rows each.
async fn in_parts(directory: &Path, options: StoreOptions) -> Table {
    let store = Store::open(directory, options).await.unwrap();
    let table = store.create_table("t", TableSpec::new(schema(), ["id"])).await.unwrap();
    for part in 0..PARTS {
        table.upsert(whole(part * PART..(part + 1) * PART, "first")).await.unwrap();
        table.fold().await.unwrap();
    }
    table
}

const PARTS: i64 = 4;
const PART: i64 = 40;

/// Stops a join before each commit until it may go on.
struct Stop {
    reached: Receiver<()>,
    go: SyncSender<()>,
}

impl Stop {
    fn new() -> (Self, Faults) {
        let ((reach, reached), (go, let_go)) = (sync_channel(64), sync_channel(64));
        let let_go = Mutex::new(let_go);
        let faults = Faults::new(move |operation| {
            if operation == "join.written" && reach.send(()).is_ok() {
                // The test may have ended.
                let _ = let_go.lock().unwrap().recv();
            }
            Ok(())
        });
        (Self { reached, go }, faults)
    }

    fn end(self) {
        self.go.send(()).unwrap();
    }

    async fn reached(self) -> Self {
        let reached = tokio::task::spawn_blocking(move || {
            self.reached.recv_timeout(Duration::from_secs(60)).unwrap();
            self
        });
        reached.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_folds_go_on_while_files_are_joined() {
    let directory = tempfile::tempdir().unwrap();
    let (stop, faults) = Stop::new();
    let options =
        StoreOptions { faults, fold_bytes: ByteSize(1_000), bulk_bytes: ByteSize::mib(1), ..Default::default() };
    drop(in_parts(directory.path(), StoreOptions::default()).await);
    let table = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    let before = row_ids(&table.snapshot().await.unwrap()).await;
    let joining = tokio::spawn({
        let table = table.clone();
        async move { table.compact(false).await }
    });
    let stop = stop.reached().await;

    // Far more than what makes writers wait for a fold: rows of the joined files are replaced and deleted, others are
    // added.
    let mut rows = expected(0..PARTS * PART, "first");
    for round in 0..20 {
        table.upsert(whole([round * 7, 1_000 + round], "second")).await.unwrap();
        rows.extend(expected([round * 7, 1_000 + round], "second"));
        table.delete(&keys([round * 8 + 1])).await.unwrap();
        rows.remove(&(round * 8 + 1));
        assert!(read(&table.snapshot().await.unwrap()).await == rows);
    }
    table.fold().await.unwrap();
    // Straight to the base.
    table.upsert(whole(2_000..2_050, "third")).await.unwrap();
    rows.extend(expected(2_000..2_050, "third"));
    assert!(!joining.is_finished());
    stop.end();
    joining.await.unwrap().unwrap();

    let now = table.snapshot().await.unwrap();
    assert!(read(&now).await == rows);
    let joined = files(&now).into_iter().max().unwrap();
    assert!(joined > 2 * PART as usize && files(&now).len() > 1, "{:?}", files(&now));
    // Rows that nobody wrote kept their ids.
    let after = row_ids(&now).await;
    let kept = rows.iter().filter(|(_, row)| row.0 == "first");
    kept.for_each(|(id, _)| assert_eq!(after[id], before[id], "{id}"));
    // The same holds for a process that opens the table, and after all files are joined.
    let other = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    assert!(read(&other.snapshot().await.unwrap()).await == rows);
    other.compact(true).await.unwrap();
    let now = other.snapshot().await.unwrap();
    assert_eq!(files(&now), [rows.len()]);
    assert!(read(&now).await == rows);
    let found = now.get(&keys(0..3_000), Some(vec!["id".into()])).await.unwrap();
    assert_eq!(found.num_rows(), rows.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_is_patched_while_it_is_joined_keeps_the_patch() {
    let directory = tempfile::tempdir().unwrap();
    let (stop, faults) = Stop::new();
    drop(in_parts(directory.path(), StoreOptions::default()).await);
    let options = StoreOptions { faults, ..StoreOptions::default() };
    let table = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    let joining = tokio::spawn({
        let table = table.clone();
        async move { table.compact(false).await }
    });
    let mut stop = stop.reached().await;
    table.update(notes(0..PART, "patched")).await.unwrap();
    let mut rows = expected(0..PARTS * PART, "first");
    rows.extend(expected(0..PART, "patched"));
    let patched = table.snapshot().await.unwrap();
    assert_eq!(files(&patched), [PART as usize; PARTS as usize]);
    stop.go.send(()).unwrap();
    // The new file is discarded, and the join is repeated.
    stop = stop.reached().await;
    assert_eq!(files(&table.snapshot().await.unwrap()), files(&patched));
    stop.end();
    joining.await.unwrap().unwrap();
    let now = table.snapshot().await.unwrap();
    assert_eq!(files(&now), [(PARTS * PART) as usize]);
    assert!(read(&now).await == rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn joining_that_is_outrun_each_time_says_so_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut stop, faults) = Stop::new();
    drop(in_parts(directory.path(), StoreOptions::default()).await);
    let options = StoreOptions { faults, ..StoreOptions::default() };
    let table = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    let joining = tokio::spawn({
        let table = table.clone();
        async move { table.compact(false).await }
    });
    for round in 0..3 {
        stop = stop.reached().await;
        table.update(notes(0..PART, &format!("round {round}"))).await.unwrap();
        stop.go.send(()).unwrap();
    }
    assert_eq!(joining.await.unwrap().unwrap_err().kind(), ErrorKind::Conflict);
    let now = table.snapshot().await.unwrap();
    let mut rows = expected(0..PARTS * PART, "first");
    rows.extend(expected(0..PART, "round 2"));
    assert_eq!(files(&now), [PART as usize; PARTS as usize]);
    assert!(read(&now).await == rows);
}

/// Joins from two stores on one directory, which relate to each other as two processes do.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_that_two_processes_join_are_joined_once() {
    let directory = tempfile::tempdir().unwrap();
    let (stop, faults) = Stop::new();
    drop(in_parts(directory.path(), StoreOptions::default()).await);
    let options = StoreOptions { faults, ..StoreOptions::default() };
    let slow = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    let quick = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    let joining = tokio::spawn({
        let slow = slow.clone();
        async move { slow.compact(false).await }
    });
    let stop = stop.reached().await;
    quick.compact(false).await.unwrap();
    let joined = quick.snapshot().await.unwrap();
    assert_eq!(files(&joined), [(PARTS * PART) as usize]);
    stop.end();
    joining.await.unwrap().unwrap();
    for table in [slow, quick] {
        let now = table.snapshot().await.unwrap();
        assert_eq!(now.base().version().version, joined.base().version().version);
        assert!(read(&now).await == expected(0..PARTS * PART, "first"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_are_a_map_however_writes_and_joins_meet() {
    let directory = tempfile::tempdir().unwrap();
    // Files are joined once they have four times the rows of a fold, and any write may come in between.
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let faults = Faults::new(move |operation| {
        if operation == "join.written" {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    });
    let options = StoreOptions { faults, file_rows: 200, bulk_bytes: ByteSize(500_000), ..StoreOptions::default() };
    let table = in_parts(directory.path(), options).await;
    let mut rows = expected(0..PARTS * PART, "first");
    let mut random = Random::new(11);
    let is_over = Arc::new(Mutex::new(false));
    let joining = tokio::spawn({
        let (table, is_over) = (table.clone(), Arc::clone(&is_over));
        async move {
            while !*is_over.lock().unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                match table.compact(false).await {
                    Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        }
    });
    for step in 0..150 {
        let ids: HashSet<i64> = (0..1 + random.below(12)).map(|_| random.below(400) as i64).collect();
        let note = format!("step {step}");
        match random.below(6) {
            0 | 1 => {
                table.upsert(whole(ids.iter().copied(), &note)).await.unwrap();
                rows.extend(expected(ids, &note));
            }
            2 => {
                table.delete(&keys(ids.iter().copied())).await.unwrap();
                rows.retain(|id, _| !ids.contains(id));
            }
            3 => {
                table.update(notes(ids.iter().copied(), &note)).await.unwrap();
                for (_, row) in rows.iter_mut().filter(|(id, _)| ids.contains(*id)) {
                    row.0.clone_from(&note);
                }
            }
            4 => {
                // Many rows of their files: in place.
                let first = random.below(300) as i64;
                table.update(notes(first..first + 60, &note)).await.unwrap();
                rows.range_mut(first..first + 60).for_each(|(_, row)| row.0.clone_from(&note));
            }
            _ => table.fold().await.unwrap(),
        }
        assert!(read(&table.snapshot().await.unwrap()).await == rows, "step {step}");
    }
    *is_over.lock().unwrap() = true;
    joining.await.unwrap().unwrap();
    assert!(seen.load(Ordering::SeqCst) > 3);
    table.compact(true).await.unwrap();
    assert!(read(&table.snapshot().await.unwrap()).await == rows);
    let other = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    assert!(read(&other.snapshot().await.unwrap()).await == rows);
}
