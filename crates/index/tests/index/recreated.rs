//! A table that is created under the name of a dropped one: nothing that was cached for the former answers for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use cenote_index::{IndexKind, IndexOptions, IndexSpec, Indexes, Metric, TextQuery, VectorQuery};
use cenote_store::{Filter, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec};

/// The content of a table: the vector of row `id` is at `id + shift`, and its text says so.
#[derive(Clone, Copy)]
struct Content {
    rows: i64,
    shift: i64,
}

impl Content {
    fn color(self, id: i64) -> i64 {
        (id + self.shift) % 5
    }

    fn batch(self) -> RecordBatch {
        let ids: Vec<i64> = (0..self.rows).collect();
        let colors = ids.iter().map(|id| self.color(*id)).collect::<Int64Array>();
        let notes = ids.iter().map(|id| Some(format!("word{} common", (id + self.shift) % 7))).collect::<StringArray>();
        let numbers = ids.iter().flat_map(|id| [(id + self.shift) as f32, 1.0]).collect::<Float32Array>();
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, false),
            ("color", Arc::new(colors), true),
            ("note", Arc::new(notes), true),
            ("vector", Arc::new(FixedSizeListArray::new(item, 2, Arc::new(numbers), None)), true),
        ])
        .unwrap()
    }

    /// Returns the ids of the `k` rows of `color` nearest to `at`.
    fn nearest(self, at: i64, k: usize, color: Option<i64>) -> Vec<i64> {
        let mut ids: Vec<i64> =
            (0..self.rows).filter(|id| color.is_none_or(|color| self.color(*id) == color)).collect();
        ids.sort_by_key(|id| (id + self.shift - at).abs());
        ids.truncate(k);
        ids
    }
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    batch["id"].as_primitive::<Int64Type>().values().to_vec()
}

/// Compares every sort of search with brute force, each twice: the second time with what the first has cached.
async fn check(indexes: &Indexes, snapshot: &Snapshot, content: Content, about: &str) {
    let has_text = indexes.text_columns(snapshot, None).await.is_ok();
    for _ in 0..2 {
        assert_eq!(snapshot.count(None).await.unwrap() as i64, content.rows, "{about}");
        let at = content.rows + content.shift;
        for color in [None, Some(3)] {
            let filter = color.map(|color| Filter::from(format!("color = {color}")));
            let query = VectorQuery { filter: filter.clone(), ..VectorQuery::new("vector", vec![at as f32, 1.0], 5) };
            let found = ids(&indexes.vector_search(snapshot, &query).await.unwrap());
            assert_eq!(found, content.nearest(at, 5, color), "{about}: nearest under {filter:?}");
            let mut request = ScanRequest::default().columns(["id"]);
            request.filter = filter;
            let found: BTreeSet<i64> = ids(&snapshot.collect(&request).await.unwrap()).into_iter().collect();
            assert_eq!(found, content.nearest(at, usize::MAX, color).into_iter().collect(), "{about}: scan");
            for word in 0..7 {
                let wanted = content.nearest(at, usize::MAX, color).into_iter();
                let wanted: BTreeSet<i64> = wanted.filter(|id| (id + content.shift) % 7 == word).collect();
                if has_text {
                    let query =
                        TextQuery { filter: request.filter.clone(), ..TextQuery::new(format!("word{word}"), 9_999) };
                    let found = ids(&indexes.text_search(snapshot, &query).await.unwrap());
                    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted, "{about}: word{word}");
                }
            }
        }
    }
}

/// Returns indexes of each sort.
fn specs() -> BTreeMap<&'static str, Vec<IndexSpec>> {
    let of = |column: &str, kind: IndexKind| IndexSpec::new(column, kind);
    let disk = || of("vector", IndexKind::parse("ivf_flat", [("partitions", "2")]).unwrap());
    let (memory, text, scalar) = (
        || of("vector", IndexKind::hnsw(Metric::L2)),
        || of("note", IndexKind::full_text()),
        || of("color", IndexKind::scalar()),
    );
    BTreeMap::from([
        ("no index", vec![]),
        ("vectors on disk", vec![disk()]),
        ("a graph in memory", vec![memory()]),
        ("texts", vec![text()]),
        ("numbers", vec![scalar()]),
        ("all", vec![disk(), memory(), text(), scalar()]),
    ])
}

async fn store(directory: &Path) -> Store {
    Store::open(directory, StoreOptions::default()).await.unwrap()
}

/// Makes a table of `content`, by the same steps each time, so that its versions have the same numbers.
async fn make(store: &Store, indexes: &Indexes, content: Content, specs: &[IndexSpec]) -> Table {
    let table = store.create_table("t", TableSpec::new(content.batch().schema(), ["id"])).await.unwrap();
    table.upsert(content.batch()).await.unwrap();
    table.fold().await.unwrap();
    for spec in specs {
        indexes.create(&table, spec).await.unwrap();
    }
    table
}

const CONTENTS: [Content; 4] = [
    Content { rows: 20, shift: 0 },
    Content { rows: 2_000, shift: 0 },
    Content { rows: 2_000, shift: 1 },
    Content { rows: 20, shift: 1 },
];

fn saved_in(directory: &tempfile::TempDir) -> Indexes {
    let directory = Some(directory.path().join("graphs"));
    Indexes::new(IndexOptions { directory, threads: 1, ..IndexOptions::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_made_under_the_name_of_a_dropped_one_is_searched_by_its_own_rows() {
    for (sort, specs) in specs() {
        let directory = tempfile::tempdir().unwrap();
        let (store, indexes) = (store(&directory.path().join("t")).await, saved_in(&directory));
        for (round, content) in CONTENTS.into_iter().enumerate() {
            let table = make(&store, &indexes, content, &specs).await;
            check(&indexes, &table.snapshot().await.unwrap(), content, &format!("{sort}, round {round}")).await;
            // Indexes that were not told of the drop are right too.
            if round % 2 == 1 {
                indexes.forget_table(&table).await.unwrap();
            }
            store.drop_table("t").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_another_process_made_anew_is_searched_by_its_own_rows() {
    for (sort, specs) in specs() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("t");
        let (here, indexes) = (store(&place).await, saved_in(&directory));
        for (round, content) in CONTENTS.into_iter().enumerate() {
            // Another process, with graphs of its own, creates the table and drops it at the end.
            let (elsewhere, others) = (store(&place).await, Indexes::default());
            make(&elsewhere, &others, content, &specs).await;
            let table = here.table("t").await.unwrap();
            check(&indexes, &table.snapshot().await.unwrap(), content, &format!("{sort}, round {round}")).await;
            indexes.optimize(&table).await.unwrap();
            check(&indexes, &table.snapshot().await.unwrap(), content, &format!("{sort}, round {round}, later")).await;
            elsewhere.drop_table("t").await.unwrap();
        }
    }
}
