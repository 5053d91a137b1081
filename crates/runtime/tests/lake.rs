//! The facade as an embedder uses it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use cenote_runtime::arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, record_batch,
};
use cenote_runtime::arrow::datatypes::{self as arrow_schema, DataType, Field, Int64Type, Schema};
use cenote_runtime::{
    ByteSize, DeviceChoice, ErrorKind, IndexKind, IndexSpec, Lake, LakeOptions, Metric, Random, Recipe, RunOptions,
    Search, Silent, TableSpec, VectorColumn, derivations,
};

async fn lake() -> (tempfile::TempDir, Lake) {
    let directory = tempfile::tempdir().unwrap();
    Lake::init(directory.path()).await.unwrap();
    let lake = Lake::open(directory.path(), LakeOptions::default()).await.unwrap();
    (directory, lake)
}

#[tokio::test]
async fn a_lake_is_made_once_and_refuses_what_it_cannot_read() {
    let (directory, _lake) = lake().await;
    assert_eq!(Lake::init(directory.path()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    std::fs::write(directory.path().join("cenote.json"), "{\"format\": 99}").unwrap();
    let open = |directory| Lake::open(directory, LakeOptions::default());
    assert_eq!(open(directory.path()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    std::fs::write(directory.path().join("cenote.json"), "junk").unwrap();
    assert_eq!(open(directory.path()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(open(nowhere.path()).await.unwrap_err().kind(), ErrorKind::NotFound);
    Lake::init(nowhere.path()).await.unwrap();
    let error = Lake::open(nowhere.path(), LakeOptions::default().cpus(0.0)).await.unwrap_err();
    assert_eq!(error.message(), "cpus must be from 0.001 to 4096, found 0");
}

#[tokio::test]
async fn an_index_wanted_over_nothing_waits_for_values_and_then_follows_writes() {
    let (_directory, lake) = lake().await;
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("note", DataType::Utf8, true)]);
    let notes = lake.create_table("notes", TableSpec::new(Arc::new(schema), ["id"])).await.unwrap();
    let recipe = "{ name: r, steps: [ { table: notes, operator: count_words, input: note } ], \
                  indexes: [ { table: notes, column: note, kind: text } ] }";
    let recipe = Recipe::from_yaml(recipe, "r.yaml").unwrap();
    lake.run(&recipe, &RunOptions::default()).await.unwrap();
    assert_eq!(notes.indexes().await.unwrap()[0].rows_indexed, 0);
    let derived = derivations(&notes.snapshot().await.unwrap());
    assert_eq!(derived["words"].to_string(), "count_words(note)");

    notes.upsert(record_batch!(("id", Int64, [1, 2]), ("note", Utf8, ["red car", "rain"])).unwrap()).await.unwrap();
    lake.run(&recipe, &RunOptions::default()).await.unwrap();
    assert_eq!(notes.indexes().await.unwrap()[0].rows_indexed, 2);
    notes
        .upsert(record_batch!(("id", Int64, [1, 3]), ("note", Utf8, ["blue car", "car park"])).unwrap())
        .await
        .unwrap();
    for optimized in [false, true] {
        let found = notes.search(&Search::new(10).text("car")).await.unwrap();
        let mut notes: Vec<&str> = found.column_by_name("note").unwrap().as_string::<i32>().iter().flatten().collect();
        notes.sort_unstable();
        assert_eq!(notes, ["blue car", "car park"], "optimized: {optimized}");
        lake.run(&recipe, &RunOptions::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_table_has_history_upkeep_and_vector_columns() {
    let (_directory, lake) = lake().await;
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let at = Field::new("at", DataType::FixedSizeList(item, 2), true);
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), at]);
    let table = lake.create_table("points", TableSpec::new(Arc::new(schema), ["id"])).await.unwrap();
    let empty = table.snapshot().await.unwrap().version();
    table.upsert(record_batch!(("id", Int64, [1, 2])).unwrap()).await.unwrap();
    table.tag("empty", empty).await.unwrap();
    assert_eq!(table.snapshot_of("empty").await.unwrap().count(None).await.unwrap(), 0);
    table.set_consumer("copy", Some(empty)).await.unwrap();
    assert_eq!(table.consumers().await.unwrap()["copy"], empty);
    assert_eq!(table.delete_where("id = 1").await.unwrap().deleted, 1);
    table.fold().await.unwrap();
    assert_eq!(table.upkeep().await.unwrap().keys, 0);

    let VectorColumn { name, dimensions, item, .. } = table.vector_column(None).await.unwrap();
    assert_eq!((name.as_str(), dimensions, item), ("at", 2, DataType::Float32));
    let missing = table.vector_column(Some("near")).await.unwrap_err();
    assert_eq!(missing.message(), "table `points`: no vector column `near`; there are at");
    assert_eq!(table.search(&Search::new(1)).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn ingest_writes_only_files_whose_bytes_changed() {
    let (directory, lake) = lake().await;
    let files = directory.path().join("files");
    std::fs::create_dir(&files).unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(files.join(name), name).unwrap();
    }
    let paths = [files.clone()];
    assert_eq!(lake.ingest("files", &paths, &Silent).await.unwrap().inserted, 3);
    let before = lake.table("files").await.unwrap().snapshot().await.unwrap().version();
    std::fs::write(files.join("a"), "a").unwrap();
    assert_eq!(lake.ingest("files", &paths, &Silent).await.unwrap().unchanged, 3);
    assert_eq!(lake.table("files").await.unwrap().snapshot().await.unwrap().version(), before);
    std::fs::write(files.join("b"), "changed").unwrap();
    let report = lake.ingest("files", &paths, &Silent).await.unwrap();
    assert_eq!((report.inserted, report.updated, report.unchanged), (0, 1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_learns_the_centres_of_an_index() {
    let directory = tempfile::tempdir().unwrap();
    Lake::init(directory.path()).await.unwrap();
    let options = LakeOptions::default().device(DeviceChoice::Software).trace_max(ByteSize::mib(1));
    let lake = Lake::open(directory.path(), options).await.unwrap();
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let mut random = Random::new(1);
    let numbers: Vec<f32> = (0..6_000 * 4).map(|_| random.unit() as f32).collect();
    let vectors = FixedSizeListArray::new(item, 4, Arc::new(Float32Array::from(numbers.clone())), None);
    let columns: [(&str, ArrayRef, bool); 2] =
        [("id", Arc::new((0..6_000).collect::<Int64Array>()), false), ("vector", Arc::new(vectors), true)];
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let table = lake.create_table("t", TableSpec::new(rows.schema(), ["id"])).await.unwrap();
    table.upsert(rows).await.unwrap();
    let index = table.create_index(IndexSpec::new("vector", IndexKind::vector(Metric::L2))).await.unwrap();
    assert_eq!((index.structure.as_str(), index.rows_indexed), ("IVF_SQ", 6_000));
    let mut trace = Vec::new();
    lake.scheduler().write_trace(&mut trace).unwrap();
    let trace = String::from_utf8(trace).unwrap();
    assert!(trace.contains("learn centres") && trace.contains("cenote-gpu-0"), "{trace}");

    for (id, vector) in numbers.chunks(4).enumerate().step_by(500) {
        let found = table.search(&Search::new(1).vector("vector", vector.to_vec())).await.unwrap();
        assert_eq!(found["id"].as_primitive::<Int64Type>().value(0), id as i64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_under_the_name_of_a_dropped_one_answers_sql_by_its_own_rows() {
    let (_directory, lake) = lake().await;
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    for rows in [20_i64, 600, 40] {
        let numbers = (0..rows).flat_map(|id| [id as f32, 0.0]).collect::<Float32Array>();
        let vectors = FixedSizeListArray::new(Arc::clone(&item), 2, Arc::new(numbers), None);
        let ids = Int64Array::from_iter_values(0..rows);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(ids) as ArrayRef, false),
            ("vector", Arc::new(vectors), true),
        ]);
        let batch = batch.unwrap();
        let table = lake.create_table("t", TableSpec::new(batch.schema(), ["id"])).await.unwrap();
        table.upsert(batch).await.unwrap();
        table.create_index(IndexSpec::new("vector", IndexKind::vector(Metric::L2))).await.unwrap();
        table.create_index(IndexSpec::new("id", IndexKind::scalar())).await.unwrap();
        let last = rows - 1;
        for (sql, wanted) in [
            (format!("SELECT id FROM t ORDER BY l2_distance(vector, [{last}.0, 0.0]) LIMIT 3"), last..last - 3),
            (format!("SELECT id FROM t WHERE id > {} ORDER BY id DESC", rows - 4), last..last - 3),
            ("SELECT count(*) AS id FROM t".to_owned(), rows..rows - 1),
        ] {
            for _ in 0..2 {
                let answer = lake.sql(&sql).await.unwrap().collect().await.unwrap();
                let ids = answer.iter().flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().to_vec());
                let wanted: Vec<i64> = (wanted.end + 1..=wanted.start).rev().collect();
                assert_eq!(ids.collect::<Vec<_>>(), wanted, "{rows} rows: {sql}");
            }
        }
        lake.drop_table("t").await.unwrap();
    }
}
