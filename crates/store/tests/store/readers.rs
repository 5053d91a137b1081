//! A reader of a version keeps its files from a purge by another process, and only as long as it reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use cenote_base::ErrorKind;
use cenote_store::{Collected, RecordBatches, ScanRequest, Snapshot, Store, StoreOptions, Table, Version};
use futures::{StreamExt, TryStreamExt};

use crate::support::rows::{batch, contents, spec};

const CHILD: &str = "CENOTE_READERS_CHILD";
/// Rows per file, and files.
const ROWS: i64 = 500;
const FILES: i64 = 6;
/// How long one process reads while another one purges.
const LIFE: Duration = Duration::from_millis(2_500);

async fn open(directory: &Path) -> Table {
    Store::open(directory, StoreOptions::default()).await.unwrap().table("t").await.unwrap()
}

/// Makes a table of several files, and returns its contents.
async fn filled(directory: &Path) -> (Table, BTreeMap<i64, i64>) {
    let store = Store::open(directory, StoreOptions::default()).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    for file in 0..FILES {
        table.upsert(batch((file * ROWS..(file + 1) * ROWS).map(|id| (id, file)))).await.unwrap();
        table.fold().await.unwrap();
    }
    (table, (0..FILES * ROWS).map(|id| (id, id / ROWS)).collect())
}

/// Deletes rows of every file.
async fn thin(table: &Table) {
    table.delete(&batch((0..FILES * ROWS).step_by(7).map(|id| (id, 0)))).await.unwrap();
}

async fn purge(table: &Table) -> Collected {
    table.compact(true).await.unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap()
}

