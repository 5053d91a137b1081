//! Every search against a plain map, while rows are written, folded, indexed, compacted and loaded in bulk, columns
//! change, and the table is dropped and created again. A failure names the seed and the step that replay it:
//! `CENOTE_SEED=7 CENOTE_STEPS=2000 cargo nextest run --workspace --test index model::`. `CENOTE_LONG=1` runs many
//! seeds.

mod plain;
mod queries;
mod searches;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, FixedSizeListArray, FixedSizeListBuilder, Float32Builder, Int64Array, LargeBinaryArray, RecordBatch,
    StringArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{ByteSize, Random};
use cenote_index::{IndexKind, IndexSpec, Metric, TextQuery};
use cenote_store::{Snapshot, Store, StoreOptions, Table, TableSpec, Version, blob_field};

use self::plain::{DIMENSIONS, Keep, Row, Rows};
use self::queries::Query;
use self::searches::Recall;
use crate::INDEXES;

/// The setting of a run.
#[derive(Debug, Clone, Copy)]
struct Setting {
    metric: Metric,
    /// Keys are from 0 to this.
    keys: u64,
    /// Whether the table has a column of media, whose updates take another path.
    has_media: bool,
    steps: usize,
}

/// Returns limits that are small enough for some writes to go straight to the base.
fn options() -> StoreOptions {
    StoreOptions { bulk_bytes: ByteSize(16_000), fold_rows: 250, ..StoreOptions::default() }
}

fn embedding() -> Field {
    let item = Arc::new(Field::new_list_field(DataType::Float32, true));
    Field::new("embedding", DataType::FixedSizeList(item, DIMENSIONS as i32), true)
}

fn vectors<'a>(rows: impl Iterator<Item = Option<&'a Vec<f32>>>) -> FixedSizeListArray {
    let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), DIMENSIONS as i32);
    for row in rows {
        builder.values().append_slice(row.map_or(&[0.0; DIMENSIONS], |vector| vector.as_slice()));
        builder.append(row.is_some());
    }
    builder.finish()
}

