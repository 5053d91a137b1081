//! Searches see every write at once: random writes, folds and index upkeep against a plain map. A failure names the seed
//! that replays it: `CENOTE_SEED=7 CENOTE_STEPS=2000 cargo test -p cenote-index --test fresh`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, FixedSizeListBuilder, Float32Builder, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema};
use cenote_base::{ByteSize, ErrorKind, Random};
use cenote_index::{
    DISTANCE, HybridQuery, IndexKind, IndexSpec, Metric, SCORE, TextQuery, VectorQuery, create, drop, hybrid_search,
    list, optimize, text_search, vector_search,
};
use cenote_store::{Snapshot, Store, StoreOptions, Table, TableSpec, Version};

const DIMENSIONS: usize = 4;
const KEYS: u64 = 90;
const WORDS: [&str; 8] = ["apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor"];

#[derive(Debug, Clone, PartialEq)]
struct Row {
    color: Option<i64>,
    note: Option<String>,
    vector: Option<Vec<f32>>,
}

type Rows = BTreeMap<i64, Row>;

fn seed() -> u64 {
    std::env::var("CENOTE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn steps() -> usize {
    std::env::var("CENOTE_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Limits so small that some writes go straight to the base.
fn options() -> StoreOptions {
    StoreOptions { bulk_bytes: ByteSize(16_000), fold_rows: 250, ..StoreOptions::default() }
}

fn schema() -> Arc<Schema> {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("color", DataType::Int64, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("embedding", DataType::FixedSizeList(item, DIMENSIONS as i32), true),
    ]))
}

fn vectors<'a>(rows: impl Iterator<Item = Option<&'a Vec<f32>>>) -> FixedSizeListArray {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), DIMENSIONS as i32);
    for row in rows {
        builder.values().append_slice(row.map_or(&[0.0; DIMENSIONS], |vector| vector.as_slice()));
        builder.append(row.is_some());
    }
    builder.finish()
}

fn batch<'a>(rows: impl IntoIterator<Item = (i64, &'a Row)>) -> RecordBatch {
    let rows: Vec<(i64, &Row)> = rows.into_iter().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(id, _)| Some(*id)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(_, row)| row.color).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(_, row)| row.note.clone()).collect::<StringArray>()),
        Arc::new(vectors(rows.iter().map(|(_, row)| row.vector.as_ref()))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn keys(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    let ids: Int64Array = ids.into_iter().map(Some).collect();
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids)]).unwrap()
}

async fn put(table: &Table, rows: &mut Rows, new: impl IntoIterator<Item = (i64, Row)>) {
    let new: Rows = new.into_iter().collect();
    table.upsert(batch(new.iter().map(|(id, row)| (*id, row)))).await.unwrap();
    rows.extend(new);
}

async fn take_out(table: &Table, rows: &mut Rows, ids: impl IntoIterator<Item = i64>) {
    let ids: Vec<i64> = ids.into_iter().collect();
    table.delete(&keys(ids.iter().copied())).await.unwrap();
    rows.retain(|id, _| !ids.contains(id));
}

async fn new_table() -> (tempfile::TempDir, Table) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).await.unwrap();
    let table = store.create_table("t", TableSpec::new(schema(), ["id"])).await.unwrap();
    (directory, table)
}

/// `None`: no distance.
fn distance(metric: Metric, a: &[f32], b: &[f32]) -> Option<f32> {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    match metric {
        Metric::L2 => Some(a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()),
        Metric::Cosine => Some(1.0 - dot / (norm(a) * norm(b))).filter(|distance| distance.is_finite()),
        Metric::Dot => Some(-dot),
    }
}

fn ids(found: &RecordBatch) -> Vec<i64> {
    found["id"].as_primitive::<Int64Type>().values().to_vec()
}

fn id_set(found: &RecordBatch) -> BTreeSet<i64> {
    let ids = ids(found);
    let set: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(set.len(), ids.len(), "a row was found twice: {ids:?}");
    set
}

