//! Indexes that are made, fail and go while rows are written and searched.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use cenote_base::ErrorKind;
use cenote_index::{IndexKind, IndexSpec, Indexes, Metric, TextQuery, VectorQuery};
use cenote_store::{ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, lance_error};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};

static INDEXES: LazyLock<Indexes> = LazyLock::new(Indexes::default);

const DIMENSIONS: i32 = 4;

/// Row `id` says `common`, a word of its own and one of seven; its vector leads with `id`.
fn batch(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let note = |id: &i64| Some(format!("common row{id} seventh{}", id % 7));
    let notes: ArrayRef = Arc::new(ids.iter().map(note).collect::<StringArray>());
    let numbers = ids.iter().flat_map(|id| [*id as f32, 1.0, 2.0, 3.0]);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, DIMENSIONS, Arc::new(numbers.collect::<Float32Array>()), None);
    let columns = [
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, false),
        ("note", notes, true),
        ("vector", Arc::new(vectors), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

async fn table(directory: &Path) -> Table {
    let store = Store::open(directory, StoreOptions::default()).await.unwrap();
    store.create_table("t", TableSpec::new(batch([0]).schema(), ["id"])).await.unwrap()
}

fn text_spec() -> IndexSpec {
    IndexSpec::new("note", IndexKind::full_text())
}

fn vector_spec() -> IndexSpec {
    IndexSpec::new("vector", IndexKind::vector(Metric::L2))
}

/// Each row found, once.
fn ids(found: &RecordBatch) -> BTreeSet<i64> {
    let ids = found["id"].as_primitive::<Int64Type>().values();
    let unique: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "a row was found twice");
    unique
}

async fn with_words(snapshot: &Snapshot, words: &str) -> cenote_base::Result<BTreeSet<i64>> {
    let query = TextQuery { columns: Some(vec!["id".to_owned()]), ..TextQuery::new(words, 50_000) };
    INDEXES.text_search(snapshot, &query).await.map(|found| ids(&found))
}

