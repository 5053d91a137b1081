//! The cost of filling the caches of searches depends on what was written since, not on the size of the table.
//! `CENOTE_LONG=1` runs with a million rows, and prints times.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use cenote_base::{ByteSize, Progress, Random};
use cenote_index::{IndexKind, IndexOptions, IndexSpec, Indexes, TextQuery, VectorQuery};
use cenote_store::{Filter, Store, StoreOptions, Table, TableSpec};

const ROWS: i64 = 40_000;
const WIDTH: i32 = 4;
/// Rows of one fold.
const FOLDED: i64 = 100;

/// Makes rows `ids`, as they are after `round` updates.
fn batch(ids: impl IntoIterator<Item = i64>, round: i64) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let mut random = Random::new(round as u64);
    let colors = ids.iter().map(|id| (id + round) % 10).collect::<Int64Array>();
    let notes = ids.iter().map(|id| Some(format!("word{} round{round}", id % 50))).collect::<StringArray>();
    let numbers = (0..ids.len() as i32 * WIDTH).map(|_| random.unit() as f32).collect::<Float32Array>();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, false),
        ("color", Arc::new(colors), true),
        ("note", Arc::new(notes), true),
        ("vector", Arc::new(FixedSizeListArray::new(item, WIDTH, Arc::new(numbers), None)), true),
    ])
    .unwrap()
}

async fn table(directory: &tempfile::TempDir, rows: i64) -> Table {
    // All rows are in one file at first.
    let options = StoreOptions { bulk_bytes: ByteSize(256 << 10), ..StoreOptions::default() };
    let store = Store::open(directory.path(), options).await.unwrap();
    let table = store.create_table("t", TableSpec::new(batch([0], 0).schema(), ["id"])).await.unwrap();
    table.upsert(batch(0..rows, 0)).await.unwrap();
    table
}

/// Folds `rows` rows: half of them replace rows from all over the table, half are new.
async fn fold(table: &Table, rows: i64, round: i64) {
    let replaced = (0..FOLDED / 2).map(|row| (row * (2 * rows / FOLDED) + round) % rows);
    let new = rows + round * FOLDED / 2..rows + (round + 1) * FOLDED / 2;
    table.upsert(batch(replaced.chain(new), round)).await.unwrap();
    table.fold().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_searches_keep_costs_what_a_fold_changed() {
    let directory = tempfile::tempdir().unwrap();
    let rows = if std::env::var_os("CENOTE_LONG").is_some() { 1_000_000 } else { ROWS };
    let (table, indexes) = (table(&directory, rows).await, Indexes::default());
    for (column, kind) in
        [("vector", IndexKind::parse("ivf_flat", [("partitions", "16")]).unwrap()), ("note", IndexKind::full_text())]
    {
        indexes.create(&table, &IndexSpec::new(column, kind)).await.unwrap();
    }
    let search = async |round: i64| {
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(snapshot.changed_rows(), 0);
        let began = Instant::now();
        for _ in 0..2 {
            let filter = Some(Filter::from("color < 3"));
            let query = VectorQuery { filter: filter.clone(), ..VectorQuery::new("vector", vec![0.5; 4], 10) };
            assert_eq!(indexes.vector_hits(&snapshot, &query).await.unwrap().len(), 10);
            let query = TextQuery { filter: None, ..TextQuery::new(format!("round{round}"), 1_000) };
            let found = indexes.text_search(&snapshot, &query).await.unwrap();
            if round > 0 {
                let ids: BTreeSet<i64> = found["id"].as_primitive::<Int64Type>().values().iter().copied().collect();
                assert_eq!(ids.len() as i64, FOLDED);
            }
            let query = TextQuery { filter, ..TextQuery::new("word1", 10) };
            assert_eq!(indexes.text_hits(&snapshot, &query).await.unwrap().len(), 10);
        }
        indexes.list(&snapshot).await.unwrap();
        eprintln!("round {round}: {:?}, {} rows examined", began.elapsed(), indexes.rows_examined());
        indexes.rows_examined() as i64
    };
    let first = search(0).await;
    assert!(first >= rows, "{first} rows were looked at first");
    let mut before = first;
    for round in 1..6 {
        fold(&table, rows, round).await;
        let after = search(round).await;
        // The live rows, the filtered rows, the vectors and the texts of the new rows are each read some times, and so
        // are the rows of earlier folds whose files are merged.
        let looked_at = after - before;
        assert!((FOLDED..40 * FOLDED).contains(&looked_at), "round {round}: {looked_at} rows for {FOLDED}");
        before = after;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_takes_in_what_a_fold_changed_and_looks_at_no_other_row() {
    const ROWS: i64 = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let (table, indexes) = (table(&directory, ROWS).await, Indexes::default());
    let kind = IndexKind::parse("hnsw", [("m", "8"), ("ef_construction", "32")]).unwrap();
    indexes.create(&table, &IndexSpec::new("vector", kind)).await.unwrap();
    let mut before = indexes.rows_examined() as i64;
    for round in 1..4 {
        fold(&table, ROWS, round).await;
        indexes.optimize(&table).await.unwrap();
        let index = indexes.list(&table.snapshot().await.unwrap()).await.unwrap().remove(0);
        assert_eq!((index.rows_indexed as i64, index.rows_unindexed), (ROWS + round * FOLDED / 2, 0), "{index:?}");
        let after = indexes.rows_examined() as i64;
        assert!(after - before < 20 * FOLDED, "round {round}: {} rows for {FOLDED}", after - before);
        before = after;
    }
}

/// A meter of the bytes written to the directory of graphs.
struct Weigher {
    directory: PathBuf,
    seen: Mutex<BTreeSet<(u64, i64, i64)>>,
    bytes: Mutex<u64>,
}

impl Weigher {
    fn look(&self) {
        for file in std::fs::read_dir(&self.directory).into_iter().flatten() {
            let Ok(found) = file.unwrap().metadata() else { continue };
            if self.seen.lock().unwrap().insert((found.ino(), found.mtime(), found.mtime_nsec())) {
                *self.bytes.lock().unwrap() += found.len();
            }
        }
    }
}

impl Progress for Weigher {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}

    fn advance(&self, _stage: &str, _units: u64) {
        self.look();
    }

    fn end(&self, _stage: &str) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_build_saves_is_a_few_times_its_graph() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(&directory, ROWS).await;
    let graphs = directory.path().join("graphs");
    let weigher = Arc::new(Weigher { directory: graphs.clone(), seen: Mutex::default(), bytes: Mutex::default() });
    let options =
        IndexOptions { directory: Some(graphs.clone()), save_every: Duration::ZERO, ..IndexOptions::default() };
    let kind = IndexKind::parse("hnsw", [("m", "4"), ("ef_construction", "16")]).unwrap();
    let watcher = Arc::clone(&weigher) as Arc<dyn Progress>;
    Indexes::new(options).create_watched(&table, &IndexSpec::new("vector", kind), &watcher).await.unwrap();
    weigher.look();
    let files = std::fs::read_dir(&graphs).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let (written, graph): (u64, u64) = (*weigher.bytes.lock().unwrap(), files.sum());
    // Saving the whole graph after each of twenty batches would write more than ten times its size.
    assert!(
        written > 2 * graph,
        "{written} bytes were seen of a graph of {graph}: a build that is cut off has lost it"
    );
    assert!(written < 7 * graph, "{written} bytes for a graph of {graph}");
}
