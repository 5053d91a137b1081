//! One test for each fault that users of comparable systems have reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_index::{IndexInfo, IndexKind, IndexSpec, Metric, TextQuery, VectorQuery};
use cenote_store::{Filter, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec};

use crate::INDEXES;

const DIMENSIONS: i32 = 4;

/// Makes rows `ids`: `kind` is the id modulo ten, `note` has the value as a word, and the vector begins with `value`.
fn batch(ids: impl IntoIterator<Item = i64>, value: i64) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let kinds: ArrayRef = Arc::new(ids.iter().map(|id| Some(format!("k{}", id % 10))).collect::<StringArray>());
    let notes: ArrayRef = Arc::new(ids.iter().map(|_| Some(format!("word{value} common"))).collect::<StringArray>());
    let numbers = ids.iter().flat_map(|id| [value as f32, *id as f32 / 1000.0, 1.0, 0.0]);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, DIMENSIONS, Arc::new(numbers.collect::<Float32Array>()), None);
    let columns = [
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, false),
        ("kind", kinds, true),
        ("note", notes, true),
        ("vector", Arc::new(vectors), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

async fn table(directory: &tempfile::TempDir) -> Table {
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    store.create_table("t", TableSpec::new(batch([0], 0).schema(), ["id"])).await.unwrap()
}

async fn index(table: &Table) {
    for (column, kind) in [
        ("id", IndexKind::scalar()),
        ("kind", IndexKind::scalar()),
        ("vector", IndexKind::vector(Metric::L2)),
        ("note", IndexKind::parse("text", None).unwrap()),
    ] {
        INDEXES.create(table, &IndexSpec::new(column, kind)).await.unwrap();
    }
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    batch["id"].as_primitive::<Int64Type>().values().to_vec()
}

async fn filtered(snapshot: &Snapshot, filter: &str) -> BTreeSet<i64> {
    let rows = snapshot.collect(&ScanRequest::default().columns(["id"]).filter(filter)).await.unwrap();
    let found: BTreeSet<i64> = ids(&rows).into_iter().collect();
    assert_eq!(found.len(), rows.num_rows(), "a row stands twice under {filter}");
    found
}

async fn nearest(snapshot: &Snapshot, value: i64, k: usize, filter: Option<&str>) -> Vec<i64> {
    let mut query = VectorQuery::new("vector", vec![value as f32, 0.0, 1.0, 0.0], k);
    query.filter = filter.map(Filter::from);
    let found = ids(&INDEXES.vector_search(snapshot, &query).await.unwrap());
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "a hit stands twice");
    found
}

async fn with_word(snapshot: &Snapshot, word: &str) -> BTreeSet<i64> {
    let found = ids(&INDEXES.text_search(snapshot, &TextQuery::new(word, 10_000)).await.unwrap());
    let unique: BTreeSet<i64> = found.iter().copied().collect();
    assert_eq!(unique.len(), found.len(), "a hit stands twice");
    unique
}

/// lancedb #3177, lance #7596, #7934: an upsert under a scalar index on the key skipped rows.
#[tokio::test]
async fn an_upsert_under_a_scalar_index_skips_no_row() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..500, 1)).await.unwrap();
    index(&table).await;
    for value in 2..6 {
        let report = table.upsert(batch((0..600).step_by(3), value)).await.unwrap();
        assert_eq!(report.inserted + report.updated, 200);
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(snapshot.count(None).await.unwrap(), 533);
        assert_eq!(with_word(&snapshot, &format!("word{value}")).await, (0..600).step_by(3).collect());
        if value % 2 == 0 {
            table.fold().await.unwrap();
        }
    }
}