async fn nearest(snapshot: &Snapshot, to: i64, k: usize) -> BTreeSet<i64> {
    let query = VectorQuery::new("vector", vec![to as f32, 1.0, 2.0, 3.0], k);
    ids(&INDEXES.vector_search(snapshot, &query).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_whose_index_is_dropped_ends_right_or_says_that_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(directory.path()).await;
    table.upsert(batch(0..700)).await.unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let search = |which: i64| {
        let (table, is_done) = (table.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            let mut found = 0;
            let wanted: BTreeSet<i64> = (0..700).filter(|id| id % 7 == which).collect();
            loop {
                let is_last = is_done.load(Ordering::Relaxed);
                let snapshot = table.snapshot().await.unwrap();
                match with_words(&snapshot, &format!("+common +seventh{which}")).await {
                    Ok(rows) => {
                        assert_eq!(rows, wanted);
                        found += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:#}"),
                }
                // Without an index a search by vectors is exact.
                assert_eq!(nearest(&snapshot, 100 * which, 1).await, BTreeSet::from([100 * which]));
                if is_last {
                    return found;
                }
            }
        })
    };
    let searches: Vec<_> = (0..3).map(search).collect();
    for _ in 0..4 {
        INDEXES.create(&table, &text_spec()).await.unwrap();
        INDEXES.create(&table, &vector_spec()).await.unwrap();
        let held = table.snapshot().await.unwrap();
        assert_eq!(with_words(&held, "row5 OR row6").await.unwrap(), BTreeSet::from([5, 6]));
        INDEXES.remove(&table, "note_text").await.unwrap();
        INDEXES.remove(&table, "vector_l2").await.unwrap();
        table.collect(Some(Duration::ZERO)).await.unwrap();
        // Who has begun goes on with what was there.
        assert_eq!(with_words(&held, "row5 OR row6").await.unwrap(), BTreeSet::from([5, 6]));
        assert_eq!(nearest(&held, 300, 1).await, BTreeSet::from([300]));
    }
    INDEXES.create(&table, &text_spec()).await.unwrap();
    is_done.store(true, Ordering::Relaxed);
    for search in searches {
        assert!(search.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_built_while_rows_arrive_finds_every_acknowledged_row_once() {
    const CALL: i64 = 20;
    let directory = tempfile::tempdir().unwrap();
    let table = table(directory.path()).await;
    table.upsert(batch(0..2_000)).await.unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (table, is_done) = (table.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            // A thousand rows a second: half of them new, half of them there.
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            let mut next = 2_000;
            while !is_done.load(Ordering::Relaxed) {
                tick.tick().await;
                let again = (next * 7) % next.max(CALL);
                let again = again.min(next - CALL / 2);
                let rows: BTreeSet<i64> = (next..next + CALL / 2).chain(again..again + CALL / 2).collect();
                table.upsert(batch(rows)).await.unwrap();
                next += CALL / 2;
            }
            next
        })
    };
    INDEXES.create(&table, &text_spec()).await.unwrap();
    INDEXES.create(&table, &vector_spec()).await.unwrap();
    for _ in 0..2 {
        let snapshot = table.snapshot().await.unwrap();
        let rows = snapshot.count(None).await.unwrap();
        assert_eq!(with_words(&snapshot, "common").await.unwrap(), (0..rows as i64).collect());
        INDEXES.optimize(&table).await.unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    let count = writer.await.unwrap();
    for _ in 0..2 {
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(with_words(&snapshot, "common").await.unwrap(), (0..count).collect());
        assert_eq!(nearest(&snapshot, count, count as usize + 1).await, (0..count).collect());
        let last = with_words(&snapshot, &format!("row{}", count - 1)).await.unwrap();
        assert_eq!(last, BTreeSet::from([count - 1]));
        INDEXES.optimize(&table).await.unwrap();
    }
}

/// Where the test of a full disk finds its table when it runs again under a limit.
const FULL_DISK: &str = "CENOTE_TEST_FULL_DISK";

/// A second process may write no file above a limit that the index does not keep to.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_the_disk_has_no_room_for_leaves_the_old_index_and_the_next_one_works() {
    if let Some(directory) = std::env::var_os(FULL_DISK) {
        return build_without_room(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let table = table(directory.path()).await;
    table.upsert(batch(0..20_000)).await.unwrap();
    INDEXES.create(&table, &text_spec()).await.unwrap();
    table.upsert(batch([20_000])).await.unwrap();
    table.fold().await.unwrap();
    drop(table);
    let name = "a_build_that_the_disk_has_no_room_for_leaves_the_old_index_and_the_next_one_works";
    let again = format!("trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact {name} --nocapture");
    let test = std::env::current_exe().unwrap();
    let ran = Command::new("sh").args(["-c", &again]).arg(test).env(FULL_DISK, directory.path()).output().unwrap();
    assert!(ran.status.success(), "{}\n{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("1 passed"));

    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.table("t").await.unwrap();
    INDEXES.rebuild(&table).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let index = INDEXES.list(&snapshot).await.unwrap().remove(0);
    assert_eq!((index.rows_indexed, index.rows_unindexed), (20_001, 0));
    assert_eq!(with_words(&snapshot, "row20000 row7").await.unwrap(), BTreeSet::from([7, 20_000]));
}

async fn build_without_room(directory: &Path) {
    let store = Store::open(directory, StoreOptions::default()).await.unwrap();
    let table = store.table("t").await.unwrap();
    let before = INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap();
    for build in 0..3 {
        let error = match build {
            0 => INDEXES.create(&table, &text_spec()).await.map(drop),
            1 => INDEXES.rebuild(&table).await,
            _ => INDEXES.optimize(&table).await,
        };
        let error = error.unwrap_err();
        assert!(format!("{error:#}").contains("File too large"), "{error:#}");
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(INDEXES.list(&snapshot).await.unwrap(), before, "the old index serves on");
        // Also the row that it has not seen.
        assert_eq!(with_words(&snapshot, "row20000 row7").await.unwrap(), BTreeSet::from([7, 20_000]));
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/tests/fixtures")
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

/// Keys a, b, d and e, with values 4, 2, 2 and 4: see the store's own test of them.
#[tokio::test]
async fn tables_of_earlier_formats_are_indexed_and_searched() {
    for fixture in std::fs::read_dir(fixtures()).unwrap() {
        let directory = tempfile::tempdir().unwrap();
        copy(&fixture.unwrap().path(), directory.path());
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        let table = store.table("t").await.unwrap();
        assert_eq!(INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap(), []);
        let letters = IndexKind::parse("text", [("remove_stop_words", "false"), ("stem", "false")]).unwrap();
        INDEXES.create(&table, &IndexSpec::new("id", letters)).await.unwrap();
        INDEXES.create(&table, &IndexSpec::new("value", IndexKind::scalar())).await.unwrap();
        for _ in 0..2 {
            let snapshot = table.snapshot().await.unwrap();
            let query = TextQuery { filter: Some("value = 4".into()), ..TextQuery::new("a b c e", 10) };
            let found = INDEXES.text_search(&snapshot, &query).await.unwrap();
            let found: BTreeSet<&str> = found["id"].as_string::<i32>().iter().flatten().collect();
            assert_eq!(found, BTreeSet::from(["a", "e"]));
            INDEXES.optimize(&table).await.unwrap();
        }
    }
}

/// Indexes were once known by what was built alone.
#[tokio::test]
async fn indexes_without_definitions_are_listed_searched_kept_current_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(directory.path()).await;
    table.upsert(batch(0..100)).await.unwrap();
    let make = async |dataset: &mut lance::Dataset| {
        let text = InvertedIndexParams::default();
        let text = dataset.create_index(&["note"], IndexType::Inverted, Some("words".to_owned()), &text, true).await;
        text.map_err(lance_error)?;
        let key = ScalarIndexParams::for_builtin(BuiltinIndexType::BTree);
        let key = dataset.create_index(&["id"], IndexType::BTree, Some("keys".to_owned()), &key, true).await;
        key.map(drop).map_err(lance_error)
    };
    table.maintain(make).await.unwrap();
    table.upsert(batch(100..120)).await.unwrap();
    for late in [20, 0] {
        let snapshot = table.snapshot().await.unwrap();
        let indexes = INDEXES.list(&snapshot).await.unwrap();
        let names: Vec<(&str, usize)> = indexes.iter().map(|i| (i.name.as_str(), i.rows_unindexed)).collect();
        assert_eq!(names, [("keys", late), ("words", late)]);
        let wanted: BTreeSet<i64> = (0..120).filter(|id| id % 7 == 3).collect();
        assert_eq!(with_words(&snapshot, "common AND seventh3").await.unwrap(), wanted);
        let request = ScanRequest::default().columns(["id"]).filter("id > 90");
        assert_eq!(ids(&snapshot.collect(&request).await.unwrap()), (91..120).collect());
        INDEXES.optimize(&table).await.unwrap();
    }
    INDEXES.remove(&table, "words").await.unwrap();
    let error = with_words(&table.snapshot().await.unwrap(), "common").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(INDEXES.list(&table.snapshot().await.unwrap()).await.unwrap().len(), 1);
}
