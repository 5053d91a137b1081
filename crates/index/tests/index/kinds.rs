//! Every kind of index over every type of column that it covers, compared with brute force; and unusual columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ErrorKind, Random};
use cenote_index::{IndexKind, IndexSpec, Metric, SearchSettings, TextQuery, VectorQuery};
use cenote_store::{ScanRequest, Store, StoreOptions, Table, TableSpec};

use crate::INDEXES;

/// Makes rows with vectors of `item` (null in every hundredth row), some words, labels, and a number.
fn batch(ids: std::ops::Range<i64>, vectors: &[Vec<f32>], item: &DataType) -> RecordBatch {
    let width = vectors[0].len();
    let numbers = Float32Array::from_iter_values(vectors.iter().flatten().copied());
    let numbers = cast(&numbers, item).unwrap();
    let valid = ids.clone().map(|id| id % 100 != 99).collect::<Vec<bool>>().into();
    let field = Arc::new(Field::new_list_field(item.clone(), true));
    let vectors = FixedSizeListArray::new(field, width as i32, numbers, Some(valid));
    let mut labels = ListBuilder::new(StringBuilder::new());
    for id in ids.clone() {
        labels.values().append_value(["red", "blue", "green"][id as usize % 3]);
        labels.values().append_value(["day", "night"][id as usize % 2]);
        labels.append(true);
    }
    let words: StringArray = ids
        .clone()
        .map(|id| Some(format!("row{} running of the {} cars", id % 10, ["red", "blue"][id as usize % 2])))
        .collect();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone())), false),
        ("number", Arc::new(ids.map(|id| (id % 7 > 0).then_some(id % 40)).collect::<Int64Array>()), true),
        ("words", Arc::new(words), true),
        ("labels", Arc::new(labels.finish()), true),
        ("vector", Arc::new(vectors), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn vectors(random: &mut Random, rows: usize, width: usize, item: &DataType) -> Vec<Vec<f32>> {
    let mut number = || match item {
        DataType::UInt8 => random.below(256) as f32,
        DataType::Int8 => random.below(256) as f32 - 128.0,
        // Numbers that Float16 represents exactly.
        _ => (random.below(513) as f32 - 256.0) / 256.0,
    };
    (0..rows).map(|_| (0..width).map(|_| number()).collect()).collect()
}

async fn table(directory: &tempfile::TempDir, first: RecordBatch) -> Table {
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let schema: Schema = first.schema().as_ref().clone();
    let table = store.create_table("t", TableSpec::new(Arc::new(schema), ["id"])).await.unwrap();
    table.upsert(first).await.unwrap();
    table
}

fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    match metric {
        Metric::L2 => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt(),
        Metric::Dot => -dot(a, b),
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()),
        Metric::Hamming => a.iter().zip(b).map(|(a, b)| (*a as u8 ^ *b as u8).count_ones() as f32).sum(),
    }
}

/// Returns the recall of the nearest ten of some vectors, and checks the number of hits and their distances.
async fn recall(table: &Table, metric: Metric, all: &[Vec<f32>]) -> f64 {
    let snapshot = table.snapshot().await.unwrap();
    let (mut found, mut wanted) = (0, 0);
    for query in all.iter().step_by((all.len() / 12).max(1)) {
        let rows = || all.iter().enumerate().filter(|(id, _)| id % 100 != 99);
        let mut near: Vec<f32> = rows().map(|(_, own)| distance(metric, own, query)).collect();
        near.retain(|distance| distance.is_finite());
        near.sort_by(f32::total_cmp);
        near.truncate(10);
        let search = VectorQuery { metric: Some(metric), ..VectorQuery::new("vector", query.clone(), 10) };
        let got = INDEXES.vector_search(&snapshot, &search).await.unwrap();
        let ids: BTreeSet<i64> = got["id"].as_primitive::<Int64Type>().values().iter().copied().collect();
        assert_eq!(ids.len(), near.len());
        let last = near.last().copied().unwrap_or_default();
        let slack = 1e-3 * last.abs().max(1.0);
        found += ids.iter().filter(|id| distance(metric, &all[**id as usize], query) <= last + slack).count();
        wanted += near.len();
    }
    found as f64 / wanted as f64
}

