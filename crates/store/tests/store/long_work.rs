//! Long work on the base, such as an index build, stops neither writers nor folds, in any process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::ByteSize;
use cenote_store::{Store, StoreOptions, lance_error};
use tokio::sync::oneshot;

use crate::support::rows::{batch, contents, spec};

/// More writes than what makes writers wait for a fold.
const WRITES: i64 = 60;
const ROWS: i64 = 200;
/// Time after which the test gives up waiting.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_folds_go_on_while_the_base_is_worked_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        fold_bytes: ByteSize(64 << 10),
        bulk_bytes: ByteSize(30_000),
        writer_wait_max: Duration::from_secs(5),
        ..StoreOptions::default()
    };
    let table = Store::open(directory.path(), options.clone()).await.unwrap().create_table("t", spec()).await.unwrap();
    let other = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    table.upsert(batch((0..10_000).map(|id| (id, 0)))).await.unwrap();
    let first = table.snapshot().await.unwrap().base().version().version;
    let mut expected: BTreeMap<i64, i64> = (0..10_000).map(|id| (id, 0)).collect();
    let (begun, beginning) = oneshot::channel();
    let (go_on, going_on) = oneshot::channel::<()>();
    let work = tokio::spawn({
        let table = table.clone();
        async move {
            let (mut begun, mut going_on) = (Some(begun), Some(going_on));
            table
                .maintain(async |dataset| {
                    let version = dataset.version().version;
                    begun.take().unwrap().send(version).unwrap();
                    going_on.take().unwrap().await.unwrap();
                    assert_eq!(dataset.count_rows(None).await.map_err(lance_error)?, 10_000, "what it reads has moved");
                    // Two commits, each of which finds a newer base than it knows.
                    dataset.update_config([("one", "1")]).await.map_err(lance_error)?;
                    dataset.update_config([("two", "2")]).await.map(drop).map_err(lance_error)
                })
                .await
        }
    });
    assert_eq!(beginning.await.unwrap(), first);
    let writes = async {
        for number in 1..=WRITES {
            // Now and then many rows at once, which go straight to the base, and deletions.
            let ids = number * 37..number * 37 + if number % 10 == 0 { 3_000 } else { ROWS };
            let table = if number % 2 == 0 { &table } else { &other };
            expected.extend(ids.clone().map(|id| (id, number)));
            table.upsert(batch(ids.map(|id| (id, number)))).await.unwrap();
            table.delete(&batch([(number, 0)])).await.unwrap();
            expected.remove(&number);
        }
        table.fold().await.unwrap();
        other
            .add_columns(&[arrow::datatypes::Field::new("extra", arrow::datatypes::DataType::Utf8, true)])
            .await
            .unwrap();
        // A collection elsewhere spares the version that is worked on.
        other.collect(Some(Duration::ZERO)).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, writes).await.expect("writers waited for the work");
    assert!(table.snapshot().await.unwrap().base().version().version > first + 3, "nothing was folded meanwhile");
    go_on.send(()).unwrap();
    work.await.unwrap().unwrap();
    for table in [&table, &other] {
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(contents(&snapshot).await, expected);
        let property = |name: &str| snapshot.properties().get(name).map(String::as_str);
        assert_eq!((property("one"), property("two")), (Some("1"), Some("2")));
        table.upsert(batch([(5, 5)])).await.unwrap();
        table.fold().await.unwrap();
        expected.insert(5, 5);
    }
}

/// Checks that a collection reads only the beginnings of some segments, however long the log is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_does_not_read_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    for number in 0..5 {
        table.upsert(batch([(number, number)])).await.unwrap();
        table.fold().await.unwrap();
    }
    let mut segments: Vec<_> = std::fs::read_dir(directory.path().join("t.changes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    assert!(segments.len() > 3, "{segments:?}");
    // A byte of a row that was folded long ago.
    let mut bytes = std::fs::read(&segments[1]).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&segments[1], bytes).unwrap();
    assert!(table.versions().await.is_err(), "who reads the log sees the damage");
    table.collect(Some(Duration::from_secs(3600))).await.unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap();
    assert!(!segments[1].exists());
    assert_eq!(table.versions().await.unwrap().len(), 1);
    let expected = (0..5).map(|number| (number, number)).collect();
    assert_eq!(contents(&table.snapshot().await.unwrap()).await, expected);
    drop(Arc::new(store));
}