/// lance #7370, #8342, #7795, #7359, #6514, #3812: stale or doubled rows after index maintenance and compaction.
#[tokio::test]
async fn maintenance_leaves_no_stale_and_no_doubled_row() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..400, 1)).await.unwrap();
    index(&table).await;
    let mut values: BTreeMap<i64, i64> = (0..400).map(|id| (id, 1)).collect();
    for round in 2..8 {
        let written: Vec<i64> = (0..400).filter(|id| id % 7 == round % 7).collect();
        table.upsert(batch(written.clone(), round)).await.unwrap();
        values.extend(written.into_iter().map(|id| (id, round)));
        table.delete(&batch([round * 10], 0)).await.unwrap();
        values.remove(&(round * 10));
        match round % 3 {
            0 => INDEXES.optimize(&table).await.unwrap(),
            1 => table.compact(true).await.unwrap(),
            _ => {}
        }
        let snapshot = table.snapshot().await.unwrap();
        for kind in 0..10 {
            let expected = values.keys().copied().filter(|id| id % 10 == kind).collect();
            assert_eq!(filtered(&snapshot, &format!("kind = 'k{kind}'")).await, expected, "round {round}");
        }
        for value in 1..=round {
            let expected: BTreeSet<i64> = values.iter().filter(|(_, v)| **v == value).map(|(id, _)| *id).collect();
            assert_eq!(with_word(&snapshot, &format!("word{value}")).await, expected, "round {round}");
            let near: BTreeSet<i64> = nearest(&snapshot, value, expected.len(), None).await.into_iter().collect();
            assert_eq!(near, expected, "round {round}, vectors at {value}");
        }
    }
    INDEXES.optimize(&table).await.unwrap();
    table.collect(Some(Duration::ZERO)).await.unwrap();
    let indexes = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap();
    assert!(indexes.iter().all(|index| index.rows_unindexed == 0), "{indexes:?}");
}

/// lancedb #3377: concurrent merges inserted one key twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_upserts_of_one_key_make_one_row() {
    let directory = tempfile::tempdir().unwrap();
    table(&directory).await;
    let writers = (0..8).map(|writer| {
        let path = directory.path().to_owned();
        tokio::spawn(async move {
            let store = Store::open(path, StoreOptions::default()).await.unwrap();
            let table = store.table("t").await.unwrap();
            for round in 0..5 {
                table.upsert(batch(0..20, writer * 10 + round)).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.table("t").await.unwrap();
    for _ in 0..2 {
        assert_eq!(filtered(&table.snapshot().await.unwrap(), "true").await, (0..20).collect());
        table.fold().await.unwrap();
    }
}

/// lance #8293: rows acknowledged in a memtable were lost on replay.
#[tokio::test]
async fn acknowledged_rows_are_there_after_a_replay() {
    let directory = tempfile::tempdir().unwrap();
    let first = table(&directory).await;
    for value in 0..60 {
        first.upsert(batch((0..40).filter(|id| (id + value) % 3 > 0), value)).await.unwrap();
        if value == 30 {
            first.fold().await.unwrap();
        }
    }
    let before = first.snapshot().await.unwrap().collect(&ScanRequest::default()).await.unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let snapshot = store.table("t").await.unwrap().snapshot().await.unwrap();
    assert_eq!(snapshot.collect(&ScanRequest::default()).await.unwrap(), before);
}

/// LanceDB: full-text search did not find new rows until the index was optimised. Paimon: rows above the last
/// compaction were invisible, and a global index did not return rows that it lacked.
#[tokio::test]
async fn new_rows_are_found_before_any_maintenance() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..300, 1)).await.unwrap();
    index(&table).await;
    table.upsert(batch([1_000, 7], 9)).await.unwrap();
    table.delete(&batch([8], 0)).await.unwrap();
    for _ in 0..2 {
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(with_word(&snapshot, "word9").await, BTreeSet::from([7, 1_000]));
        assert!(!with_word(&snapshot, "word1").await.contains(&7));
        assert_eq!(with_word(&snapshot, "common").await.len(), 300);
        assert_eq!(nearest(&snapshot, 9, 2, None).await, [7, 1_000]);
        assert!(!filtered(&snapshot, "kind = 'k8'").await.contains(&8));
        // First from the change store, then from fragments that no index covers.
        table.fold().await.unwrap();
    }
}

/// lancedb #2761, pgvector, DuckDB VSS: a filter applied after the search left fewer than k rows.
#[tokio::test]
async fn a_filtered_search_gives_k_rows_when_there_are_k() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..3_000, 1)).await.unwrap();
    index(&table).await;
    table.upsert(batch(3_000..3_050, 2)).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    for (filter, matching) in [("id % 10 = 3", 305), ("id >= 2990", 60), ("id = 3049", 1), ("id < 0", 0)] {
        for k in [1, 50, 322] {
            let found = nearest(&snapshot, 5, k, Some(filter)).await;
            assert_eq!(found.len(), k.min(matching), "{filter}, k = {k}");
        }
    }
}