/// Makes a batch of `columns` of `rows`.
fn batch(rows: &Rows, columns: &[&str]) -> RecordBatch {
    let column = |name: &&str| -> (Field, ArrayRef) {
        match *name {
            "id" => (
                Field::new("id", DataType::Int64, false),
                Arc::new(rows.keys().copied().map(Some).collect::<Int64Array>()),
            ),
            "color" => (
                Field::new("color", DataType::Int64, true),
                Arc::new(rows.values().map(|row| row.color).collect::<Int64Array>()),
            ),
            "embedding" => (embedding(), Arc::new(vectors(rows.values().map(|row| row.vector.as_ref())))),
            "data" => (
                blob_field("data"),
                Arc::new(rows.keys().map(|id| Some(id.to_le_bytes())).collect::<LargeBinaryArray>()),
            ),
            text => (
                Field::new(text, DataType::Utf8, true),
                Arc::new(rows.values().map(|row| row.text(text)).collect::<StringArray>()),
            ),
        }
    };
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.iter().map(column).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

async fn create(store: &Store, setting: Setting) -> Table {
    let columns: &[&str] = match setting.has_media {
        true => &["id", "color", "note", "embedding", "data"],
        false => &["id", "color", "note", "embedding"],
    };
    let schema = batch(&Rows::new(), columns).schema();
    store.create_table("t", TableSpec::new(schema, ["id"])).await.unwrap()
}

struct Check {
    random: Random,
    setting: Setting,
    directory: tempfile::TempDir,
    store: Store,
    table: Table,
    /// The same table, as another process sees it.
    reader: Table,
    rows: Rows,
    versions: BTreeMap<Version, Rows>,
    held: Vec<(Snapshot, Rows)>,
    tags: BTreeMap<String, Version>,
    has_title: bool,
    recall: Recall,
}

impl Check {
    async fn new(seed: u64, setting: Setting) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), options()).await.unwrap();
        let table = create(&store, setting).await;
        let reader = Store::open(directory.path(), options()).await.unwrap().table("t").await.unwrap();
        Self {
            random: Random::new(seed),
            setting,
            directory,
            store,
            table,
            reader,
            rows: Rows::new(),
            versions: BTreeMap::new(),
            held: Vec::new(),
            tags: BTreeMap::new(),
            has_title: false,
            recall: Recall::default(),
        }
    }

    fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec!["id", "color", "note", "embedding"];
        columns.extend(self.setting.has_media.then_some("data"));
        columns.extend(self.has_title.then_some("title"));
        columns
    }

    fn ids(&mut self, max: u64) -> BTreeSet<i64> {
        (0..=self.random.below(max)).map(|_| self.random.below(self.setting.keys) as i64).collect()
    }

    fn new_rows(&mut self, ids: impl IntoIterator<Item = i64>, step: usize) -> Rows {
        let mut rows = Rows::new();
        for id in ids {
            let row = Row::random(&mut self.random, step);
            rows.insert(id, Row { title: row.title.filter(|_| self.has_title), ..row });
        }
        rows
    }

    async fn step(&mut self, step: usize) -> &'static str {
        match self.random.below(47) {
            0..=9 => {
                let ids = self.ids(8);
                self.upsert(ids, step).await
            }
            10 => {
                let ids = self.ids(3 * self.setting.keys);
                self.upsert(ids, step).await
            }
            11..=18 => self.update(step).await,
            19..=22 => {
                let ids = self.ids(8);
                let keys: Rows = self.new_rows(ids, step);
                self.table.delete(&batch(&keys, &["id"])).await.unwrap();
                self.rows.retain(|id, _| !keys.contains_key(id));
                "delete"
            }
            23 => {
                let color = self.random.below(6) as i64;
                self.table.delete_where(format!("color = {color}").into()).await.unwrap();
                self.rows.retain(|_, row| row.color != Some(color));
                "delete where"
            }
            24 if self.random.below(3) == 0 => {
                self.table.delete_where("true".into()).await.unwrap();
                self.rows.clear();
                "delete all"
            }
            24 | 25 => self.replace_all(step).await,
            26 => self.load(step).await,
            27..=29 => {
                self.table.fold().await.unwrap();
                "fold"
            }
            30..=32 => {
                INDEXES.optimize(&self.table).await.unwrap();
                let no_vectors = self.rows.values().all(|row| row.vector.is_none());
                for index in INDEXES.list(&self.table.snapshot().await.unwrap()).await.unwrap() {
                    if index.metric.is_some() && no_vectors {
                        continue;
                    }
                    assert_eq!((index.rows_indexed, index.rows_unindexed), (self.rows.len(), 0), "{index:?}");
                }
                "optimize"
            }
            33 => {
                self.table.compact(self.random.below(2) == 0).await.unwrap();
                "compact"
            }
            34 => self.collect().await,
            35 => self.vector_index().await,
            36 | 37 => self.other_index("note", IndexKind::full_text()).await,
            38 if self.has_title => self.other_index("title", IndexKind::full_text()).await,
            38 | 39 => self.alter().await,
            40 => self.other_index("color", IndexKind::scalar()).await,
            41 => {
                self.store = Store::open(self.directory.path(), options()).await.unwrap();
                self.table = self.store.table("t").await.unwrap();
                "reopen"
            }
            42 => {
                std::mem::swap(&mut self.table, &mut self.reader);
                "swap"
            }
            43 => {
                if self.held.len() > 2 {
                    self.held.remove(0);
                }
                self.held.push((self.table.snapshot().await.unwrap(), self.rows.clone()));
                "hold"
            }
            44 => self.tag(step).await,
            45 if self.random.below(2) == 0 => self.make_anew().await,
            _ => self.travel(step).await,
        }
    }

    async fn upsert(&mut self, ids: BTreeSet<i64>, step: usize) -> &'static str {
        let rows = self.new_rows(ids, step);
        self.table.upsert(batch(&rows, &self.columns())).await.unwrap();
        self.rows.extend(rows);
        "upsert"
    }

    /// Updates some columns of some rows, and of rows that do not exist, which must not appear.
    async fn update(&mut self, step: usize) -> &'static str {
        let max = if self.random.below(6) == 0 { 3 * self.setting.keys } else { 8 };
        let mut columns = vec!["id"];
        for name in ["color", "note", "embedding", "title"] {
            if self.random.below(2) == 0 && (name != "title" || self.has_title) {
                columns.push(name);
            }
        }
        let ids = self.ids(max);
        let rows = self.new_rows(ids, step);
        self.table.update(batch(&rows, &columns)).await.unwrap();
        for (id, new) in rows {
            let Some(row) = self.rows.get_mut(&id) else { continue };
            for column in &columns {
                match *column {
                    "color" => row.color = new.color,
                    "note" => row.note.clone_from(&new.note),
                    "embedding" => row.vector.clone_from(&new.vector),
                    "title" => row.title.clone_from(&new.title),
                    _ => {}
                }
            }
        }
        "update"
    }

    /// Drops the table, and creates another of the same name.
    async fn make_anew(&mut self) -> &'static str {
        self.held.clear();
        self.store.drop_table("t").await.unwrap();
        self.table = create(&self.store, self.setting).await;
        let elsewhere = Store::open(self.directory.path(), options()).await.unwrap();
        self.reader = elsewhere.table("t").await.unwrap();
        self.rows.clear();
        self.versions.clear();
        self.tags.clear();
        self.has_title = false;
        "drop and create"
    }

    /// Replaces every row, so that no row of the base is live. Vectors or texts become null.
    async fn replace_all(&mut self, step: usize) -> &'static str {
        let ids: Vec<i64> = self.rows.keys().copied().collect();
        let which = self.random.below(3);
        let mut rows = self.new_rows(ids, step);
        for row in rows.values_mut() {
            match which {
                0 => row.vector = None,
                1 => row.note = None,
                _ => {}
            }
        }
        self.table.upsert(batch(&rows, &self.columns())).await.unwrap();
        self.rows.extend(rows);
        ["replace all, no vectors", "replace all, no notes", "replace all"][which as usize]
    }

    /// Loads rows in bulk, in two parts that are committed together.
    async fn load(&mut self, step: usize) -> &'static str {
        let (mut parts, mut loaded) = (Vec::new(), Rows::new());
        for part in 0..2 {
            let ids = self.ids(self.setting.keys);
            let rows = self.new_rows(ids.into_iter().filter(|id| id % 2 == part), step);
            parts.push(self.table.stage(vec![batch(&rows, &self.columns())]).await.unwrap());
            loaded.extend(rows);
        }
        self.table.commit(parts).await.unwrap();
        self.rows.extend(loaded);
        "load"
    }

    async fn collect(&mut self) -> &'static str {
        // A snapshot protects its files from collection in its own process only.
        self.held.clear();
        let oldest = self.table.collect(Some(Duration::ZERO)).await.unwrap().oldest;
        self.versions.retain(|version, _| *version >= oldest);
        "collect"
    }

    async fn alter(&mut self) -> &'static str {
        self.has_title = !self.has_title;
        if self.has_title {
            self.table.add_columns(&[Field::new("title", DataType::Utf8, true)]).await.unwrap();
            return "add title";
        }
        self.table.drop_columns(&["title"]).await.unwrap();
        self.rows.values_mut().for_each(|row| row.title = None);
        "drop title"
    }

    async fn tag(&mut self, step: usize) -> &'static str {
        let at = self.random.below(self.versions.len() as u64) as usize;
        let Some(version) = self.versions.keys().nth(at).copied() else { return "no tag" };
        self.table.tag(&format!("s{step}"), version).await.unwrap();
        self.tags.insert(format!("s{step}"), version);
        if self.tags.len() > 2 {
            let (tag, version) = self.tags.pop_first().unwrap();
            let snapshot = self.reader.snapshot_of(&tag).await.unwrap();
            let rows = self.versions[&version].clone();
            self.search(&snapshot, &rows, step).await;
            self.table.untag(&tag).await.unwrap();
        }
        "tag"
    }

    async fn travel(&mut self, step: usize) -> &'static str {
        let at = self.random.below(self.versions.len() as u64) as usize;
        let Some((version, rows)) = self.versions.iter().nth(at).map(|(v, rows)| (*v, rows.clone())) else {
            return "travel nowhere";
        };
        let snapshot = self.table.snapshot_at(version).await.unwrap();
        self.search(&snapshot, &rows, step).await;
        "travel"
    }

    async fn has_index(&self, name: &str) -> bool {
        INDEXES.list(&self.table.snapshot().await.unwrap()).await.unwrap().iter().any(|index| index.name == name)
    }

    async fn vector_index(&mut self) -> &'static str {
        // Sometimes a second index on the same column.
        let metric = if self.random.below(3) == 0 { Metric::Cosine } else { self.setting.metric };
        let kind = if self.random.below(2) == 0 { IndexKind::hnsw(metric) } else { IndexKind::vector(metric) };
        let spec = IndexSpec::new("embedding", kind);
        let name = spec.effective_name();
        if self.has_index(&name).await && self.random.below(2) == 0 {
            INDEXES.remove(&self.table, &name).await.unwrap();
            return "drop vector index";
        }
        INDEXES.create(&self.table, &spec).await.unwrap();
        if spec.kind.is_resident() { "create resident index" } else { "create vector index" }
    }

    async fn other_index(&mut self, column: &str, kind: IndexKind) -> &'static str {
        let spec = IndexSpec::new(column, kind);
        let name = spec.effective_name();
        if self.has_index(&name).await && self.random.below(2) == 0 {
            INDEXES.remove(&self.table, &name).await.unwrap();
            return "drop index";
        }
        INDEXES.create(&self.table, &spec).await.unwrap();
        "create index"
    }

    async fn search(&mut self, snapshot: &Snapshot, rows: &Rows, step: usize) {
        searches::check(snapshot, rows, &mut self.random, &format!("step{step}"), &mut self.recall).await;
    }
}

