//! Disks that are full, read-only, or closed in one place: errors are clear, nothing acknowledged is lost, and the next
//! write succeeds once the cause is gone. Where file systems cannot be mounted, the tests print that they are skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, ErrorKind, Result};
use cenote_store::{ScanRequest, Store, StoreOptions, Table, TableSpec};

type Rows = BTreeMap<i64, i64>;

/// A file system that stays mounted until this is dropped.
struct Mount(PathBuf);

impl Mount {
    /// Mounts with `arguments` at `path`; `None` where that is not allowed.
    fn new(arguments: &[&str], path: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path.to_owned()));
        }
        println!("skipped: file systems cannot be mounted here");
        None
    }

    /// Makes the directory at `path` read-only.
    fn read_only(path: &Path) -> Option<Self> {
        let mount = Self::new(&["--bind", path.to_str().unwrap()], path)?;
        let closed = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(path).status().unwrap();
        assert!(closed.success());
        Some(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

fn batch(ids: std::ops::Range<i64>, value: i64) -> RecordBatch {
    let values = Int64Array::from(vec![value; ids.clone().count()]);
    let ids: Int64Array = ids.collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("value", Arc::new(values) as _)]).unwrap()
}

async fn open(directory: &Path) -> Result<Store> {
    let options =
        StoreOptions { bulk_bytes: ByteSize(20_000), fold_bytes: ByteSize::mib(64), ..StoreOptions::default() };
    Store::open(directory, options).await
}

async fn create(store: &Store, name: &str) -> Table {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)];
    store.create_table(name, TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap()
}

async fn rows(table: &Table) -> Rows {
    let found =
        table.snapshot().await.unwrap().collect(&ScanRequest::default().columns(["id", "value"])).await.unwrap();
    let (ids, values) = (found["id"].as_primitive::<Int64Type>(), found["value"].as_primitive::<Int64Type>());
    ids.values().iter().copied().zip(values.values().iter().copied()).collect()
}

/// Returns the keys that write `number` writes, if any.
fn written(number: i64) -> Option<std::ops::Range<i64>> {
    let start = number * 10_000;
    match number % 6 {
        0 | 1 => Some(start..start + 300),
        3 => Some(start..start + 5_000),
        _ => None,
    }
}

/// Performs write `number`; each kind of write touches the disk in another way.
async fn write(table: &Table, number: i64) -> Result<()> {
    match (written(number), number % 6) {
        (Some(keys), _) => table.upsert(batch(keys, number)).await.map(drop),
        (None, 2) => table.fold().await,
        (None, 4) => table.add_columns(&[Field::new(format!("c{number}"), DataType::Utf8, true)]).await.map(drop),
        (None, _) => table.compact(true).await,
    }
}

/// Gives the disk a little more room each time, so that it is full at different operations.
#[tokio::test]
async fn a_full_disk_loses_nothing_and_writes_go_on_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=12m", "tmpfs"], directory.path()) else { return };
    let ballast = directory.path().join("ballast");
    let store = open(&directory.path().join("lake")).await.unwrap();
    let table = create(&store, "t").await;
    let mut possible = vec![Rows::new()];
    let mut failures = 0;
    for number in 0..90 {
        // Pages of a disk in memory have 4 KiB.
        let room = usize::try_from(number / 6).unwrap() * 4096;
        fill(&ballast, room);
        let outcome = write(&table, number).await;
        let during = rows(&table).await;
        std::fs::remove_file(&ballast).unwrap();
        let mut applied = possible.clone();
        let written = written(number).into_iter().flatten().map(|id| (id, number));
        applied.iter_mut().for_each(|rows| rows.extend(written.clone()));
        match outcome {
            Ok(()) => possible = applied,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{number} with {room} bytes: {error:#}");
                failures += 1;
                // As a whole or not at all, and perhaps visible only later.
                applied.retain(|rows| !possible.contains(rows));
                possible.extend(applied);
            }
        }
        assert!(possible.contains(&during), "{number} with {room} bytes");
        table.upsert(batch(-1..0, number)).await.unwrap_or_else(|error| panic!("{number}, {room}: {error:#}"));
        possible.iter_mut().for_each(|rows| rows.extend([(-1, number)]));
        if number % 6 == 5 {
            table.compact(false).await.unwrap();
            // Nothing is pending.
            possible = vec![rows(&table).await];
        }
        if number % 15 == 14 {
            table.collect(Some(std::time::Duration::ZERO)).await.unwrap();
        }
    }
    assert!(failures > 20, "the disk was full {failures} times only");
    drop((table, store));
    let store = open(&directory.path().join("lake")).await.unwrap();
    assert!(possible.contains(&rows(&store.table("t").await.unwrap()).await));
}

