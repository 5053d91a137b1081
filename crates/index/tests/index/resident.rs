//! The index in memory: its searches are never stale while the table changes, and it is not built twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, FixedSizeListBuilder, Float32Builder, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use cenote_base::{ByteSize, ErrorKind, Progress, Random};
use cenote_index::{IndexKind, IndexOptions, IndexSpec, Indexes, Metric, VectorQuery, VectorStrategy};
use cenote_store::{Snapshot, Store, StoreOptions, Table, TableSpec};

use crate::cutting::Watcher;

const DIMENSIONS: usize = 8;

type Model = BTreeMap<i64, Option<Vec<f32>>>;

fn batch(rows: &Model) -> RecordBatch {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("color", DataType::Int64, true),
        Field::new("vector", DataType::FixedSizeList(item, DIMENSIONS as i32), true),
    ]);
    let mut vectors = FixedSizeListBuilder::new(Float32Builder::new(), DIMENSIONS as i32);
    for vector in rows.values() {
        vectors.values().append_slice(vector.as_deref().unwrap_or(&[0.0; DIMENSIONS]));
        vectors.append(vector.is_some());
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.keys().copied())),
        Arc::new(Int64Array::from_iter_values(rows.keys().map(|id| id % 100))),
        Arc::new(vectors.finish()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn rows(random: &mut Random, ids: impl Iterator<Item = i64>) -> Model {
    let mut vector = || (0..DIMENSIONS).map(|_| random.unit() as f32 * 2.0 - 1.0).collect();
    ids.map(|id| (id, (id % 50 != 7).then(&mut vector))).collect()
}

async fn table(directory: &tempfile::TempDir) -> Table {
    table_with(directory, StoreOptions::default()).await
}

/// Makes a table whose base is patched in place by large changes.
async fn patched_table(directory: &tempfile::TempDir) -> Table {
    table_with(directory, StoreOptions { bulk_bytes: ByteSize(16 << 10), ..StoreOptions::default() }).await
}

async fn table_with(directory: &tempfile::TempDir, options: StoreOptions) -> Table {
    let store = Store::open(directory.path(), options).await.unwrap();
    store.create_table("t", TableSpec::new(batch(&Model::new()).schema(), ["id"])).await.unwrap()
}

fn saved_in(directory: &tempfile::TempDir) -> Indexes {
    let directory = Some(directory.path().join("graphs"));
    Indexes::new(IndexOptions { directory, threads: 2, ..IndexOptions::default() })
}

fn spec() -> IndexSpec {
    IndexSpec::new("vector", IndexKind::hnsw(Metric::L2))
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Compares twenty searches with brute force. Returns the recall, and the strategy of the last search.
async fn compare(indexes: &Indexes, snapshot: &Snapshot, model: &Model, color: Option<i64>) -> (f64, VectorStrategy) {
    let (mut found, mut wanted, mut strategy) = (0, 0, VectorStrategy::Exact);
    let mut random = Random::new(3);
    for k in [1, 5, 10, 25].repeat(5) {
        let vector: Vec<f32> = (0..DIMENSIONS).map(|_| random.unit() as f32 * 2.0 - 1.0).collect();
        let filter = color.map(|color| format!("color = {color}").into());
        let columns = Some(vec!["id".to_owned()]);
        let query = VectorQuery { filter, columns, ..VectorQuery::new("vector", vector.clone(), k) };
        let fits = |id: &i64| color.is_none_or(|color| id % 100 == color);
        let of = |own: &Option<Vec<f32>>| own.as_ref().map(|own| distance(own, &vector));
        let mut near: Vec<f32> = model.iter().filter(|(id, _)| fits(id)).filter_map(|(_, own)| of(own)).collect();
        near.sort_by(f32::total_cmp);
        near.truncate(k);
        let got = indexes.vector_search(snapshot, &query).await.unwrap();
        let ids: Vec<i64> = got["id"].as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), near.len(), "k = {k}: {ids:?}");
        let hits = indexes.find_vectors(snapshot, &query).await.unwrap();
        strategy = hits.1;
        for (id, hit) in ids.iter().zip(hits.0) {
            let own = of(&model[id]).unwrap();
            assert!(fits(id) && (own - hit.distance.unwrap()).abs() < 1e-4, "row {id} was found by an old vector");
            found += usize::from(near.last().is_some_and(|last| own < last + 1e-4));
        }
        wanted += near.len();
    }
    (f64::from(found as u32) / f64::from(wanted as u32), strategy)
}