/// Purges until nothing is left of `files`: at once, unless upkeep of this process is reading.
async fn purge_all(table: &Table, directory: &Path, files: &BTreeSet<String>) {
    for _ in 0..100 {
        let is_held = purge(table).await.held > 0;
        if !is_held && data_files(directory).is_disjoint(files) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("files are kept that nobody reads");
}

fn data_files(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory.join("t.lance/data")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn files_of(snapshot: &Snapshot) -> BTreeSet<String> {
    let files = snapshot.base().fragments().iter().flat_map(|fragment| fragment.files.iter());
    files.map(|file| file.path.clone()).collect()
}

/// Begins to read all rows, some at a time. The snapshot is dropped when it returns.
async fn begin(table: &Table) -> (BTreeSet<String>, RecordBatch, RecordBatches) {
    let snapshot = table.snapshot().await.unwrap();
    let request = ScanRequest::default().columns(["id", "value"]).batch_rows(10);
    let mut scan = snapshot.scan(&request).await.unwrap();
    let first = scan.next().await.unwrap().unwrap();
    (files_of(&snapshot), first, scan)
}

fn rows_of(batches: &[RecordBatch]) -> BTreeMap<i64, i64> {
    let column = |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(|batch| column(batch, 0).into_iter().zip(column(batch, 1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_is_read_to_its_end_while_another_process_purges() {
    let directory = tempfile::tempdir().unwrap();
    let (table, expected) = filled(directory.path()).await;
    let other = open(directory.path()).await;
    let (files, first, mut scan) = begin(&other).await;
    thin(&table).await;
    for _ in 0..2 {
        assert!(purge(&table).await.held > 0, "nobody was said to read");
    }
    assert!(data_files(directory.path()).is_superset(&files), "files are gone that are read");
    // Both processes can still read the newest version.
    assert_eq!(
        contents(&other.snapshot().await.unwrap()).await.len(),
        contents(&table.snapshot().await.unwrap()).await.len()
    );
    let mut batches = vec![first];
    while let Some(batch) = scan.next().await {
        batches.push(batch.unwrap());
    }
    assert_eq!(rows_of(&batches), expected);
    // A scan that has ended keeps nothing, dropped or not.
    purge_all(&table, directory.path(), &files).await;
    assert!(scan.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_is_read_to_its_end_while_its_own_process_purges() {
    let directory = tempfile::tempdir().unwrap();
    let (table, expected) = filled(directory.path()).await;
    let (files, first, scan) = begin(&table).await;
    thin(&table).await;
    assert!(purge(&table).await.held > 0, "nobody was said to read");
    let mut batches: Vec<RecordBatch> = scan.try_collect().await.unwrap();
    batches.push(first);
    assert_eq!(rows_of(&batches), expected);
    purge_all(&table, directory.path(), &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_the_past_is_kept_while_another_process_purges() {
    let directory = tempfile::tempdir().unwrap();
    let (table, expected) = filled(directory.path()).await;
    let past = table.snapshot().await.unwrap().version();
    thin(&table).await;
    table.compact(true).await.unwrap();
    table.upsert(batch([(0, 1)])).await.unwrap();
    let other = open(directory.path()).await;
    let then = other.snapshot_at(past).await.unwrap();
    let files = files_of(&then);
    assert!(purge(&table).await.held > 0, "nobody was said to read");
    assert_eq!(contents(&then).await, expected);
    // It cannot be opened again.
    assert_eq!(other.snapshot_at(past).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(contents(&then.clone()).await, expected);
    drop(then);
    purge_all(&table, directory.path(), &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_reads_nothing_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (table, expected) = filled(directory.path()).await;
    let other = open(directory.path()).await;
    let snapshot = other.snapshot().await.unwrap();
    assert_eq!(contents(&snapshot).await, expected);
    let files = files_of(&snapshot);
    drop(snapshot);
    // A scan that is dropped early keeps nothing either.
    drop(begin(&other).await);
    thin(&table).await;
    purge_all(&table, directory.path(), &files).await;
    assert_eq!(contents(&other.snapshot().await.unwrap()).await, contents(&table.snapshot().await.unwrap()).await);
}

/// Takes a snapshot and holds it until its input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let snapshot = open(Path::new(&directory)).await.snapshot().await.unwrap();
    println!("\nreading");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(snapshot);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_killed_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (table, _) = filled(directory.path()).await;
    let files = files_of(&table.snapshot().await.unwrap());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "readers::child", "--nocapture", "--test-threads=1"]).env(CHILD, directory.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap() == "reading"), "the child ended early");
    thin(&table).await;
    assert!(purge(&table).await.held > 0, "nobody was said to read");
    assert!(data_files(directory.path()).is_superset(&files), "files are gone that are read");
    child.kill().unwrap();
    child.wait().unwrap();
    purge_all(&table, directory.path(), &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_go_on_while_another_process_purges_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let (table, _) = filled(directory.path()).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for way in 0..3 {
        let (other, done) = (open(directory.path()).await, Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) {
                let snapshot = other.snapshot().await.unwrap();
                match way {
                    0 => {
                        let row = snapshot.get(&batch([(1, 0), (ROWS + 1, 0)]), None).await.unwrap();
                        assert_eq!(row.num_rows(), 2);
                    }
                    1 => assert!(contents(&snapshot).await.len() as i64 > FILES * ROWS / 2),
                    _ => match other.snapshot_at(Version(snapshot.version().0 - 1)).await {
                        Ok(then) => assert!(contents(&then).await.len() as i64 > FILES * ROWS / 2),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    },
                }
                reads += 1;
            }
            reads
        }));
    }
    let start = Instant::now();
    for number in 0.. {
        // Row 1 of each file stays.
        table.upsert(batch((0..FILES * ROWS).step_by(5).map(|id| (id, number)))).await.unwrap();
        table.delete(&batch((0..FILES * ROWS).step_by(10).map(|id| (id, 0)))).await.unwrap();
        purge(&table).await;
        if start.elapsed() > LIFE {
            break;
        }
    }
    done.store(true, Ordering::SeqCst);
    for task in tasks {
        assert!(task.await.unwrap() > 3, "hardly anything was read");
    }
}