async fn run(seed: u64, setting: Setting) -> Recall {
    let mut check = Check::new(seed, setting).await;
    if setting.keys > 1_000 {
        let rows = check.new_rows(0..setting.keys as i64, 0);
        check.table.upsert(batch(&rows, &check.columns())).await.unwrap();
        check.rows = rows;
        let spec = IndexSpec::new("embedding", IndexKind::vector(setting.metric));
        INDEXES.create(&check.table, &spec).await.unwrap();
    }
    for step in 1..=setting.steps {
        eprint!("CENOTE_SEED={seed} step {step}: ");
        let did = check.step(step).await;
        eprintln!("{did}; {} rows", check.rows.len());
        let now = check.table.snapshot().await.unwrap();
        check.versions.insert(now.version(), check.rows.clone());
        let rows = check.rows.clone();
        check.search(&now, &rows, step).await;
        match check.random.below(6) {
            0 => {
                let elsewhere = check.reader.snapshot().await.unwrap();
                check.search(&elsewhere, &rows, step).await;
            }
            1 if !check.held.is_empty() => {
                let at = check.random.below(check.held.len() as u64) as usize;
                let (snapshot, rows) = check.held[at].clone();
                check.search(&snapshot, &rows, step).await;
            }
            _ => {}
        }
    }
    check.recall
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs `setting` with `seeds` seeds, with many more under `CENOTE_LONG`, or with the one of `CENOTE_SEED`.
async fn run_all(setting: Setting, seeds: u64) -> Recall {
    let is_long = std::env::var_os("CENOTE_LONG").is_some();
    let last = if is_long { 20 * seeds } else { seeds };
    let seeds = number("CENOTE_SEED").map_or(1..=last, |seed| seed as u64..=seed as u64);
    let steps = number("CENOTE_STEPS").unwrap_or(if is_long { 5 * setting.steps } else { setting.steps });
    let mut recall = Recall::default();
    for seed in seeds {
        let one = run(seed, Setting { steps, ..setting }).await;
        recall.found += one.found;
        recall.wanted += one.wanted;
    }
    recall
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_under_l2_equal_a_scan_of_a_map() {
    run_all(Setting { metric: Metric::L2, keys: 90, has_media: false, steps: 40 }, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_under_cosine_equal_a_scan_of_a_map() {
    run_all(Setting { metric: Metric::Cosine, keys: 90, has_media: false, steps: 40 }, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_beside_media_equal_a_scan_of_a_map() {
    run_all(Setting { metric: Metric::Dot, keys: 60, has_media: true, steps: 40 }, 1).await;
}

/// Checks rows wherever they are: in the index, uncovered, or in the change store; folded, added to an index, or
/// indexed at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_queries_score_alike_before_and_after_a_fold_and_upkeep() {
    let seed = number("CENOTE_SEED").map_or(1, |seed| seed as u64);
    let mut check = Check::new(seed, Setting { metric: Metric::L2, keys: 400, has_media: false, steps: 0 }).await;
    check.upsert((0..300).collect(), 1).await;
    INDEXES.create(&check.table, &IndexSpec::new("note", IndexKind::full_text())).await.unwrap();
    check.upsert((250..350).collect(), 2).await;
    check.table.fold().await.unwrap();
    for step in 3..60 {
        check.upsert(BTreeSet::from([step * 7 % 300]), step as usize).await;
    }
    let gone = check.new_rows((0..400).filter(|id| id % 9 == 0), 0);
    check.table.delete(&batch(&gone, &["id"])).await.unwrap();
    check.rows.retain(|id, _| !gone.contains_key(id));
    let queries = if std::env::var_os("CENOTE_LONG").is_some() { 1_000 } else { 40 };
    let mut asked = Vec::new();
    for query in 0..queries {
        let all_words = query % 2 == 0;
        let query = Query::random(&mut check.random, 3, all_words);
        asked.push((query.written(&mut check.random, all_words), all_words, query));
    }
    for upkeep in 0..4 {
        match upkeep {
            0 => {}
            1 => check.table.fold().await.map(drop).unwrap(),
            2 => INDEXES.optimize(&check.table).await.unwrap(),
            _ => INDEXES.rebuild(&check.table).await.unwrap(),
        }
        let snapshot = check.table.snapshot().await.unwrap();
        for (text, all_words, query) in &asked {
            for k in [10, 1_000] {
                let asked = TextQuery { all_words: *all_words, ..TextQuery::new(text, k) };
                let asked = TextQuery { columns: Some(vec!["id".to_owned()]), ..asked };
                searches::check_text(&snapshot, &check.rows, &["note"], &asked, query, Keep::All).await;
            }
        }
    }
}

/// Enough rows for vectors to be quantised and walked as a graph.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_finds_nine_of_ten_and_never_a_wrong_row() {
    let recall = run_all(Setting { metric: Metric::L2, keys: 7_000, has_media: false, steps: 12 }, 1).await;
    assert!(recall.wanted > 0 && recall.found * 10 >= recall.wanted * 9, "{recall:?}");
}