/// Tells whether a row, by its id, is to be found.
type Wanted = Box<dyn Fn(i64) -> bool>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vector_kind_finds_what_is_near() {
    use Metric::{Cosine, Dot, Hamming, L2};
    let (f32s, f16s, i8s, u8s) = (&DataType::Float32, &DataType::Float16, &DataType::Int8, &DataType::UInt8);
    for (kind, item, metric, floor) in [
        ("ivf_flat", f32s, L2, 0.99),
        ("ivf_pq", f32s, L2, 0.8),
        ("ivf_sq", f32s, Cosine, 0.95),
        ("ivf_rq", f32s, L2, 0.8),
        ("ivf_hnsw_sq", f32s, Dot, 0.9),
        ("ivf_hnsw_pq", f32s, L2, 0.7),
        ("hnsw", f32s, Dot, 0.9),
        ("ivf_flat", f16s, L2, 0.99),
        ("ivf_hnsw_sq", f16s, Cosine, 0.9),
        ("hnsw", f16s, Cosine, 0.95),
        ("hnsw", i8s, L2, 0.95),
        ("ivf_flat", u8s, Hamming, 0.99),
        ("hnsw", u8s, Hamming, 0.95),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random::new(1);
        let mut all = vectors(&mut random, 600, 16, item);
        let table = table(&directory, batch(0..600, &all, item)).await;
        assert!(recall(&table, metric, &all).await > 0.999, "{kind} {item} {metric}, no index");
        let options = [("metric", metric.to_string())];
        let options = options.iter().map(|(name, value)| (*name, value.as_str()));
        let spec = IndexSpec::new("vector", IndexKind::parse(kind, options).unwrap());
        let index = INDEXES.create(&table, &spec).await.unwrap();
        assert_eq!((index.rows_indexed, index.kind), (600, spec.kind), "{kind} {item} {metric}");
        let more = vectors(&mut random, 50, 16, item);
        table.upsert(batch(600..650, &more, item)).await.unwrap();
        all.extend(more);
        let late = recall(&table, metric, &all).await;
        INDEXES.optimize(&table).await.unwrap();
        let found = recall(&table, metric, &all).await;
        assert!(late >= floor && found >= floor, "{kind} {item} {metric}: {late} and {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_built_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let bits = vectors(&mut Random::new(2), 300, 12, &DataType::UInt8);
    let table = table(&directory, batch(0..300, &bits, &DataType::UInt8)).await;
    for (kind, options, says) in [
        ("hnsw", vec![("metric", "l2")], "Float32, Float16 or Int8"),
        ("ivf_pq", vec![("metric", "hamming")], "ivf_flat or hnsw"),
        ("ivf_flat", vec![("metric", "hamming"), ("partitions", "0")], "at least one"),
    ] {
        let kind = IndexKind::parse(kind, options).unwrap();
        let error = INDEXES.create(&table, &IndexSpec::new("vector", kind)).await.unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
    let snapshot = table.snapshot().await.unwrap();
    for (vector, metric, says) in [
        (vec![1.5; 12], None, "packed bits are bytes"),
        (vec![1.0; 12], Some(Metric::L2), "hamming, not l2"),
        (vec![1.0; 11], None, "11 numbers"),
    ] {
        let error =
            INDEXES.vector_hits(&snapshot, &VectorQuery { metric, ..VectorQuery::new("vector", vector, 3) }).await;
        let error = error.unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains(says), "{error}");
    }
}

/// Queries with numbers between those of Float16, too large for it, and too small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_float16_cannot_hold_is_compared_as_it_is() {
    let all: Vec<Vec<f32>> = (0..99).map(|row| vec![1000.0 + row as f32, 1.0]).collect();
    for (kind, metric, query) in [
        ("ivf_flat", Metric::L2, [1000.3, 1.0]),
        ("ivf_sq", Metric::L2, [1000.3, 1.0]),
        ("ivf_flat", Metric::L2, [70_000.0, 1.0]),
        ("ivf_flat", Metric::Cosine, [70_000.0, 1.0]),
        ("ivf_flat", Metric::Cosine, [1e-8, 2e-8]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let table = table(&directory, batch(0..99, &all, &DataType::Float16)).await;
        let kind = IndexKind::parse(kind, [("metric", metric.to_string().as_str())]).unwrap();
        INDEXES.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
        let snapshot = table.snapshot().await.unwrap();
        let search = VectorQuery { metric: Some(metric), ..VectorQuery::new("vector", query.to_vec(), 3) };
        let got: Vec<f32> =
            INDEXES.vector_hits(&snapshot, &search).await.unwrap().iter().map(|hit| hit.distance.unwrap()).collect();
        let mut near: Vec<f32> = all.iter().map(|own| distance(metric, own, &query)).collect();
        near.sort_by(f32::total_cmp);
        let alike = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * b.abs().max(1e-3);
        assert!(
            got.len() == 3 && got.iter().zip(&near).all(alike),
            "{metric} {query:?}: {got:?}, not {:?}",
            &near[..3]
        );
    }
}

/// Searches columns whose rows are all equal, fewer than the partitions, of one number, and of 4,096 numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_columns_are_searched_right() {
    let mut random = Random::new(3);
    let float = &DataType::Float32;
    for (what, all) in [
        ("all rows equal", vec![vec![0.5; 8]; 400]),
        ("fewer rows than partitions", vectors(&mut random, 5, 8, float)),
        ("one number", vectors(&mut random, 400, 1, float)),
        ("many numbers", vectors(&mut random, 40, 4096, float)),
    ] {
        for (kind, options) in [("hnsw", vec![]), ("ivf_flat", vec![("partitions", "64")]), ("ivf_hnsw_sq", vec![])] {
            let directory = tempfile::tempdir().unwrap();
            let table = table(&directory, batch(0..all.len() as i64, &all, float)).await;
            let spec = IndexSpec::new("vector", IndexKind::parse(kind, options).unwrap());
            INDEXES.create(&table, &spec).await.unwrap();
            let found = recall(&table, Metric::L2, &all).await;
            assert!(found > 0.9, "{what}, {kind}: {found}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scalar_kind_filters_as_a_scan_does() {
    for (kind, column) in [
        ("btree", "number"),
        ("bitmap", "number"),
        ("zonemap", "number"),
        ("bloom_filter", "number"),
        ("label_list", "labels"),
        ("ngram", "words"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random::new(4);
        let all = vectors(&mut random, 500, 2, &DataType::Float32);
        let table = table(&directory, batch(0..500, &all, &DataType::Float32)).await;
        INDEXES.create(&table, &IndexSpec::new(column, IndexKind::parse(kind, []).unwrap())).await.unwrap();
        let mut known: BTreeSet<i64> = (0..500).collect();
        for step in 0..4_i64 {
            // Rows are replaced, deleted and added, and some of that folded, optimised and compacted.
            let from = step * 70;
            let ids = from..from + 60;
            table
                .upsert(batch(ids.clone(), &vectors(&mut random, 60, 2, &DataType::Float32), &DataType::Float32))
                .await
                .unwrap();
            let gone = from + 300..from + 320;
            table
                .delete(&batch(gone.clone(), &vectors(&mut random, 20, 2, &DataType::Float32), &DataType::Float32))
                .await
                .unwrap();
            known.extend(ids);
            known.retain(|id| !gone.contains(id));
            match step {
                0 => table.fold().await.unwrap(),
                1 => INDEXES.optimize(&table).await.unwrap(),
                2 => table.compact(true).await.unwrap(),
                _ => {}
            }
            let number = |id: i64| (id % 7 > 0).then_some(id % 40);
            let cases: Vec<(&str, Wanted)> = vec![
                ("number = 3", Box::new(move |id| number(id) == Some(3))),
                ("number < 5", Box::new(move |id| number(id).is_some_and(|number| number < 5))),
                ("number IS NULL", Box::new(move |id| number(id).is_none())),
                ("number IN (1, 2, 39)", Box::new(move |id| number(id).is_some_and(|n| [1, 2, 39].contains(&n)))),
                ("array_has(labels, 'red')", Box::new(|id| id % 3 == 0)),
                ("contains(words, 'blue')", Box::new(|id| id % 2 == 1)),
            ];
            let snapshot = table.snapshot().await.unwrap();
            for (filter, fits) in cases {
                let request = ScanRequest::default().columns(["id"]).filter(filter);
                let found = snapshot.collect(&request).await.unwrap();
                let found: BTreeSet<i64> = found["id"].as_primitive::<Int64Type>().values().iter().copied().collect();
                let wanted: BTreeSet<i64> = known.iter().copied().filter(|id| fits(*id)).collect();
                assert_eq!(found, wanted, "{kind} on {column}, step {step}: {filter}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_index_costs_time_and_no_row_until_it_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let all = vectors(&mut Random::new(5), 600, 8, &DataType::Float32);
    let table = table(&directory, batch(0..600, &all, &DataType::Float32)).await;
    let vector = IndexSpec::new("vector", IndexKind::vector(Metric::L2));
    let text = IndexSpec::new("words", IndexKind::full_text());
    INDEXES.create(&table, &vector).await.unwrap();
    INDEXES.create(&table, &text).await.unwrap();
    let mut files = vec![directory.path().join("t.lance/_indices")];
    while let Some(path) = files.pop() {
        match path.is_dir() {
            true => files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
            false => std::fs::write(path, b"damaged").unwrap(),
        }
    }
    // Another process, with nothing in memory.
    let table = Store::open(directory.path(), StoreOptions::default()).await.unwrap().table("t").await.unwrap();
    assert!(recall(&table, Metric::L2, &all).await > 0.999);
    let words = async || {
        let found = INDEXES.text_hits(&table.snapshot().await.unwrap(), &TextQuery::new("row3", 100)).await.unwrap();
        found.into_iter().map(|hit| hit.score.unwrap()).collect::<Vec<_>>()
    };
    let damaged = words().await;
    assert_eq!(damaged.len(), 60);
    INDEXES.create(&table, &vector).await.unwrap();
    INDEXES.create(&table, &text).await.unwrap();
    assert!(recall(&table, Metric::L2, &all).await > 0.999);
    let mended = words().await;
    assert!(damaged.iter().zip(&mended).all(|(a, b)| (a - b).abs() < 1e-4), "{damaged:?} {mended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_split_by_language_and_by_ngrams() {
    let directory = tempfile::tempdir().unwrap();
    let all = vectors(&mut Random::new(6), 30, 2, &DataType::Float32);
    let table = table(&directory, batch(0..20, &all[..20], &DataType::Float32)).await;
    let found = async |query: &str| {
        let snapshot = table.snapshot().await.unwrap();
        INDEXES.text_hits(&snapshot, &TextQuery::new(query, 100)).await.unwrap().len()
    };
    for (options, finds) in [
        (vec![("stem", "true")], [("run", 30), ("the", 0), ("unni", 0)]),
        (vec![("stem", "false"), ("remove_stop_words", "false")], [("run", 0), ("the", 30), ("running", 30)]),
        (vec![("ngram_min", "3"), ("ngram_max", "4")], [("unni", 30), ("blu", 15), ("xyz", 0)]),
    ] {
        let kind = IndexKind::parse("text", options.clone()).unwrap();
        INDEXES.create(&table, &IndexSpec::new("words", kind)).await.unwrap();
        // The index lacks the last ten rows.
        table.upsert(batch(20..30, &all[20..], &DataType::Float32)).await.unwrap();
        for (query, rows) in finds {
            assert_eq!(found(query).await, rows, "{options:?}: {query}");
        }
        table.delete_where("id >= 20".into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tuning_reaches_the_recall_asked_for_and_keeps_what_it_found() {
    for kind in ["hnsw", "ivf_sq"] {
        let directory = tempfile::tempdir().unwrap();
        let mut all = vectors(&mut Random::new(7), 4000, 24, &DataType::Float32);
        let table = table(&directory, batch(0..4000, &all, &DataType::Float32)).await;
        let kind = IndexKind::parse(kind, [("partitions", "16")]).unwrap();
        INDEXES.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
        let tuning = INDEXES.tune(&table, "vector", None, 0.95, 1).await.unwrap();
        assert!(
            tuning.chosen.recall >= 0.95 && tuning.points.is_sorted_by(|a, b| a.recall <= b.recall + 0.1),
            "{tuning:?}"
        );
        let index = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().remove(0);
        assert!(
            index.search != SearchSettings::default() && index.measured.is_some_and(|m| m.recall >= 0.95),
            "{index:?}"
        );
        assert!(recall(&table, Metric::L2, &all).await > 0.9);
        // Many rows have changed: the index is measured again, and its definition says so.
        let more = vectors(&mut Random::new(8), 2000, 24, &DataType::Float32);
        table.upsert(batch(4000..6000, &more, &DataType::Float32)).await.unwrap();
        all.extend(more);
        INDEXES.optimize(&table).await.unwrap();
        INDEXES.retune(&table).await.unwrap();
        let index = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().remove(0);
        assert_eq!(index.measured.unwrap().rows, 6000, "{index:?}");
        assert!(recall(&table, Metric::L2, &all).await > 0.9);
        let error = INDEXES.tune(&table, "vector", None, 1.5, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_learned_from_rows_that_are_gone_is_built_anew_when_its_recall_falls() {
    let directory = tempfile::tempdir().unwrap();
    let far = |vectors: Vec<Vec<f32>>| -> Vec<Vec<f32>> {
        vectors.into_iter().map(|vector| vector.into_iter().map(|number| 1e4 + number).collect()).collect()
    };
    let old = vectors(&mut Random::new(9), 900, 8, &DataType::Float32);
    let table = table(&directory, batch(0..900, &old, &DataType::Float32)).await;
    let kind = IndexKind::parse("ivf_pq", [("partitions", "1"), ("sub_vectors", "4")]).unwrap();
    INDEXES.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
    let tuning = INDEXES.tune(&table, "vector", None, 0.95, 1).await.unwrap();
    assert!(tuning.chosen.recall >= 0.95, "{tuning:?}");
    // Codes trained on the old vectors do not distinguish the new ones.
    let new = far(vectors(&mut Random::new(10), 880, 8, &DataType::Float32));
    table.upsert(batch(900..1780, &new, &DataType::Float32)).await.unwrap();
    INDEXES.optimize(&table).await.unwrap();
    table.delete_where("id < 900".into()).await.unwrap();
    table.fold().await.unwrap();
    table.upsert(batch(1780..1781, &new[..1], &DataType::Float32)).await.unwrap();
    let done = INDEXES.retune(&table).await.unwrap();
    assert!(done.is_empty(), "a table of about as many rows is not measured again: {done:?}");
    let more = far(vectors(&mut Random::new(11), 300, 8, &DataType::Float32));
    table.upsert(batch(1781..2081, &more, &DataType::Float32)).await.unwrap();
    INDEXES.optimize(&table).await.unwrap();
    let done = INDEXES.retune(&table).await.unwrap();
    assert!(done.len() == 1 && done[0].contains("was rebuilt"), "{done:?}");
    let index = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().remove(0);
    assert!(index.measured.unwrap().recall >= 0.93 && index.rows_unindexed == 0, "{index:?}");
}
