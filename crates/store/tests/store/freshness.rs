//! Reads are linearizable across processes (Herlihy, Wing, 1990): a read holds what any process had acknowledged before
//! it began.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use cenote_base::{ByteSize, Error, ErrorKind};
use cenote_store::{Faults, Store, StoreOptions, Table};

use crate::support::rows::{batch, contents, spec};

const CHILD: &str = "CENOTE_FRESH_CHILD";
/// How long both processes write and read.
const LIFE: Duration = Duration::from_millis(2_500);

/// Returns small limits, so that rows are folded and written directly all the time.
fn options() -> StoreOptions {
    StoreOptions { fold_rows: 200, bulk_bytes: ByteSize(20_000), ..StoreOptions::default() }
}

/// Writes its number to row 0 repeatedly, and prints each acknowledged one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let table = Store::open(directory, options()).await.unwrap().table("t").await.unwrap();
    for number in 1.. {
        // Every fortieth write is large enough to go straight to the base.
        let others = if number % 40 == 0 { 1_000..3_000 } else { 1_000..1_002 };
        table.upsert(batch([(0, number)].into_iter().chain(others.map(|id| (id, number))))).await.unwrap();
        println!("\nacknowledged {number}");
        std::io::stdout().flush().unwrap();
    }
}

fn start_child(directory: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "freshness::child", "--nocapture", "--test-threads=1"]).env(CHILD, directory);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// Reads row 0 in one of several ways.
async fn read(table: &Table, way: usize) -> i64 {
    let snapshot = table.snapshot().await.unwrap();
    match way % 3 {
        0 => {
            let row = snapshot.get(&batch([(0, 0)]), Some(vec!["value".to_owned()])).await.unwrap();
            row.column(0).as_primitive::<Int64Type>().value(0)
        }
        1 => contents(&snapshot).await[&0],
        _ => {
            // Starts from a scan's value and raises it while a count finds a larger one.
            let mut number = contents(&snapshot).await[&0];
            while snapshot.count(Some(format!("id = 0 AND value > {number}").into())).await.unwrap() > 0 {
                number += 1;
            }
            number
        }
    }
}

/// Reads from other processes while a group of the log is being synced, or fails to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_a_write_before_it_is_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (reached, has_reached) = std::sync::mpsc::sync_channel(1);
    let (go, may_go) = std::sync::mpsc::sync_channel::<bool>(1);
    let (is_held, may_go) = (Arc::new(AtomicBool::new(false)), std::sync::Mutex::new(may_go));
    let held = Arc::clone(&is_held);
    let faults = Faults::new(move |operation| {
        if operation == "log.sync" && held.load(Ordering::SeqCst) {
            reached.send(()).unwrap();
            if !may_go.lock().unwrap().recv().unwrap() {
                return Err(Error::unavailable("the disk is full"));
            }
        }
        Ok(())
    });
    let store = Store::open(directory.path(), StoreOptions { faults, ..StoreOptions::default() }).await.unwrap();
    let writer = store.create_table("t", spec()).await.unwrap();
    writer.upsert(batch([(0, 0)])).await.unwrap();
    let reader = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    let mut expected = BTreeMap::from([(0, 0)]);
    for (number, is_kept) in [(1, true), (2, false), (3, true), (4, false)] {
        is_held.store(true, Ordering::SeqCst);
        let (table, rows) = (writer.clone(), batch([(0, number), (number, number)]));
        let write = tokio::spawn(async move { table.upsert(rows).await });
        tokio::task::block_in_place(|| has_reached.recv().unwrap());
        assert_eq!(contents(&reader.snapshot().await.unwrap()).await, expected, "before write {number} is done");
        let other = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
        assert_eq!(contents(&other.snapshot().await.unwrap()).await, expected, "opened before write {number} is done");
        is_held.store(false, Ordering::SeqCst);
        go.send(is_kept).unwrap();
        assert_eq!(write.await.unwrap().is_ok(), is_kept);
        if is_kept {
            expected.extend([(0, number), (number, number)]);
        }
        assert_eq!(contents(&reader.snapshot().await.unwrap()).await, expected, "after write {number}");
        writer.upsert(batch([(100 + number, 0)])).await.unwrap();
        expected.insert(100 + number, 0);
        assert_eq!(contents(&reader.snapshot().await.unwrap()).await, expected, "after another than {number}");
    }
}

