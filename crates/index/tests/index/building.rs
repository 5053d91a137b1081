//! Indexes that are built, fail to build and are dropped while rows are written and searched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use cenote_base::{ByteSize, Error, ErrorKind, Progress, Result};
use cenote_index::{IndexInfo, IndexKind, IndexOptions, IndexSpec, Indexes, Metric, TextQuery, Trainer, VectorQuery};
use cenote_store::{Faults, ScanRequest, Snapshot, Store, StoreOptions, Table, TableSpec, lance_error};
use futures::FutureExt;
use futures::future::BoxFuture;
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};

use crate::INDEXES;
use crate::cutting::Watcher;

const DIMENSIONS: i32 = 4;

/// Makes rows `ids`. The text of a row has `common`, a word of its own and one of seven; its vector begins with `id`.
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
    table_with(directory, StoreOptions::default()).await
}

async fn table_with(directory: &Path, options: StoreOptions) -> Table {
    let store = Store::open(directory, options).await.unwrap();
    store.create_table("t", TableSpec::new(batch([0]).schema(), ["id"])).await.unwrap()
}

fn text_spec() -> IndexSpec {
    IndexSpec::new("note", IndexKind::full_text())
}

fn vector_spec() -> IndexSpec {
    IndexSpec::new("vector", IndexKind::vector(Metric::L2))
}

/// Returns the ids of the rows found, and checks that each was found once.
fn ids(found: &RecordBatch) -> BTreeSet<i64> {
    let ids = found["id"].as_primitive::<Int64Type>().values();
    let unique: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "a row was found twice");
    unique
}

async fn with_words(snapshot: &Snapshot, words: &str) -> Result<BTreeSet<i64>> {
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
                // A vector search without an index is exact.
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
        // A snapshot still uses the index that it was taken with.
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
            // A thousand rows per second, half of them new, half of them updates.
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

/// The environment variable that tells the second process of the full-disk test where its table is.
const FULL_DISK: &str = "CENOTE_TEST_FULL_DISK";

/// Runs a second process under a limit of file sizes that the index exceeds.
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
    table.upsert(batch(20_000..26_000)).await.unwrap();
    table.fold().await.unwrap();
    drop(table);
    let name = "a_build_that_the_disk_has_no_room_for_leaves_the_old_index_and_the_next_one_works";
    let again = format!("trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact building::{name} --nocapture");
    let test = std::env::current_exe().unwrap();
    let ran = Command::new("sh").args(["-c", &again]).arg(test).env(FULL_DISK, directory.path()).output().unwrap();
    assert!(ran.status.success(), "{}\n{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("1 passed"));

    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let table = store.table("t").await.unwrap();
    INDEXES.rebuild(&table).await.unwrap();
    let snapshot = table.snapshot().await.unwrap();
    let index = INDEXES.list(&snapshot).await.unwrap().remove(0);
    assert_eq!((index.rows_indexed, index.rows_unindexed), (26_000, 0));
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
        // A row that the index lacks is found too.
        assert_eq!(with_words(&snapshot, "row20000 row7").await.unwrap(), BTreeSet::from([7, 20_000]));
    }
}

/// Rows of a segment, at least.
const SEGMENT_ROWS: usize = 300;
/// Rows of a fragment.
const FILE_ROWS: i64 = 250;

fn in_segments() -> Indexes {
    Indexes::new(IndexOptions { segment_rows: SEGMENT_ROWS, ..IndexOptions::default() })
}