/// Fills the file system of `ballast` except for `room` bytes.
fn fill(ballast: &Path, room: usize) {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast).unwrap();
    let mut bytes = 0;
    for step in [1 << 20, 4096] {
        let zeros = vec![0; step];
        while let Ok(written @ 1..) = file.write(&zeros) {
            bytes += written;
        }
    }
    file.set_len(bytes.saturating_sub(room) as u64).unwrap();
}

#[tokio::test]
async fn a_lake_on_a_read_only_file_system_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    create(&store, "unused").await;
    let table = create(&store, "t").await;
    table.upsert(batch(0..5_000, 1)).await.unwrap();
    table.fold().await.unwrap();
    table.upsert(batch(10..20, 2)).await.unwrap();
    table.tag("now", table.snapshot().await.unwrap().version()).await.unwrap();
    let expected = rows(&table).await;
    drop((table, store));

    let Some(mount) = Mount::read_only(directory.path()) else { return };
    let store = open(directory.path()).await.unwrap();
    assert_eq!(store.tables().await.unwrap(), ["t", "unused"]);
    assert!(rows(&store.table("unused").await.unwrap()).await.is_empty());
    let table = store.table("t").await.unwrap();
    assert_eq!(rows(&table).await, expected);
    assert_eq!(table.snapshot_of("now").await.unwrap().count(None).await.unwrap(), 5_000);
    let found = table.snapshot().await.unwrap().get(&batch(15..16, 0), None).await.unwrap();
    assert_eq!(found["value"].as_primitive::<Int64Type>().values(), &[2]);
    table.upkeep().await.unwrap();
    let mut feed = table.changes(table.tags().await.unwrap()["now"]).await.unwrap();
    assert!(feed.next().await.unwrap().is_none());
    for error in [
        table.upsert(batch(0..1, 3)).await.unwrap_err(),
        table.upsert(batch(0..5_000, 3)).await.unwrap_err(),
        table.fold().await.unwrap_err(),
        store.drop_table("t").await.unwrap_err(),
    ] {
        assert!(error.to_string().to_lowercase().contains("read-only"), "{error:#}");
    }

    drop(mount);
    table.upsert(batch(0..1, 3)).await.unwrap();
    table.upsert(batch(5_000..10_000, 3)).await.unwrap();
    table.fold().await.unwrap();
    let mut expected = expected;
    expected.extend((5_000..10_000).map(|id| (id, 3)));
    expected.insert(0, 3);
    assert_eq!(rows(&table).await, expected);
}

/// Closes the directories in the middle of a lake, one after another.
#[tokio::test]
async fn a_directory_that_cannot_be_written_costs_only_the_writes_that_need_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let table = create(&store, "t").await;
    table.upsert(batch(0..5_000, 0)).await.unwrap();
    table.delete(&batch(0..10, 0)).await.unwrap();
    table.fold().await.unwrap();
    let mut expected = rows(&table).await;
    let below = [
        "t.lance/data",
        "t.lance/_deletions",
        "t.lance/_transactions",
        "t.lance/_versions",
        "t.changes/keys",
        "t.changes",
    ];
    for (number, closed) in (1..).zip(below) {
        let Some(mount) = Mount::read_only(&directory.path().join(closed)) else { return };
        // Some rows of the same file stay, so that the others are marked as deleted.
        let range = 4_000 + number * 100..9_000;
        // As seen by a process that starts now.
        let store = open(directory.path()).await.unwrap();
        let table = store.table("t").await.unwrap();
        let error = table.upsert(batch(range.clone(), number)).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("read-only"), "{closed}: {error:#}");
        assert_eq!(rows(&table).await, expected, "{closed}");
        // Writes that need only the log succeed; a process that finds an unlogged commit needs the key index too.
        let small = table.upsert(batch(20..21, number)).await;
        if small.is_ok() {
            expected.insert(20, number);
        }
        assert!(small.is_ok() || closed.starts_with("t.changes"), "{closed}: {small:?}");
        drop(mount);
        table.upsert(batch(range.clone(), number)).await.unwrap();
        table.upsert(batch(30..31, number)).await.unwrap();
        expected.extend(range.chain(30..31).map(|id| (id, number)));
        table.fold().await.unwrap();
        assert_eq!(rows(&table).await, expected, "{closed}");
    }
}