/// Checks that a write which another process has seen is visible in the writer's own reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_writer_sees_a_write_no_later_than_others() {
    let directory = tempfile::tempdir().unwrap();
    let writer = Store::open(directory.path(), options()).await.unwrap().create_table("t", spec()).await.unwrap();
    writer.upsert(batch([(0, 0)])).await.unwrap();
    let reader = Store::open(directory.path(), options()).await.unwrap().table("t").await.unwrap();
    let table = writer.clone();
    let writes = tokio::spawn(async move {
        for number in 1..300 {
            // Every fortieth write is large enough to go straight to the base.
            let others = if number % 40 == 0 { 1_000..3_000 } else { 1_000..1_002 };
            table.upsert(batch([(0, number)].into_iter().chain(others.map(|id| (id, number))))).await.unwrap();
        }
    });
    while !writes.is_finished() {
        let seen = read(&reader, 0).await;
        let own = read(&writer, 0).await;
        assert!(own >= seen, "another store read {seen}, and the writer's then {own}");
    }
    writes.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_has_what_other_processes_had_acknowledged_when_it_began() {
    let directory = tempfile::tempdir().unwrap();
    let table = Store::open(directory.path(), options()).await.unwrap().create_table("t", spec()).await.unwrap();
    table.upsert(batch([(0, 0)])).await.unwrap();
    let mut child = start_child(directory.path());
    let (published, done) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let output = BufReader::new(child.stdout.take().unwrap());
    let listener = {
        let published = Arc::clone(&published);
        std::thread::spawn(move || {
            for line in output.lines() {
                if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                    published.store(number.parse().unwrap(), Ordering::SeqCst);
                }
            }
        })
    };
    let mut tasks = Vec::new();
    // A writer in this process too: its other tasks must not rely on the right to write longer than it is held.
    let (writing, writes) = (table.clone(), Arc::clone(&done));
    tasks.push(tokio::spawn(async move {
        let mut count = 0;
        while !writes.load(Ordering::SeqCst) {
            let report = writing.upsert(batch([(1, count)])).await.unwrap();
            assert!(writing.snapshot().await.unwrap().version() >= report.version);
            count += 1;
        }
        count as usize
    }));
    for way in 0..3 {
        let (table, published, done) = (table.clone(), Arc::clone(&published), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) {
                let before = published.load(Ordering::SeqCst);
                let seen = read(&table, way).await;
                assert!(seen >= before, "read {way} gave {seen}, and {before} had been acknowledged");
                reads += 1;
            }
            reads
        }));
    }
    // The feed ends only after everything acknowledged.
    let (followed, heard, until) = (table.clone(), Arc::clone(&published), Arc::clone(&done));
    tasks.push(tokio::spawn(async move {
        let mut feed = followed.changes(followed.snapshot().await.unwrap().version()).await.unwrap();
        let (mut seen, mut ends) = (0, 0);
        while !until.load(Ordering::SeqCst) {
            let before = heard.load(Ordering::SeqCst);
            while let Some(changes) = feed.next().await.unwrap() {
                let keys = changes["key"].as_struct().column(0).as_primitive::<Int64Type>();
                let values = changes["after"].as_struct().column(1).as_primitive::<Int64Type>();
                let mine = keys.values().iter().zip(values.values()).filter(|(key, _)| **key == 0);
                seen = mine.map(|(_, value)| *value).chain([seen]).max().unwrap();
            }
            assert!(seen >= before, "the feed ends at {seen}, and {before} had been acknowledged");
            ends += 1;
        }
        ends
    }));
    tokio::time::sleep(LIFE).await;
    done.store(true, Ordering::SeqCst);
    for task in tasks {
        assert!(task.await.unwrap() > 3, "hardly anything was done");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    listener.join().unwrap();
    assert!(published.load(Ordering::SeqCst) > 20, "the child hardly wrote");
}