/// lance, after 60 small upserts: takes of random rows became a thousand times slower. This checks that they stay
/// right.
#[tokio::test]
async fn rows_are_taken_by_id_and_key_after_many_small_upserts() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..500, 0)).await.unwrap();
    for value in 1..61 {
        table.upsert(batch((value..500).step_by(61), value)).await.unwrap();
        if value % 20 == 0 {
            table.fold().await.unwrap();
        }
    }
    let snapshot = table.snapshot().await.unwrap();
    let keys = batch((0..500).step_by(5), 0);
    let row_ids: Vec<u64> = snapshot.locate(&keys).await.unwrap().into_iter().flatten().collect();
    let taken = snapshot.take(&row_ids, &["id".into(), "note".into()]).await.unwrap();
    assert_eq!(ids(&taken), (0..500).step_by(5).collect::<Vec<_>>());
    for (id, note) in ids(&taken).into_iter().zip(taken["note"].as_string::<i32>()) {
        assert_eq!(note, Some(format!("word{} common", id % 61).as_str()), "row {id}");
    }
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    let absent = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(vec![-1, 7_000]))]).unwrap();
    assert_eq!(snapshot.get(&absent, None).await.unwrap().num_rows(), 0);
}

#[tokio::test]
async fn upkeep_goes_on_when_a_column_has_no_vectors_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..20, 1)).await.unwrap();
    index(&table).await;
    let without = batch(0..20, 2);
    let nulls = arrow::array::new_null_array(without["vector"].data_type(), 20);
    let columns = without.columns().iter().take(3).cloned().chain([nulls]).collect();
    table.upsert(RecordBatch::try_new(without.schema(), columns).unwrap()).await.unwrap();
    INDEXES.optimize(&table).await.unwrap();
    let indexes = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap();
    let late = |index: &&IndexInfo| index.rows_unindexed > 0;
    assert_eq!(indexes.iter().filter(late).map(|index| index.column.as_str()).collect::<Vec<_>>(), ["vector"]);
    assert!(nearest(&table.snapshot().await.unwrap(), 1, 5, None).await.is_empty());
    table.upsert(batch(0..20, 3)).await.unwrap();
    INDEXES.optimize(&table).await.unwrap();
    assert_eq!(nearest(&table.snapshot().await.unwrap(), 3, 5, None).await.len(), 5);
}

/// Compacts a table: its files lose the deleted rows, which an index still holds.
#[tokio::test]
async fn a_row_that_a_compaction_removed_is_no_hit() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(batch(0..20, 1)).await.unwrap();
    index(&table).await;
    table.delete(&batch(0..10, 0)).await.unwrap();
    table.compact(true).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    for k in [1, 5, 20] {
        let found = nearest(&snapshot, 1, k, None).await;
        assert!(found.len() == k.min(10) && found.iter().all(|id| *id >= 10), "{found:?}");
    }
    assert_eq!(with_word(&snapshot, "common").await, (10..20).collect());
}

/// Lance compares whole batches; for a slice of a batch, it applied the nulls of other rows.
#[tokio::test]
async fn a_row_without_a_vector_is_no_hit_in_a_large_filtered_search() {
    let with_nulls = |ids: Vec<i64>, null: fn(&i64) -> bool| {
        let valid: Vec<bool> = ids.iter().map(|id| !null(id)).collect();
        let whole = batch(ids, 1);
        let (item, size, values, _) = whole["vector"].as_fixed_size_list().clone().into_parts();
        let vectors: ArrayRef = Arc::new(FixedSizeListArray::new(item, size, values, Some(valid.into())));
        let columns = whole.columns().iter().take(3).cloned().chain([vectors]).collect();
        RecordBatch::try_new(whole.schema(), columns).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory).await;
    table.upsert(with_nulls((0..20_000).collect(), |id| id % 7 == 0)).await.unwrap();
    table.fold().await.unwrap();
    table.upsert(with_nulls((0..20_000).step_by(3).collect(), |id| id % 5 == 0)).await.unwrap();
    table.fold().await.unwrap();
    let has_vector = |id: &i64| if id % 3 == 0 { id % 5 > 0 } else { id % 7 > 0 };
    let wanted: BTreeSet<i64> = (401..20_000).filter(has_vector).collect();
    let found = nearest(&table.snapshot().await.unwrap(), 1, 30_000, Some("id > 400")).await;
    assert!(found.into_iter().collect::<BTreeSet<_>>() == wanted);
}