fn is_resident(strategy: &VectorStrategy) -> bool {
    matches!(strategy, VectorStrategy::Index { name, .. } if name == "vector_l2_hnsw")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_are_right_while_rows_come_change_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (patched_table(&directory).await, saved_in(&directory), Random::new(1));
    let mut model = rows(&mut random, 0..3000);
    table.upsert(batch(&model)).await.unwrap();
    let index = indexes.create(&table, &spec()).await.unwrap();
    assert_eq!((index.rows_indexed, index.rows_unindexed, index.structure.as_str()), (3000, 0, "HNSW"));
    let held = (table.snapshot().await.unwrap(), model.clone());
    for step in 0..12 {
        let from = step * 211;
        match step % 4 {
            // Replaced rows get new row ids.
            0 => {
                let new = rows(&mut random, (from..from + 150).chain(5000 + from..5020 + from));
                table.upsert(batch(&new)).await.unwrap();
                model.extend(new);
            }
            1 => {
                table.delete(&batch(&rows(&mut random, from..from + 120))).await.unwrap();
                model.retain(|id, _| !(from..from + 120).contains(id));
            }
            // Enough rows for the column to be patched in place, under the same row ids.
            2 => {
                let ids: Vec<i64> = model.keys().copied().filter(|id| id % 2 == 0).collect();
                let new = rows(&mut random, ids.into_iter());
                let whole = batch(&new);
                table.fold().await.unwrap();
                table.update(whole.project(&[0, 2]).unwrap()).await.unwrap();
                assert_eq!(table.snapshot().await.unwrap().changed_rows(), 0, "the rows must keep their ids");
                model.extend(new);
            }
            _ => table.compact(step % 8 == 3).await.unwrap(),
        }
        let snapshot = table.snapshot().await.unwrap();
        let (recall, strategy) = compare(&indexes, &snapshot, &model, None).await;
        assert!(recall > 0.95, "step {step}: {recall} by {strategy}");
        table.fold().await.unwrap();
        let (recall, _) = compare(&indexes, &table.snapshot().await.unwrap(), &model, Some(3)).await;
        assert!(recall > 0.95, "step {step}: {recall}");
        indexes.optimize(&table).await.unwrap();
        let (recall, strategy) = compare(&indexes, &table.snapshot().await.unwrap(), &model, None).await;
        assert!(recall > 0.95 && is_resident(&strategy), "step {step}: {recall} by {strategy}");
        let (recall, _) = compare(&indexes, &held.0, &held.1, None).await;
        assert!(recall > 0.95, "step {step}, an older snapshot: {recall}");
    }
}