/// Leaves a process in a segment of the log that a tag keeps, and collects the segment after it: the end of what the
/// process can read there is not the end of the log. If it were taken for that, the process would begin another log,
/// and lose what it wrote.
#[tokio::test]
async fn a_place_in_the_log_behind_which_segments_are_missing_is_not_its_end() {
    for scheme in ["", "file-object-store://"] {
        let directory = tempfile::tempdir().unwrap();
        let open = async || {
            let options = StoreOptions { cache_directory: directory.path().join("cache"), ..StoreOptions::default() };
            let place = format!("{scheme}{}", directory.path().join("store").display());
            Store::open(place, options).await.unwrap()
        };
        let store = open().await;
        let writer = store.create_table("t", spec()).await.unwrap();
        let tagged = writer.upsert(batch([(0, 0)])).await.unwrap().version;
        let followed = writer.upsert(batch([(0, 1)])).await.unwrap().version;
        writer.tag("kept", tagged).await.unwrap();
        let other = open().await;
        let reader = other.table("t").await.unwrap();
        let mut feed = reader.changes(tagged).await.unwrap();
        assert!(feed.next().await.unwrap().is_some());
        assert!(feed.next().await.unwrap().is_none());
        assert_eq!(feed.version(), followed);
        for number in 2..5 {
            writer.fold().await.unwrap();
            writer.upsert(batch([(0, number)])).await.unwrap();
        }
        writer.fold().await.unwrap();
        writer.collect(Some(Duration::ZERO)).await.unwrap();
        let versions = writer.versions().await.unwrap();
        assert_eq!(feed.next().await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(contents(&reader.snapshot().await.unwrap()).await, BTreeMap::from([(0, 4)]));
        assert_eq!(reader.versions().await.unwrap(), versions);
        assert_eq!(contents(&reader.snapshot_of("kept").await.unwrap()).await, BTreeMap::from([(0, 0)]));
        store.release().await.unwrap();
        reader.upsert(batch([(1, 5)])).await.unwrap();
        assert_eq!(contents(&writer.snapshot().await.unwrap()).await, BTreeMap::from([(0, 4), (1, 5)]));
    }
}

/// Does the same as [`above`](a_place_in_the_log_behind_which_segments_are_missing_is_not_its_end), but the process
/// writes at once.
#[tokio::test]
async fn a_process_that_stood_behind_a_collection_writes_at_the_true_end_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let open = async || Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let writer = open().await.create_table("t", spec()).await.unwrap();
    let tagged = writer.upsert(batch([(0, 0)])).await.unwrap().version;
    writer.upsert(batch([(0, 1)])).await.unwrap();
    writer.tag("kept", tagged).await.unwrap();
    let other = open().await.table("t").await.unwrap();
    assert_eq!(contents(&other.snapshot().await.unwrap()).await, BTreeMap::from([(0, 1)]));
    for number in 2..4 {
        writer.fold().await.unwrap();
        writer.upsert(batch([(0, number)])).await.unwrap();
    }
    writer.fold().await.unwrap();
    writer.collect(Some(Duration::ZERO)).await.unwrap();
    other.upsert(batch([(1, 4)])).await.unwrap();
    let expected = BTreeMap::from([(0, 3), (1, 4)]);
    for table in [&writer, &other, &open().await.table("t").await.unwrap()] {
        assert_eq!(contents(&table.snapshot().await.unwrap()).await, expected);
    }
}
