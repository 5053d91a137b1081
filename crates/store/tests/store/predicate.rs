//! Writes that depend on what is there: a deletion by condition takes exactly the rows that satisfy it, and a value is
//! set only where what it was computed from is unchanged, whatever is written at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema};
use cenote_base::{ByteSize, ErrorKind, Result};
use cenote_store::{ScanRequest, Store, StoreOptions, TableSpec};

use crate::support::rows::{batch, contents, spec};

/// Enough rows for a search to take some milliseconds.
const ROWS: i64 = 30_000;
const WRITERS: i64 = 3;
const ROUNDS: i64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_no_longer_matches_is_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { fold_rows: 400, bulk_bytes: ByteSize::mib(1), ..StoreOptions::default() };
    let table = Store::open(directory.path(), options.clone()).await.unwrap().create_table("t", spec()).await.unwrap();
    let other = Store::open(directory.path(), options).await.unwrap().table("t").await.unwrap();
    table.upsert(batch((1_000..1_000 + ROWS).map(|id| (id, -1)))).await.unwrap();
    let (done, deleted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let deleters = [table.clone(), other.clone()].map(|table| {
        let (done, deleted) = (Arc::clone(&done), Arc::clone(&deleted));
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let report = table.delete_where("value >= 0".into()).await.unwrap();
                deleted.fetch_add(report.deleted, Ordering::SeqCst);
            }
        })
    });
    let writers = (0..WRITERS).map(|writer| {
        let table = if writer % 2 == 0 { table.clone() } else { other.clone() };
        tokio::spawn(async move {
            for round in 1..=ROUNDS {
                // A row that is to be deleted, and at once one under its key that is not.
                table.upsert(batch([(writer, round)])).await.unwrap();
                table.upsert(batch([(writer, -round)])).await.unwrap();
                let seen = contents(&table.snapshot().await.unwrap()).await;
                assert_eq!(seen.get(&writer), Some(&-round), "an acknowledged row was deleted that does not match");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for deleter in deleters {
        deleter.await.unwrap();
    }
    assert!(deleted.load(Ordering::SeqCst) > 0, "nothing was ever deleted");
    assert_eq!(contents(&table.snapshot().await.unwrap()).await.len() as i64, ROWS + WRITERS);
    // Matching rows are deleted: few, also in the change store, and many.
    table.upsert(batch([(1, 1), (2, 2), (1_001, 3)])).await.unwrap();
    assert_eq!(table.delete_where("value >= 0".into()).await.unwrap().deleted, 3);
    let report = other.delete_where("id < 20000".into()).await.unwrap();
    assert_eq!(report.deleted as i64, 19_000 - 1 + 1);
    assert_eq!(table.snapshot().await.unwrap().count(Some("id < 20000".into())).await.unwrap(), 0);
}

/// Sets values computed from rows only where those rows are unchanged, however they were moved since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_set_only_where_what_it_was_computed_from_is_unchanged() {
    const ROWS: i64 = 400;
    // Sends the update through the change store, or straight to the base.
    for bulk_bytes in [ByteSize::mib(8), ByteSize(2_000)] {
        for moves in 0..4 {
            let directory = tempfile::tempdir().unwrap();
            let options = StoreOptions { bulk_bytes, ..StoreOptions::default() };
            let store = Store::open(directory.path(), options).await.unwrap();
            let table = store.create_table("t", spec()).await.unwrap();
            table.upsert(batch((0..ROWS).map(|id| (id, id)))).await.unwrap();
            table.add_columns(&[Field::new("derived", DataType::Int64, true)]).await.unwrap();
            table.upsert(batch([(7, 7)])).await.unwrap();
            let read = table.snapshot().await.unwrap();

            table.upsert(batch([(1, 100), (2, 2), (ROWS, ROWS)])).await.unwrap();
            table.delete(&batch([(3, 0)])).await.unwrap();
            table.update(derived([4])).await.unwrap();
            if moves > 0 {
                table.fold().await.unwrap();
            }
            if moves > 1 {
                table.compact(true).await.unwrap();
            }
            if moves > 2 {
                // Enough rows that their column is patched in place, to their old values and to others.
                table.update(batch((200..ROWS).map(|id| (id, if id % 2 == 0 { id } else { -id })))).await.unwrap();
            }
            let is_unchanged = |id: &i64| ![1, 3, ROWS].contains(id) && (moves < 3 || *id < 200 || id % 2 == 0);
            let expected: Vec<i64> = (0..=ROWS).filter(is_unchanged).collect();
            let columns = ["value".to_owned()];
            let report = table.update_unchanged(derived(0..=ROWS), &read, &columns).await.unwrap();
            assert_eq!((report.updated, report.inserted), (expected.len(), 0), "moves {moves}, bulk {bulk_bytes}");
            let request = ScanRequest::default().columns(["id"]).filter("derived = id * 2");
            let found = table.snapshot().await.unwrap().collect(&request).await.unwrap();
            let mut found: Vec<i64> = found.column(0).as_primitive::<Int64Type>().values().to_vec();
            found.sort_unstable();
            assert_eq!(found, expected, "moves {moves}, bulk {bulk_bytes}");
        }
    }
}

fn derived(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Int64Array = ids.into_iter().collect();
    let values: Int64Array = ids.values().iter().map(|id| id * 2).collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("derived", Arc::new(values) as _)]).unwrap()
}

/// Checks that a predicate sees null in the field of a null struct, whatever lies under the null, so that a fold does
/// not change which rows it means.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_null_hides_satisfies_no_predicate() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let x = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("s", DataType::Struct(x.clone()), true)];
    let sevens = StructArray::new(x, vec![Arc::new(Int64Array::from(vec![7, 7]))], Some(vec![true, false].into()));
    let schema = Arc::new(Schema::new(fields));
    let ids: Int64Array = (0..2).collect();
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids), Arc::new(sevens)]).unwrap();
    for (name, folds) in [("memory", false), ("base", true)] {
        let table = store.create_table(name, TableSpec::new(Arc::clone(&schema), ["id"])).await.unwrap();
        table.upsert(rows.clone()).await.unwrap();
        if folds {
            table.fold().await.unwrap();
        }
        let snapshot = table.snapshot().await.unwrap();
        for (predicate, expected) in [("s.x = 7", 1), ("s.x IS NULL", 1), ("NOT (s.x = 7)", 0)] {
            assert_eq!(snapshot.count(Some(predicate.into())).await.unwrap(), expected, "{predicate} in {name}");
        }
        assert_eq!(table.delete_where("s.x = 7".into()).await.unwrap().deleted, 1, "{name}");
    }
}

/// Checks that a filter is not failed by a superseded row, and that a live row is reported alike wherever it is.
#[tokio::test]
async fn a_filter_fails_only_for_rows_that_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.create_table("t", spec()).await.unwrap();
    let found = async || {
        let request = ScanRequest::default().columns(["id"]).filter("10 / (value - 5) > 0");
        let rows = table.snapshot().await.unwrap().collect(&request).await?;
        Result::<usize>::Ok(rows.num_rows())
    };
    table.upsert(batch((0..20_000).map(|id| (id, if id == 15_000 { 5 } else { 6 })))).await.unwrap();
    let in_memory = found().await.unwrap_err();
    table.fold().await.unwrap();
    let in_base = found().await.unwrap_err();
    for error in [in_memory, in_base] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.message().contains("filter `10 / (value - 5) > 0` fails on a row"), "{error}");
    }
    table.upsert(batch([(15_000, 7)])).await.unwrap();
    assert_eq!(found().await.unwrap(), 20_000);
}