fn only_id() -> Option<Vec<String>> {
    Some(vec!["id".to_owned()])
}

/// The rows of a filter, and its text.
#[derive(Debug, Clone, Copy)]
enum Keep {
    All,
    Color(i64),
    ColorBelow(i64),
    IdAbove(i64),
    NoNote,
}

impl Keep {
    fn random(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::Color(random.below(6) as i64),
            1 => Self::ColorBelow(random.below(7) as i64),
            2 => Self::IdAbove(random.below(KEYS) as i64),
            3 => Self::NoNote,
            _ => Self::All,
        }
    }

    fn sql(self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Color(color) => Some(format!("color = {color}")),
            Self::ColorBelow(color) => Some(format!("color < {color}")),
            Self::IdAbove(id) => Some(format!("id > {id} AND color IS NOT NULL")),
            Self::NoNote => Some("note IS NULL OR color IS NULL".to_owned()),
        }
    }

    fn has(self, id: i64, row: &Row) -> bool {
        match self {
            Self::All => true,
            Self::Color(color) => row.color == Some(color),
            Self::ColorBelow(below) => row.color.is_some_and(|color| color < below),
            Self::IdAbove(above) => id > above && row.color.is_some(),
            Self::NoNote => row.note.is_none() || row.color.is_none(),
        }
    }
}

/// The nearest rows of `rows`, exactly as many as there are, each once and by its own vector.
async fn check_vector(snapshot: &Snapshot, rows: &Rows, vector: &[f32], k: usize, metric: Option<Metric>, keep: Keep) {
    let query = VectorQuery { columns: only_id(), ..VectorQuery::new("embedding", vector.to_vec(), k) };
    let query = VectorQuery { metric, filter: keep.sql().map(Into::into), ..query };
    let indexed = list(snapshot).await.unwrap().into_iter().find_map(|index| index.metric);
    let metric = metric.or(indexed).unwrap_or_default();
    let about = format!("{metric} {query:?}");
    let found = vector_search(snapshot, &query).await.unwrap();
    let of = |row: &Row| row.vector.as_ref().and_then(|own| distance(metric, own, vector));
    let fitting = rows.iter().filter(|(id, row)| keep.has(**id, row));
    let mut near: Vec<(f32, i64)> = fitting.filter_map(|(id, row)| Some((of(row)?, *id))).collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0));
    near.truncate(k);
    let got = found[DISTANCE].as_primitive::<Float32Type>().values();
    let got: Vec<(f32, i64)> = got.iter().copied().zip(ids(&found)).collect();
    assert_eq!(got.len(), near.len(), "{about}\n   got {got:?}\nwanted {near:?}");
    id_set(&found);
    for (got, wanted) in got.iter().zip(&near) {
        let (now, id) = (got.0, got.1);
        let row = rows.get(&id).unwrap_or_else(|| panic!("{about}: row {id} is deleted"));
        assert!(keep.has(id, row), "{about}: row {id} does not satisfy the filter");
        let own = of(row).unwrap_or_else(|| panic!("{about}: row {id} has no vector"));
        assert!((now - own).abs() < 1e-4, "{about}: row {id} was found by an old vector: {now}, not {own}");
        assert!((now - wanted.0).abs() < 1e-4, "{about}: {now} is not {}\n   got {got:?}\nwanted {near:?}", wanted.0);
    }
    assert!(got.is_sorted_by(|a, b| a.0 <= b.0));
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Words {
    Any,
    All,
    Phrase,
}

fn fits(row: &Row, words: &[&str], how: Words) -> bool {
    let Some(note) = &row.note else { return false };
    let own: Vec<&str> = note.split(' ').collect();
    match how {
        Words::Any => words.iter().any(|word| own.contains(word)),
        Words::All => words.iter().all(|word| own.contains(word)),
        Words::Phrase => own.windows(words.len()).any(|window| window == words),
    }
}