async fn only_index(indexes: &Indexes, table: &Table) -> IndexInfo {
    let mut all = indexes.list(&table.snapshot().await.unwrap()).await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

async fn create(indexes: &Indexes, table: &Table, spec: &IndexSpec, progress: &Arc<Watcher>) -> IndexInfo {
    let progress = Arc::clone(progress) as Arc<dyn Progress>;
    indexes.create_watched(table, spec, &progress).await.unwrap()
}

/// Resumes the build of `spec`, by creating it again or by upkeep. Returns the number of rows built in the first case.
async fn resume(table: &Table, spec: &IndexSpec, is_asked_for: bool) -> (IndexInfo, usize) {
    let (indexes, watcher) = (in_segments(), Watcher::until("", u64::MAX));
    match is_asked_for {
        true => drop(create(&indexes, table, spec, &watcher).await),
        false => indexes.optimize(table).await.unwrap(),
    }
    let again = watcher.done("segments") as usize;
    assert_eq!(again > 0, is_asked_for);
    (only_index(&indexes, table).await, again)
}

/// Interrupts the build of `spec` when segments with `rows` rows are built.
async fn cut_off(table: &Table, spec: &IndexSpec, rows: u64) {
    let watcher = Watcher::until("segments", rows);
    let (table, spec, progress) = (table.clone(), spec.clone(), Arc::clone(&watcher));
    watcher.cut_off(async move { create(&in_segments(), &table, &spec, &progress).await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_build_is_right_and_resumes_from_its_last_segment() {
    for (kind, cut_at) in [("ivf_flat", 0), ("ivf_flat", 500), ("ivf_pq", 500), ("ivf_hnsw_sq", 1_000)] {
        let directory = tempfile::tempdir().unwrap();
        let table = table(directory.path()).await;
        for first in (0..2_000).step_by(FILE_ROWS as usize) {
            table.upsert(batch(first..first + FILE_ROWS)).await.unwrap();
            table.fold().await.unwrap();
        }
        let spec = IndexSpec::new("vector", IndexKind::parse(kind, [("sub_vectors", "4")]).unwrap());
        cut_off(&table, &spec, cut_at).await;
        let cut = only_index(&in_segments(), &table).await;
        assert!(cut.rows_indexed as u64 >= cut_at && cut.rows_unindexed >= SEGMENT_ROWS, "{kind}: {cut:?}");
        // The unfinished index serves searches while rows are deleted and written.
        let snapshot = table.snapshot().await.unwrap();
        // Distances of 8-bit vectors are approximate.
        let slack = if kind == "ivf_flat" { 2 } else { 10 };
        let is_near =
            |found: &BTreeSet<i64>, to: i64| found.len() == 5 && found.iter().all(|id| (id - to).abs() <= slack);
        let found = nearest(&snapshot, 1_000, 5).await;
        assert!(is_near(&found, 1_000), "{kind}: {found:?}");
        table.delete_where("id < 100 or id >= 1990".into()).await.unwrap();
        table.upsert(batch(1_995..2_010)).await.unwrap();

        let (done, again) = resume(&table, &spec, cut_at == 500).await;
        assert_eq!((done.rows_indexed, done.rows_unindexed), (1_905, 0), "{kind}");
        assert!(done.segments > 2 && done.segments <= 8, "{kind}: {done:?}");
        assert!(again <= 1_905 - cut.rows_indexed + 100, "{kind}: built again");
        let snapshot = table.snapshot().await.unwrap();
        for to in [105, 700, 1_300, 1_900, 2_005] {
            let found = nearest(&snapshot, to, 5).await;
            assert!(is_near(&found, to), "{kind}, {to}: {found:?}");
        }
        // The index is complete: upkeep adds what is new, and creating it again rebuilds it in one segment.
        table.upsert(batch(2_010..2_050)).await.unwrap();
        INDEXES.optimize(&table).await.unwrap();
        assert!(only_index(&INDEXES, &table).await.segments > 2, "{kind}");
        assert_eq!(INDEXES.create(&table, &spec).await.unwrap().segments, 1, "{kind}");
    }
}

/// Finds the ids from `first` to before `last` by an index of `kind`. Ids have four digits.
async fn between(snapshot: &Snapshot, kind: &str, first: i64, last: i64) -> BTreeSet<i64> {
    let words: Vec<String> = (first..last).map(|id| format!("row{id}")).collect();
    let filter = match kind {
        "text" => return with_words(snapshot, &words.join(" ")).await.unwrap(),
        "ngram" => words.iter().map(|word| format!("note LIKE '%{word} %'")).collect::<Vec<_>>().join(" OR "),
        "bloom_filter" => (first..last).map(|id| format!("id = {id}")).collect::<Vec<_>>().join(" OR "),
        _ => format!("id >= {first} AND id < {last}"),
    };
    ids(&snapshot.collect(&ScanRequest::default().columns(["id"]).filter(filter)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_build_over_texts_or_numbers_is_right_and_resumes_from_its_last_segment() {
    for (kind, column, cut_at) in [
        ("text", "note", 0),
        ("text", "note", 500),
        ("btree", "id", 500),
        ("bitmap", "id", 1_000),
        ("zonemap", "id", 500),
        ("bloom_filter", "id", 500),
        ("ngram", "note", 500),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let table = table(directory.path()).await;
        for first in (1_000..3_000).step_by(FILE_ROWS as usize) {
            table.upsert(batch(first..first + FILE_ROWS)).await.unwrap();
            table.fold().await.unwrap();
        }
        let spec = IndexSpec::new(column, IndexKind::parse(kind, []).unwrap());
        cut_off(&table, &spec, cut_at).await;
        let cut = only_index(&in_segments(), &table).await;
        assert!(cut.rows_indexed as u64 >= cut_at && cut.rows_unindexed >= SEGMENT_ROWS, "{kind}: {cut:?}");
        // The unfinished index serves searches while rows are deleted and written.
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(between(&snapshot, kind, 1_200, 1_800).await, (1_200..1_800).collect(), "{kind}");
        table.delete_where("id < 1100 or id >= 2990".into()).await.unwrap();
        table.upsert(batch(2_995..3_010)).await.unwrap();

        let (done, again) = resume(&table, &spec, cut_at == 500).await;
        assert_eq!((done.rows_indexed, done.rows_unindexed), (1_905, 0), "{kind}");
        assert!(done.segments > 2 && done.segments <= 8, "{kind}: {done:?}");
        assert!(again <= 1_905 - cut.rows_indexed + 100, "{kind}: built again");
        // The index is complete, then gets what is new, and is then rebuilt in one segment.
        table.upsert(batch(3_010..3_050)).await.unwrap();
        for round in 0..3 {
            let snapshot = table.snapshot().await.unwrap();
            for (first, last) in [(1_000, 1_110), (1_700, 1_710), (2_400, 2_600), (2_980, 3_060)] {
                let wanted = (first.max(1_100)..last.min(3_050)).filter(|id| !(2_990..2_995).contains(id)).collect();
                assert_eq!(between(&snapshot, kind, first, last).await, wanted, "{kind}, round {round}");
            }
            match round {
                0 => INDEXES.optimize(&table).await.unwrap(),
                _ => assert_eq!(INDEXES.create(&table, &spec).await.unwrap().segments, 1, "{kind}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_numbers_of_a_segment_that_change_in_place_are_found_as_they_are() {
    // While segments are missing, and when the index is complete.
    for (kind, is_whole) in [("text", false), ("btree", false), ("text", true), ("btree", true)] {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions { bulk_bytes: ByteSize(1 << 10), ..StoreOptions::default() };
        let table = table_with(directory.path(), options).await;
        for first in (0..2_000).step_by(FILE_ROWS as usize) {
            table.upsert(batch(first..first + FILE_ROWS)).await.unwrap();
        }
        let spec = IndexSpec::new("note", IndexKind::parse(kind, []).unwrap());
        match is_whole {
            true => assert!(create(&in_segments(), &table, &spec, &Watcher::until("", u64::MAX)).await.segments > 2),
            false => cut_off(&table, &spec, 500).await,
        }
        // The rows of the first file get texts that no other row has.
        let moved = batch(0..FILE_ROWS);
        let notes: StringArray = (0..FILE_ROWS).map(|id| Some(format!("moved{}", id % 7))).collect();
        let fields = Arc::new(moved.schema().project(&[0, 1]).unwrap());
        let moved = RecordBatch::try_new(fields, vec![Arc::clone(moved.column(0)), Arc::new(notes)]).unwrap();
        table.update(moved).await.unwrap();
        let patched = table.snapshot().await.unwrap();
        assert_eq!((patched.changed_rows(), patched.base().fragments().len()), (0, 8), "the rows must keep their ids");
        let (done, _) = resume(&table, &spec, !is_whole).await;
        assert_eq!((done.rows_indexed, done.rows_unindexed), (2_000, 0), "{kind}");
        let saying = async |snapshot: &Snapshot, word: &str, note: &str| match kind {
            "text" => with_words(snapshot, word).await.unwrap(),
            _ => {
                let request = ScanRequest::default().columns(["id"]).filter(format!("note = '{note}'"));
                ids(&snapshot.collect(&request).await.unwrap())
            }
        };
        for round in 0..2 {
            let snapshot = table.snapshot().await.unwrap();
            let moved = (0..FILE_ROWS).filter(|id| id % 7 == 3).collect();
            assert_eq!(saying(&snapshot, "moved3", "moved3").await, moved, "{kind}, round {round}");
            let (word, note) = ("row100", "common row100 seventh2");
            assert_eq!(saying(&snapshot, word, note).await, BTreeSet::new(), "{kind}, round {round}");
            let (word, note) = ("row300", "common row300 seventh6");
            assert_eq!(saying(&snapshot, word, note).await, BTreeSet::from([300]), "{kind}, round {round}");
            // Enough rows that all segments become one.
            table.upsert(batch(3_000..4_900)).await.unwrap();
            table.delete_where("id >= 3000".into()).await.unwrap();
            INDEXES.optimize(&table).await.unwrap();
        }
    }
}

/// Checks that each upkeep builds a segment of what is new, alone or with the newest segments: there are few segments,
/// and most rows stay where they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_of_texts_leaves_large_segments_alone() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(directory.path()).await;
    table.upsert(batch(0..4_000)).await.unwrap();
    let built = INDEXES.create(&table, &text_spec()).await.unwrap();
    let segments = async || {
        let base = Arc::clone(table.snapshot().await.unwrap().base());
        base.load_indices_by_name(&built.name).await.unwrap()
    };
    let first = segments().await.remove(0).uuid;
    for round in 0..12 {
        // Some rows are replaced, which makes them stale in the first segment.
        let new = 4_000 + round * 20;
        table.upsert(batch((new..new + 20).chain(round * 3..round * 3 + 3))).await.unwrap();
        table.fold().await.unwrap();
        INDEXES.optimize(&table).await.unwrap();
        let kept = segments().await;
        assert!(kept[0].uuid == first && kept.len() <= 5, "round {round}: {kept:?}");
        let index = only_index(&INDEXES, &table).await;
        assert_eq!((index.rows_indexed as i64, index.rows_unindexed), (new + 20, 0));
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(with_words(&snapshot, "common").await.unwrap(), (0..new + 20).collect());
        assert_eq!(with_words(&snapshot, "row1 row4001").await.unwrap(), BTreeSet::from([1, 4_001]));
    }
    // Twice the rows are too many for the first segment to remain.
    table.upsert(batch(5_000..7_000)).await.unwrap();
    INDEXES.optimize(&table).await.unwrap();
    assert!(segments().await.iter().all(|segment| segment.uuid != first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_segment_that_change_in_place_before_the_build_resumes_are_found_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { bulk_bytes: ByteSize(1 << 10), ..StoreOptions::default() };
    let table = table_with(directory.path(), options).await;
    for first in (0..2_000).step_by(FILE_ROWS as usize) {
        table.upsert(batch(first..first + FILE_ROWS)).await.unwrap();
    }
    let spec = IndexSpec::new("vector", IndexKind::parse("ivf_flat", []).unwrap());
    cut_off(&table, &spec, 500).await;
    // The vectors of the first file move far away.
    let moved = batch(0..FILE_ROWS);
    let numbers = (0..FILE_ROWS).flat_map(|id| [(10_000 + id) as f32, 1.0, 2.0, 3.0]);
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, DIMENSIONS, Arc::new(numbers.collect::<Float32Array>()), None);
    let fields = Arc::new(moved.schema().project(&[0, 2]).unwrap());
    let moved = RecordBatch::try_new(fields, vec![Arc::clone(moved.column(0)), Arc::new(vectors)]).unwrap();
    table.update(moved).await.unwrap();
    let patched = table.snapshot().await.unwrap();
    assert_eq!((patched.changed_rows(), patched.base().fragments().len()), (0, 8), "the rows must keep their ids");
    let done = create(&in_segments(), &table, &spec, &Watcher::until("", u64::MAX)).await;
    assert!(done.rows_indexed == 2_000 && done.segments > 3, "{done:?}");
    for _ in 0..2 {
        let snapshot = table.snapshot().await.unwrap();
        assert_eq!(nearest(&snapshot, 10_100, 5).await, (98..103).collect());
        assert_eq!(nearest(&snapshot, 0, 5).await, (250..255).collect());
        assert_eq!(nearest(&snapshot, 0, 2_000).await, (0..2_000).collect());
        // Enough rows that all segments become one.
        table.upsert(batch(3_000..4_900)).await.unwrap();
        table.delete_where("id >= 3000".into()).await.unwrap();
        INDEXES.optimize(&table).await.unwrap();
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from("../store/tests/fixtures")
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

/// Uses keys a, b, d and e, with values 4, 2, 2 and 4, as the store's own test does.
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

/// Lakes of an earlier version have built indexes without definitions.
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

/// A trainer that returns the first points as centres, or fails.
#[derive(Debug)]
struct First {
    centres: AtomicUsize,
    fails: bool,
}

impl Trainer for First {
    fn centres(&self, points: FixedSizeListArray, centres: usize) -> BoxFuture<'_, Result<FixedSizeListArray>> {
        self.centres.fetch_add(centres, Ordering::Relaxed);
        let first = match self.fails {
            true => Err(Error::resource_exhausted("the device is full")),
            false => Ok(points.slice(0, centres)),
        };
        async move { first }.boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn centres_that_others_learn_are_those_of_the_partitions() {
    let directory = tempfile::tempdir().unwrap();
    let table = table(directory.path()).await;
    table.upsert(batch(0..6_000)).await.unwrap();
    for (kind, metric, fails, learned) in [
        ("ivf_flat", "l2", false, true),
        ("ivf_sq", "cosine", false, true),
        ("ivf_sq", "l2", true, true),
        // Lance clusters by another distance.
        ("ivf_flat", "dot", false, false),
    ] {
        let trainer = Arc::new(First { centres: AtomicUsize::new(0), fails });
        let indexes =
            Indexes::new(IndexOptions { trainer: Some(Arc::clone(&trainer) as _), ..IndexOptions::default() });
        let spec = IndexSpec::new("vector", IndexKind::parse(kind, [("metric", metric), ("partitions", "7")]).unwrap());
        let built = indexes.create(&table, &spec).await.unwrap();
        assert_eq!((built.rows_indexed, built.rows_unindexed), (6_000, 0), "{kind} {metric}");
        assert_eq!(trainer.centres.load(Ordering::Relaxed), if learned { 7 } else { 0 }, "{kind} {metric}");
        if metric == "l2" {
            let snapshot = table.snapshot().await.unwrap();
            assert_eq!(nearest(&snapshot, 3_000, 5).await, (2_998..3_003).collect(), "{kind}");
        }
        indexes.remove(&table, &built.name).await.unwrap();
    }
}

/// Removes the files, as a collection by another process does that took the suspended builder for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_whose_files_are_gone_is_not_committed() {
    let directory = tempfile::tempdir().unwrap();
    let (built, claims) = (directory.path().join("t.lance/_indices"), directory.path().join("t.staged"));
    let is_purged = Arc::new(AtomicBool::new(false));
    let faults = {
        let is_purged = Arc::clone(&is_purged);
        Faults::new(move |operation| {
            if operation == "base.commit" && is_purged.load(Ordering::Relaxed) && built.exists() {
                for claim in std::fs::read_dir(&claims).unwrap() {
                    std::fs::write(claim.unwrap().path().with_extension("dead"), "0").unwrap();
                }
                std::fs::remove_dir_all(&built).unwrap();
            }
            Ok(())
        })
    };
    let table = table_with(directory.path(), StoreOptions { faults, ..StoreOptions::default() }).await;
    table.upsert(batch(0..100)).await.unwrap();
    table.fold().await.unwrap();
    is_purged.store(true, Ordering::Relaxed);
    for spec in [text_spec(), vector_spec(), IndexSpec::new("id", IndexKind::scalar())] {
        let error = INDEXES.create(&table, &spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("stopped sending heartbeats"), "{error}");
    }
    let wanted = ScanRequest::default().filter("id = 3");
    assert_eq!(table.snapshot().await.unwrap().collect(&wanted).await.unwrap().num_rows(), 1);
    is_purged.store(false, Ordering::Relaxed);
    INDEXES.create(&table, &text_spec()).await.unwrap();
}