/// Searches until the graph in memory has every row. Returns the bytes that it takes.
async fn catch_up(indexes: &Indexes, table: &Table, model: &Model) -> u64 {
    for _ in 0..1000 {
        let snapshot = table.snapshot().await.unwrap();
        let (recall, strategy) = compare(indexes, &snapshot, model, None).await;
        assert!(recall > 0.95 && is_resident(&strategy), "{recall} by {strategy}");
        let index = indexes.list(&snapshot).await.unwrap().remove(0);
        if index.rows_unindexed < 300 {
            assert!(index.built_to <= snapshot.version(), "{index:?}");
            return index.memory_bytes.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the graph does not catch up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_takes_in_changes_and_keeps_them_when_they_are_folded() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (table(&directory).await, Indexes::default(), Random::new(6));
    let mut model = rows(&mut random, 0..3000);
    table.upsert(batch(&model)).await.unwrap();
    indexes.create(&table, &spec()).await.unwrap();
    let mut held = Vec::new();
    for round in 0..4 {
        let new = rows(&mut random, (round * 300..round * 300 + 350).chain(5000 + round * 400..5400 + round * 400));
        table.upsert(batch(&new)).await.unwrap();
        model.extend(new);
        held.push((table.snapshot().await.unwrap(), model.clone()));
        catch_up(&indexes, &table, &model).await;
        held.push((table.snapshot().await.unwrap(), model.clone()));
        // Some of these rows were only ever in the change store.
        table.delete(&batch(&rows(&mut random, 5000 + round * 400..5100 + round * 400))).await.unwrap();
        model.retain(|id, _| !(5000 + round * 400..5100 + round * 400).contains(id));
        let (recall, _) = compare(&indexes, &table.snapshot().await.unwrap(), &model, None).await;
        assert!(recall > 0.95, "round {round}: {recall}");
        for (snapshot, model) in &held {
            let (recall, _) = compare(&indexes, snapshot, model, Some(3)).await;
            assert!(recall > 0.95, "round {round}, an older snapshot: {recall}");
        }
    }
    let before = catch_up(&indexes, &table, &model).await;
    table.fold().await.unwrap();
    assert_eq!(table.snapshot().await.unwrap().changed_rows(), 0);
    let after = catch_up(&indexes, &table, &model).await;
    // Some 2,500 rows have moved; each new node would have taken hundreds of bytes.
    assert!(after < before + 20_000, "{before} bytes, then {after}");
    for (snapshot, model) in &held {
        let (recall, _) = compare(&indexes, snapshot, model, None).await;
        assert!(recall > 0.95, "an older snapshot: {recall}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_patched_alone_is_read_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (patched_table(&directory).await, Indexes::default(), Random::new(9));
    let mut model = Model::new();
    for file in 0..4 {
        let new = rows(&mut random, file * 800..(file + 1) * 800);
        table.upsert(batch(&new)).await.unwrap();
        model.extend(new);
    }
    indexes.create(&table, &spec()).await.unwrap();
    let new = rows(&mut random, 800..1600);
    table.update(batch(&new).project(&[0, 2]).unwrap()).await.unwrap();
    model.extend(new);
    let snapshot = table.snapshot().await.unwrap();
    assert_eq!((snapshot.changed_rows(), table.upkeep().await.unwrap().files), (0, 4), "the rows must keep their ids");
    for _ in 0..2 {
        let (recall, strategy) = compare(&indexes, &snapshot, &model, None).await;
        assert!(recall > 0.95, "{recall} by {strategy}");
        indexes.optimize(&table).await.unwrap();
    }
    let (_, strategy) = compare(&indexes, &snapshot, &model, None).await;
    assert!(is_resident(&strategy), "{strategy}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_on_disk_gets_segments_of_what_is_new_and_none_of_what_it_knew() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (patched_table(&directory).await, Indexes::default(), Random::new(7));
    let mut model = Model::new();
    for file in 0..16 {
        let new = rows(&mut random, file * 500..(file + 1) * 500);
        table.upsert(batch(&new)).await.unwrap();
        model.extend(new);
    }
    // With one partition every vector is compared, so that recall must be 1.
    let kind = IndexKind::parse("ivf_flat", [("partitions", "1")]).unwrap();
    indexes.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
    let mut segments = Vec::new();
    for step in 0..6 {
        let more = if step == 5 { 2500 } else { 50 };
        let new = rows(&mut random, (step * 40..step * 40 + 50).chain(9000 + step * 100..9000 + step * 100 + more));
        table.upsert(batch(&new)).await.unwrap();
        model.extend(new);
        if step == 3 {
            // The column is patched in place: the index has stale vectors of these rows.
            let new = rows(&mut random, 7500..8000);
            table.fold().await.unwrap();
            table.update(batch(&new).project(&[0, 2]).unwrap()).await.unwrap();
            model.extend(new);
            assert_eq!(table.snapshot().await.unwrap().changed_rows(), 0, "the rows must keep their ids");
        }
        table.fold().await.unwrap();
        indexes.optimize(&table).await.unwrap();
        let snapshot = table.snapshot().await.unwrap();
        let index = indexes.list(&snapshot).await.unwrap().remove(0);
        assert_eq!(index.rows_unindexed, 0, "step {step}: {index:?}");
        segments.push(index.segments);
        let (recall, strategy) = compare(&indexes, &snapshot, &model, None).await;
        assert!(
            recall == 1.0 && matches!(strategy, VectorStrategy::Index { .. }),
            "step {step}: {recall} by {strategy}"
        );
    }
    // A new segment, some that replace it, one with the rows of the patched file, another, and all in one.
    assert_eq!(segments, [2, 2, 2, 2, 3, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_row_is_no_hit_where_many_rows_satisfy_the_filter() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (table(&directory).await, Indexes::default(), Random::new(8));
    let old = rows(&mut random, 0..3000);
    table.upsert(batch(&old)).await.unwrap();
    let kind = IndexKind::parse("ivf_flat", [("partitions", "1")]).unwrap();
    indexes.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
    let new = rows(&mut random, 0..60);
    table.upsert(batch(&new)).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    assert_eq!(snapshot.changed_rows(), 60, "the index must not know of them");
    for vector in old.range(0..60).filter_map(|(_, vector)| vector.clone()) {
        let query = VectorQuery { filter: Some("id >= 0".into()), ..VectorQuery::new("vector", vector, 1) };
        let (hits, strategy) = indexes.find_vectors(&snapshot, &query).await.unwrap();
        assert!(matches!(strategy, VectorStrategy::Index { matching: Some(_), .. }), "{strategy}");
        assert!(hits[0].distance.unwrap() > 0.0, "the row's former vector was found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_on_disk_answers_by_itself_where_it_has_as_many_dead_rows_as_there_are_nulls() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (table(&directory).await, Indexes::default(), Random::new(12));
    let mut model = rows(&mut random, 0..1000);
    table.upsert(batch(&model)).await.unwrap();
    let kind = IndexKind::parse("ivf_flat", [("partitions", "1")]).unwrap();
    indexes.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
    // The base has as many live rows as the index has vectors, but not the same ones.
    let nulls = model.values().filter(|vector| vector.is_none()).count();
    let dead: Vec<(i64, Vec<f32>)> =
        model.iter().filter_map(|(id, vector)| Some((*id, vector.clone()?))).take(nulls).collect();
    let keys: Vec<String> = dead.iter().map(|(id, _)| id.to_string()).collect();
    table.delete_where(format!("id in ({})", keys.join(", ")).into()).await.unwrap();
    table.fold().await.unwrap();
    model.retain(|id, _| dead.iter().all(|(gone, _)| gone != id));
    let snapshot = table.snapshot().await.unwrap();
    for (_, vector) in dead {
        let near = model.values().flatten().map(|own| distance(own, &vector)).fold(f32::INFINITY, f32::min);
        let (hits, strategy) = indexes.find_vectors(&snapshot, &VectorQuery::new("vector", vector, 1)).await.unwrap();
        assert!((hits[0].distance.unwrap() - near).abs() < 1e-4);
        assert!(matches!(strategy, VectorStrategy::Index { .. }), "{strategy}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_reads_the_graph_and_takes_in_what_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let (table, mut random) = (table(&directory).await, Random::new(2));
    let mut model = rows(&mut random, 0..2000);
    table.upsert(batch(&model)).await.unwrap();
    saved_in(&directory).create(&table, &spec()).await.unwrap();
    let graphs = || {
        let files = std::fs::read_dir(directory.path().join("graphs")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    assert_eq!(graphs().len(), 2);
    let new = rows(&mut random, 1990..2010);
    table.upsert(batch(&new)).await.unwrap();
    model.extend(new);
    let other = saved_in(&directory);
    other.optimize(&table).await.unwrap();
    let (recall, strategy) = compare(&other, &table.snapshot().await.unwrap(), &model, None).await;
    assert!(recall > 0.95 && is_resident(&strategy), "{recall} by {strategy}");

    // A damaged graph is rebuilt.
    for graph in graphs().iter().filter(|file| file.extension().is_some_and(|end| end == "graph")) {
        let mut bytes = std::fs::read(graph).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(graph, bytes).unwrap();
    }
    let third = saved_in(&directory);
    third.optimize(&table).await.unwrap();
    let (recall, strategy) = compare(&third, &table.snapshot().await.unwrap(), &model, None).await;
    assert!(recall > 0.95 && is_resident(&strategy), "{recall} by {strategy}");
    third.remove(&table, "vector_l2_hnsw").await.unwrap();
    assert!(graphs().is_empty(), "{:?}", graphs());
    let (recall, strategy) = compare(&third, &table.snapshot().await.unwrap(), &model, None).await;
    assert_eq!((recall, strategy), (1.0, VectorStrategy::Exact));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_cut_off_goes_on_from_what_was_saved() {
    const ROWS: u64 = 12_000;
    let directory = tempfile::tempdir().unwrap();
    let (table, mut random) = (table(&directory).await, Random::new(5));
    let mut model = rows(&mut random, 0..ROWS as i64);
    table.upsert(batch(&model)).await.unwrap();
    let build = async |indexes: &Indexes, watcher: &Arc<Watcher>| {
        let (indexes, table, watcher) = (indexes.clone(), table.clone(), Arc::clone(watcher));
        let progress = Arc::clone(&watcher) as Arc<dyn Progress>;
        tokio::spawn(async move { indexes.create_watched(&table, &spec(), &progress).await.unwrap() }).await.unwrap()
    };
    let always = || {
        let directory = Some(directory.path().join("graphs"));
        Indexes::new(IndexOptions { directory, threads: 1, save_every: Duration::ZERO, ..IndexOptions::default() })
    };
    let watcher = Watcher::until("insert", 6_000);
    let (table_of, progress) = (table.clone(), Arc::clone(&watcher) as Arc<dyn Progress>);
    let indexes = always();
    watcher.cut_off(async move { indexes.create_watched(&table_of, &spec(), &progress).await }).await;
    assert_eq!(always().list(&table.snapshot().await.unwrap()).await.unwrap(), []);
    // Meanwhile some of the rows in the graph change, and some are deleted.
    let new = rows(&mut random, 100..130);
    table.upsert(batch(&new)).await.unwrap();
    model.extend(new);
    table.delete_where("id < 50".into()).await.unwrap();
    model.retain(|id, _| *id >= 50);

    let (indexes, watcher) = (always(), Watcher::until("", u64::MAX));
    build(&indexes, &watcher).await;
    let known = watcher.done("restore");
    assert!((4_000..ROWS).contains(&known), "{known} rows were saved");
    let (recall, strategy) = compare(&indexes, &table.snapshot().await.unwrap(), &model, None).await;
    assert!(recall > 0.95 && is_resident(&strategy), "{recall} by {strategy}");
    // Creating an index that exists rebuilds it.
    let watcher = Watcher::until("", u64::MAX);
    build(&indexes, &watcher).await;
    assert_eq!(watcher.done("restore"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_removes_what_interrupted_saves_left_and_nothing_in_progress() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (table(&directory).await, saved_in(&directory), Random::new(10));
    table.upsert(batch(&rows(&mut random, 0..300))).await.unwrap();
    indexes.create(&table, &spec()).await.unwrap();
    let graphs = directory.path().join("graphs");
    let files = || -> BTreeSet<String> {
        let entries = std::fs::read_dir(&graphs).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let saved = files();
    let manifest = saved.iter().find(|name| name.ends_with(".json")).unwrap();
    let ours = |end: &str| manifest.replace("json", end);
    for name in [ours("1.7.graph"), ours("7.writing"), "another.1.7.graph".to_owned()] {
        let file = std::fs::File::create(graphs.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    std::fs::File::create(graphs.join(ours("2.7.graph"))).unwrap();
    indexes.rebuild(&table).await.unwrap();
    let new: BTreeSet<String> = files().difference(&saved).cloned().collect();
    assert!(new.contains("another.1.7.graph") && new.contains(&ours("2.7.graph")), "{new:?}");
    assert!(files().contains(manifest) && files().len() == 4, "{:?}", files());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_the_figures_and_searches_stay_exact() {
    let directory = tempfile::tempdir().unwrap();
    let (table, mut random) = (table(&directory).await, Random::new(4));
    let mut model = rows(&mut random, 0..500);
    table.upsert(batch(&model)).await.unwrap();
    let options = IndexOptions { memory_bytes_max: ByteSize(400_000), threads: 1, ..IndexOptions::default() };
    let indexes = Indexes::new(options);
    indexes.create(&table, &spec()).await.unwrap();
    let new = rows(&mut random, 500..4000);
    table.upsert(batch(&new)).await.unwrap();
    model.extend(new);
    let error = indexes.optimize(&table).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("4000 rows") && error.message().contains("KiB"), "{error}");
    let snapshot = table.snapshot().await.unwrap();
    let index = indexes.list(&snapshot).await.unwrap().remove(0);
    assert!(index.memory_bytes.is_none() && index.failure.is_some(), "{index:?}");
    assert_eq!(compare(&indexes, &snapshot, &model, None).await, (1.0, VectorStrategy::Exact));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_nothing_keeps_its_definition_through_purge() {
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes, mut random) = (table(&directory).await, Indexes::default(), Random::new(5));
    let kind = IndexKind::parse("ivf_pq", [("metric", "l2"), ("sub_vectors", "4"), ("partitions", "3")]).unwrap();
    let disk = indexes.create(&table, &IndexSpec::new("vector", kind.clone())).await.unwrap();
    indexes.create(&table, &spec()).await.unwrap();
    assert_eq!((disk.structure.as_str(), &disk.kind), ("none", &kind));
    let mut model = rows(&mut random, 0..600);
    table.upsert(batch(&model)).await.unwrap();
    indexes.optimize(&table).await.unwrap();
    let structures = async || {
        let listed = indexes.list(&table.snapshot().await.unwrap()).await.unwrap();
        assert!(listed.iter().any(|index| index.kind == kind), "{listed:?}");
        listed.into_iter().map(|index| index.structure).collect::<Vec<_>>()
    };
    assert_eq!(structures().await, ["HNSW", "IVF_PQ"]);
    // No row has a vector now.
    model.values_mut().for_each(|vector| *vector = None);
    table.upsert(batch(&model)).await.unwrap();
    table.compact(true).await.unwrap();
    indexes.rebuild(&table).await.unwrap();
    assert_eq!(structures().await, ["HNSW", "none"]);
    let query = VectorQuery::new("vector", vec![0.1; DIMENSIONS], 5);
    assert!(indexes.vector_hits(&table.snapshot().await.unwrap(), &query).await.unwrap().is_empty());
    let new = rows(&mut random, 0..600);
    table.upsert(batch(&new)).await.unwrap();
    indexes.optimize(&table).await.unwrap();
    assert_eq!(structures().await, ["HNSW", "IVF_PQ"]);
    let (recall, _) = compare(&indexes, &table.snapshot().await.unwrap(), &new, None).await;
    assert!(recall > 0.95, "{recall}");
}