fn text_query(words: &[&str], how: Words, k: usize, keep: Keep) -> TextQuery {
    let text = words.join(" ");
    let text = if how == Words::Phrase { format!("\"{text}\"") } else { text };
    let query = TextQuery { columns: only_id(), ..TextQuery::new(text, k) };
    TextQuery { all_words: how == Words::All, filter: keep.sql().map(Into::into), ..query }
}

/// Exactly the rows of `rows` that have the words, or k of them.
async fn check_text(snapshot: &Snapshot, rows: &Rows, words: &[&str], how: Words, k: usize, keep: Keep) {
    let query = text_query(words, how, k, keep);
    let found = text_search(snapshot, &query).await.unwrap();
    let wanted: BTreeSet<i64> =
        rows.iter().filter(|(id, row)| keep.has(**id, row) && fits(row, words, how)).map(|(id, _)| *id).collect();
    let got = id_set(&found);
    let scores = found[SCORE].as_primitive::<Float32Type>().values();
    assert!(
        scores.is_sorted_by(|a, b| a >= b) && scores.iter().all(|score| score.is_finite()),
        "{query:?}: {scores:?}"
    );
    if k >= wanted.len() {
        assert_eq!(got, wanted, "{query:?}");
    } else {
        assert!(got.len() == k && got.is_subset(&wanted), "{query:?}\n   got {got:?}\nwanted {k} of {wanted:?}");
    }
}

struct Check {
    random: Random,
    metric: Metric,
    directory: tempfile::TempDir,
    table: Table,
    /// Another process's view of the same files.
    reader: Table,
    rows: Rows,
    versions: BTreeMap<Version, Rows>,
    held: Vec<(Snapshot, Rows)>,
    has_vector_index: bool,
    has_text_index: bool,
    has_color_index: bool,
}

impl Check {
    async fn new(metric: Metric) -> Self {
        let (directory, table) = new_table().await;
        let reader = Store::open(directory.path(), options()).await.unwrap().table("t").await.unwrap();
        Self {
            random: Random::new(seed()),
            metric,
            directory,
            table,
            reader,
            rows: Rows::new(),
            versions: BTreeMap::new(),
            held: Vec::new(),
            has_vector_index: false,
            has_text_index: false,
            has_color_index: false,
        }
    }

