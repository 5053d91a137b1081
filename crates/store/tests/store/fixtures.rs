//! This version of Cenote must read the files of all earlier versions.
//!
//! A new fixture is written when a format changes: `CENOTE_WRITE_FIXTURE=format-2 cargo nextest run --workspace --test
//! store fixtures::`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ErrorKind, ManualClock, Timestamp};
use cenote_store::{ScanRequest, Snapshot, Store, StoreOptions, TableSpec, Version};

type Rows = BTreeMap<String, i64>;

const WRITES: [(&[&str], i64); 4] = [(&["a", "b", "c"], 1), (&["b", "d"], 2), (&["e"], 3), (&["a", "e"], 4)];

fn fixtures() -> PathBuf {
    PathBuf::from("tests/fixtures")
}

fn options() -> StoreOptions {
    StoreOptions { clock: Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000))), ..StoreOptions::default() }
}

fn batch(ids: &[&str], value: i64) -> RecordBatch {
    let values = Int64Array::from(vec![value; ids.len()]);
    let ids = StringArray::from(ids.to_vec());
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("value", Arc::new(values) as _)]).unwrap()
}

/// Writes two writes to the base, one of them replaced there; a deletion and two writes to the log; tags, one of them
/// of a version whose successors were collected (since format 2); and a consumer.
async fn write(directory: &Path) {
    let store = Store::open(directory, options()).await.unwrap();
    let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("value", DataType::Int64, true)];
    let table = store.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
    let first = table.upsert(batch(&["a"], 0)).await.unwrap().version;
    table.tag("initial", first).await.unwrap();
    table.upsert(batch(WRITES[0].0, WRITES[0].1)).await.unwrap();
    table.fold().await.unwrap();
    let first = table.upsert(batch(WRITES[1].0, WRITES[1].1)).await.unwrap().version;
    table.fold().await.unwrap();
    table.tag("second", first).await.unwrap();
    table.delete(&batch(&["c"], 0)).await.unwrap();
    for (ids, value) in &WRITES[2..] {
        table.upsert(batch(ids, *value)).await.unwrap();
    }
    table.set_consumer("reader", Some(first)).await.unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap();
}

async fn rows(snapshot: &Snapshot) -> Rows {
    let batch = snapshot.collect(&ScanRequest::default()).await.unwrap();
    let (ids, values) = (batch["id"].as_string::<i32>(), batch["value"].as_primitive::<Int64Type>());
    ids.iter().flatten().map(str::to_owned).zip(values.values().iter().copied()).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[tokio::test]
async fn every_format_is_read_and_written_on() {
    if let Some(name) = std::env::var_os("CENOTE_WRITE_FIXTURE") {
        write(&fixtures().join(name)).await;
    }
    let mut read = 0;
    for fixture in std::fs::read_dir(fixtures()).unwrap() {
        let fixture = fixture.unwrap().path();
        let directory = tempfile::tempdir().unwrap();
        copy(&fixture, directory.path());
        let store = Store::open(directory.path(), options()).await.unwrap();
        let table = store.table("t").await.unwrap();
        let expected =
            |pairs: &[(&str, i64)]| pairs.iter().map(|(id, value)| ((*id).to_owned(), *value)).collect::<Rows>();
        let now = expected(&[("a", 4), ("b", 2), ("d", 2), ("e", 4)]);
        assert_eq!(rows(&table.snapshot().await.unwrap()).await, now, "{}", fixture.display());
        let second = table.snapshot_of("second").await.unwrap();
        assert_eq!(rows(&second).await, expected(&[("a", 1), ("b", 2), ("c", 1), ("d", 2)]));

        if let Some(initial) = table.tags().await.unwrap().get("initial") {
            assert_eq!(rows(&table.snapshot_at(*initial).await.unwrap()).await, expected(&[("a", 0)]));
            let gone = table.snapshot_at(Version(initial.0 + 1)).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound);
        }

        let from = table.consumers().await.unwrap()["reader"];
        assert_eq!(from, second.version());
        let mut feed = table.changes(from).await.unwrap();
        let mut operations = Vec::new();
        while let Some(changes) = feed.next().await.unwrap() {
            operations.extend(changes["operation"].as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        assert_eq!(operations, ["delete", "insert", "update", "update"]);

        table.upsert(batch(&["a"], 5)).await.unwrap();
        table.compact(true).await.unwrap();
        let mut after = now;
        after.insert("a".to_owned(), 5);
        assert_eq!(rows(&table.snapshot().await.unwrap()).await, after);
        assert!(table.snapshot().await.unwrap().version() > Version(from.0));
        read += 1;
    }
    assert!(read > 0);
}
