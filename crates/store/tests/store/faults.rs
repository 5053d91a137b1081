//! What is left when a storage operation fails, or the process dies at it, for each operation of a workload in turn
//! until the workload passes untouched. `CENOTE_LONG=1` tries every operation, otherwise every third.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, Error, Result};
use cenote_store::{Faults, ScanRequest, Store, StoreOptions, Table, TableSpec};

type Rows = BTreeMap<i64, Option<i64>>;

/// The state of the process after the fault: it goes on, or it is as good as dead and every later operation fails too.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Fail,
    Crash,
}

fn options(faults: Faults) -> StoreOptions {
    StoreOptions {
        bulk_bytes: ByteSize(4_000),
        fold_bytes: ByteSize::mib(64),
        faults,
        lease_patience: Duration::from_millis(100),
        ..StoreOptions::default()
    }
}

fn failing(at: usize, mode: Mode) -> (Faults, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let faults = Faults::new(move |operation| {
        let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
        match number == at || mode == Mode::Crash && number > at {
            true => Err(Error::unavailable(format!("injected at operation {number}, {operation}"))),
            false => Ok(()),
        }
    });
    (faults, count)
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Put(i64, i64, i64),
    /// Sets the value of existing keys.
    Patch(i64, i64, i64),
    Delete(i64, i64),
    Fold,
    AddColumn,
    Compact,
    Collect,
}

/// Ranges of keys, and values. Wide ranges go straight to the base.
const WORKLOAD: [Step; 18] = [
    Step::Put(0, 5, 1),
    Step::Put(3, 8, 2),
    Step::Delete(0, 2),
    Step::Fold,
    Step::Put(2, 4, 3),
    Step::Patch(3, 10, 4),
    Step::Put(0, 400, 5),
    Step::Delete(90, 93),
    Step::AddColumn,
    Step::Patch(80, 100, 6),
    Step::Put(95, 97, 7),
    Step::Fold,
    Step::Delete(50, 60),
    Step::Compact,
    Step::Put(55, 56, 8),
    Step::Collect,
    Step::Put(300, 700, 9),
    Step::Delete(0, 1),
];

fn batch(from: i64, to: i64, value: i64) -> RecordBatch {
    let ids: Int64Array = (from..to).collect();
    let values = Int64Array::from(vec![value; ids.len()]);
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("value", Arc::new(values) as _)]).unwrap()
}

async fn perform(table: &Table, step: Step) -> Result<()> {
    match step {
        Step::Put(from, to, value) => table.upsert(batch(from, to, value)).await.map(drop),
        Step::Patch(from, to, value) => table.update(batch(from, to, value)).await.map(drop),
        Step::Delete(from, to) => table.delete(&batch(from, to, 0)).await.map(drop),
        Step::Fold => table.fold().await,
        Step::AddColumn => table.add_columns(&[Field::new("extra", DataType::Utf8, true)]).await.map(drop),
        Step::Compact => table.compact(true).await,
        Step::Collect => table.collect(Some(Duration::ZERO)).await.map(drop),
    }
}

fn apply(rows: &mut Rows, step: Step) {
    match step {
        Step::Put(from, to, value) => rows.extend((from..to).map(|id| (id, Some(value)))),
        Step::Patch(from, to, value) => rows.range_mut(from..to).for_each(|(_, row)| *row = Some(value)),
        Step::Delete(from, to) => rows.retain(|id, _| !(from..to).contains(id)),
        _ => {}
    }
}

async fn contents(table: &Table) -> Rows {
    let snapshot = table.snapshot().await.unwrap();
    let batch = snapshot.collect(&ScanRequest::default().columns(["id", "value"])).await.unwrap();
    let (ids, values) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
    let rows: Rows = ids.values().iter().zip(values).map(|(id, value)| (*id, value)).collect();
    assert_eq!(rows.len(), ids.len(), "a key occurs twice");
    assert_eq!(snapshot.count(None).await.unwrap(), rows.len());
    rows
}

/// Runs the workload with a fault at operation `at`. Returns the number of operations.
async fn run(at: usize, mode: Mode) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let whole = Store::open(directory.path(), options(Faults::default())).await.unwrap();
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)];
    whole.create_table("t", TableSpec::new(Arc::new(Schema::new(fields)), ["id"])).await.unwrap();
    // The first use creates the log.
    assert!(contents(&whole.table("t").await.unwrap()).await.is_empty());
    drop(whole);

    let (faults, count) = failing(at, mode);
    let store = Store::open(directory.path(), options(faults)).await.unwrap();
    let table = store.table("t").await.unwrap();
    // The possible contents: with and without the writes that failed, each as a whole.
    let mut possible = vec![Rows::new()];
    for step in WORKLOAD {
        let outcome = perform(&table, step).await;
        let mut applied = possible.clone();
        applied.iter_mut().for_each(|rows| apply(rows, step));
        match outcome {
            Ok(()) => possible = applied,
            Err(error) => {
                assert!(format!("{error:#}").contains("injected"), "{at} {step:?}: {error:#}");
                applied.retain(|rows| !possible.contains(rows));
                possible.extend(applied);
                if mode == Mode::Crash {
                    break;
                }
            }
        }
        let seen = contents(&table).await;
        assert!(possible.contains(&seen), "{at} {mode:?} after {step:?}: {seen:?} is none of {possible:?}");
    }
    drop((table, store));
    let store = Store::open(directory.path(), options(Faults::default())).await.unwrap();
    let table = store.table("t").await.unwrap();
    let seen = contents(&table).await;
    assert!(possible.contains(&seen), "{at} {mode:?} reopened: {seen:?} is none of {possible:?}");
    // The table works on as if nothing had happened, also with what a dead process had begun and not logged.
    for step in [Step::Put(1_000, 1_003, 1), Step::Fold, Step::Put(5_000, 5_500, 2), Step::Compact, Step::Collect] {
        perform(&table, step).await.unwrap();
        possible.iter_mut().for_each(|rows| apply(rows, step));
    }
    let seen = contents(&table).await;
    assert!(possible.contains(&seen), "{at} {mode:?} went on: {seen:?} is none of {possible:?}");
    count.load(Ordering::SeqCst)
}

async fn every_operation(mode: Mode) {
    let stride = if std::env::var_os("CENOTE_LONG").is_some() { 1 } else { 3 };
    let mut at = 1;
    while run(at, mode).await >= at {
        at += stride;
    }
    assert!(at > 60, "the workload touched the disk {at} times only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_operation_loses_nothing_acknowledged() {
    every_operation(Mode::Fail).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    every_operation(Mode::Crash).await;
}