    fn vector(&mut self) -> Vec<f32> {
        // Few values, so that there are ties and zero vectors.
        (0..DIMENSIONS).map(|_| self.random.below(5) as f32 - 2.0).collect()
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.random.below(WORDS.len() as u64) as usize]
    }

    fn row(&mut self, step: usize) -> Row {
        let mut note: Vec<String> = (0..self.random.below(6)).map(|_| self.word().to_owned()).collect();
        if self.random.below(3) == 0 {
            note.push(format!("step{step}"));
        }
        Row {
            color: (self.random.below(8) > 0).then(|| self.random.below(6) as i64),
            note: (self.random.below(8) > 0).then(|| note.join(" ")),
            vector: (self.random.below(6) > 0).then(|| self.vector()),
        }
    }

    fn ids(&mut self, max: u64) -> BTreeSet<i64> {
        (0..=self.random.below(max)).map(|_| self.random.below(KEYS) as i64).collect()
    }

    async fn step(&mut self, step: usize) -> &'static str {
        match self.random.below(40) {
            0..=9 => self.upsert(step, 8).await,
            10 => self.upsert(step, 300).await,
            11..=18 => self.update(step).await,
            19..=22 => {
                let ids = self.ids(8);
                take_out(&self.table, &mut self.rows, ids).await;
                "delete"
            }
            23 => {
                let color = self.random.below(6) as i64;
                self.table.delete_where(format!("color = {color}").into()).await.unwrap();
                self.rows.retain(|_, row| row.color != Some(color));
                "delete where"
            }
            24 if self.random.below(2) == 0 => {
                self.table.delete_where("true".into()).await.unwrap();
                self.rows.clear();
                "delete all"
            }
            24 | 25 => self.replace_all(step).await,
            26..=28 => {
                self.table.fold().await.unwrap();
                "fold"
            }
            29..=31 => {
                optimize(&self.table).await.unwrap();
                self.check_all_indexed().await;
                "optimize"
            }
            32 => {
                self.table.compact(self.random.below(2) == 0).await.unwrap();
                "compact"
            }
            33 => self.vector_index().await,
            34 => self.text_index().await,
            35 => {
                match self.has_color_index {
                    true => drop(&self.table, "color_scalar").await.unwrap(),
                    false => {
                        create(&self.table, &IndexSpec::new("color", IndexKind::Scalar)).await.unwrap();
                    }
                }
                self.has_color_index = !self.has_color_index;
                "color index"
            }
            36 => {
                let store = Store::open(self.directory.path(), options()).await.unwrap();
                self.table = store.table("t").await.unwrap();
                "reopen"
            }
            37 => {
                std::mem::swap(&mut self.table, &mut self.reader);
                "swap"
            }
            38 => {
                if self.held.len() > 2 {
                    self.held.remove(0);
                }
                self.held.push((self.table.snapshot().await.unwrap(), self.rows.clone()));
                "hold"
            }
            _ => {
                let at = self.random.below(self.versions.len() as u64) as usize;
                let Some((version, rows)) = self.versions.iter().nth(at).map(|(v, rows)| (*v, rows.clone())) else {
                    return "travel nowhere";
                };
                let snapshot = self.table.snapshot_at(version).await.unwrap();
                self.search(&snapshot, &rows, step).await;
                "travel"
            }
        }
    }

    async fn upsert(&mut self, step: usize, max: u64) -> &'static str {
        let ids = self.ids(max);
        let rows: Rows = ids.into_iter().map(|id| (id, self.row(step))).collect();
        put(&self.table, &mut self.rows, rows).await;
        "upsert"
    }

    /// Some columns of some rows.
    async fn update(&mut self, step: usize) -> &'static str {
        let max = if self.random.below(6) == 0 { 300 } else { 8 };
        let columns = [&[0, 1][..], &[0, 2], &[0, 3], &[0, 2, 3]][self.random.below(4) as usize];
        // Also of rows that are not there, which stay away.
        let mut new = Rows::new();
        for id in self.ids(max) {
            let fresh = self.row(step);
            let mut row = self.rows.get(&id).unwrap_or(&fresh).clone();
            columns.iter().for_each(|column| match column {
                1 => row.color = fresh.color,
                2 => row.note = fresh.note.clone(),
                3 => row.vector = fresh.vector.clone(),
                _ => {}
            });
            new.insert(id, row);
        }
        let values = batch(new.iter().map(|(id, row)| (*id, row))).project(columns).unwrap();
        self.table.update(values).await.unwrap();
        new.retain(|id, _| self.rows.contains_key(id));
        self.rows.extend(new);
        "update"
    }

    /// Every row, so that the base holds none that counts; its vectors or its texts become null.
    async fn replace_all(&mut self, step: usize) -> &'static str {
        let ids: Vec<i64> = self.rows.keys().copied().collect();
        let which = self.random.below(3);
        let mut rows = Rows::new();
        for id in ids {
            let mut row = self.row(step);
            match which {
                0 => row.vector = None,
                1 => row.note = None,
                _ => {}
            }
            rows.insert(id, row);
        }
        put(&self.table, &mut self.rows, rows).await;
        ["replace all, no vectors", "replace all, no notes", "replace all"][which as usize]
    }

    async fn vector_index(&mut self) -> &'static str {
        if self.has_vector_index && self.random.below(2) == 0 {
            drop(&self.table, &format!("embedding_{}", self.metric)).await.unwrap();
            self.has_vector_index = false;
            return "drop vector index";
        }
        let created = create(&self.table, &IndexSpec::new("embedding", IndexKind::vector(self.metric))).await;
        match created {
            Ok(index) => {
                assert_eq!(index.structure, "IVF_FLAT");
                self.has_vector_index = true;
            }
            Err(error) => {
                assert!(self.rows.values().all(|row| row.vector.is_none()), "{error:?}");
                assert!(error.message().contains("no vectors to index yet"), "{error:?}");
            }
        }
        "create vector index"
    }

    async fn text_index(&mut self) -> &'static str {
        if self.has_text_index && self.random.below(2) == 0 {
            drop(&self.table, "note_text").await.unwrap();
            self.has_text_index = false;
            return "drop text index";
        }
        create(&self.table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
        self.has_text_index = true;
        "create text index"
    }

    async fn check_all_indexed(&self) {
        for index in list(&self.table.snapshot().await.unwrap()).await.unwrap() {
            assert_eq!((index.rows_indexed, index.rows_unindexed), (self.rows.len(), 0), "{index:?}");
        }
    }

    async fn search(&mut self, snapshot: &Snapshot, rows: &Rows, step: usize) {
        let indexes = list(snapshot).await.unwrap();
        for index in &indexes {
            assert_eq!(index.rows_indexed + index.rows_unindexed, rows.len(), "{index:?}");
        }
        let k = [1, 1 + self.random.below(20) as usize, rows.len().max(1), rows.len() + 10];
        let k = k[self.random.below(4) as usize];
        let mut vector = self.vector();
        if vector.iter().all(|number| *number == 0.0) {
            vector[0] = 1.0;
        }
        let keep = Keep::random(&mut self.random);
        check_vector(snapshot, rows, &vector, k, None, keep).await;
        let metric = [Metric::L2, Metric::Cosine, Metric::Dot][self.random.below(3) as usize];
        check_vector(snapshot, rows, &vector, k, Some(metric), Keep::All).await;

        let has_text = indexes.iter().any(|index| index.column == "note");
        let newest = format!("step{step}");
        let (first, second) = (self.word(), self.word());
        if !has_text {
            let query = text_query(&[first], Words::Any, 5, Keep::All);
            assert_eq!(text_search(snapshot, &query).await.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        }
        let keep = Keep::random(&mut self.random);
        check_text(snapshot, rows, &[first], Words::Any, 1_000, keep).await;
        check_text(snapshot, rows, &[&newest], Words::Any, 1_000, Keep::All).await;
        let how = [Words::Any, Words::All, Words::Phrase][self.random.below(3) as usize];
        check_text(snapshot, rows, &[first, second], how, 1_000, keep).await;
        check_text(snapshot, rows, &[first, second, &newest], how, k, Keep::All).await;

        let near = VectorQuery { columns: only_id(), ..VectorQuery::new("embedding", vector, 1) };
        let near = VectorQuery { filter: keep.sql().map(Into::into), ..near };
        let text = text_query(&[first, second], how, 1, keep);
        let found = hybrid_search(snapshot, &HybridQuery { vector: near, text, k }).await.unwrap();
        for id in id_set(&found) {
            let row = rows.get(&id).unwrap_or_else(|| panic!("row {id} is deleted"));
            assert!(keep.has(id, row) && (row.vector.is_some() || fits(row, &[first, second], how)));
        }
    }

    async fn run(mut self) {
        let seed = seed();
        for step in 1..=steps() {
            let did = self.step(step).await;
            eprintln!("CENOTE_SEED={seed} step {step}: {did}; {} rows", self.rows.len());
            let now = self.table.snapshot().await.unwrap();
            self.versions.insert(now.version(), self.rows.clone());
            let rows = self.rows.clone();
            self.search(&now, &rows, step).await;
            match self.random.below(6) {
                0 => {
                    let elsewhere = self.reader.snapshot().await.unwrap();
                    self.search(&elsewhere, &rows, step).await;
                }
                1 if !self.held.is_empty() => {
                    let at = self.random.below(self.held.len() as u64) as usize;
                    let (snapshot, rows) = self.held[at].clone();
                    self.search(&snapshot, &rows, step).await;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_under_l2_equal_a_scan_of_a_map() {
    Check::new(Metric::L2).await.run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_under_cosine_equal_a_scan_of_a_map() {
    Check::new(Metric::Cosine).await.run().await;
}
