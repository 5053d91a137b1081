//! Random sequences of everything a table can do, against a plain map. A failure names the seed that replays it:
//! `CENOTE_SEED=7 CENOTE_STEPS=5000 cargo nextest run --workspace --test store model::`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use cenote_base::{ByteSize, ErrorKind, Random};
use cenote_store::{
    ChangeFeed, ROW_ID, ScanRequest, Snapshot, Staged, Store, StoreOptions, Table, TableSpec, Version, blob_field,
};

const KEYS: u64 = 24;

/// Note, number and media of a row; media as their length and the value of each byte.
type Row = (Option<String>, Option<i64>, Option<(usize, u8)>);
type Rows = BTreeMap<String, Row>;

struct Check {
    random: Random,
    directory: tempfile::TempDir,
    is_remote: bool,
    /// The stores of `table` and `reader`.
    opened: (Store, Store),
    table: Table,
    /// Another process's view of the same files.
    reader: Table,
    has_media: bool,
    rows: Rows,
    versions: BTreeMap<Version, Rows>,
    /// Snapshots, each with the number of the store that it was taken from.
    held: Vec<(usize, Snapshot, Rows)>,
    /// Numbers of the stores of `table` and `reader`.
    stores: (usize, usize),
    tags: BTreeMap<String, Version>,
    /// The last collection left every version from here on.
    oldest: Version,
    has_extra: bool,
    feed: ChangeFeed,
    /// The rows that the feed's changes add up to.
    followed: Rows,
    /// Rows in files that wait for their commit, and whether the extra column existed when they were staged.
    staged: Vec<(Staged, Rows, bool)>,
    /// Another table of the store, which must not be confused with this one.
    beside: Table,
    beside_rows: Rows,
}

fn seed() -> u64 {
    std::env::var("CENOTE_SEED").ok().map(|text| text.parse().unwrap()).unwrap_or(1)
}

fn steps(default: usize) -> usize {
    std::env::var("CENOTE_STEPS").ok().map(|text| text.parse().unwrap()).unwrap_or(default)
}

/// Opens a store with small limits, so that folds and direct writes happen often: a directory, or the same directory as
/// an object store.
async fn open(directory: &Path, is_remote: bool) -> Store {
    let options = StoreOptions {
        cache_directory: directory.join("cache"),
        bulk_bytes: ByteSize(6_000),
        fold_bytes: ByteSize(64 << 10),
        fold_rows: 200,
        lease_patience: Duration::from_millis(400),
        ..StoreOptions::default()
    };
    match is_remote {
        true => {
            Store::open(format!("file-object-store://{}", directory.join("store").display()), options).await.unwrap()
        }
        false => Store::open(directory.join("store"), options).await.unwrap(),
    }
}

fn schema(has_media: bool) -> Arc<Schema> {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("note", DataType::Utf8, true),
        Field::new("number", DataType::Int64, true),
    ];
    if has_media {
        fields.push(blob_field("data"));
    }
    Arc::new(Schema::new(fields))
}

fn key_batch(ids: &[String]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Utf8, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(ids.to_vec()))]).unwrap()
}

impl Check {
    async fn new(seed: u64, has_media: bool, is_remote: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), is_remote).await;
        let table = store.create_table("t", TableSpec::new(schema(has_media), ["id"])).await.unwrap();
        let beside = store.create_table("beside", TableSpec::new(schema(has_media), ["id"])).await.unwrap();
        let other = open(directory.path(), is_remote).await;
        let reader = other.table("t").await.unwrap();
        let feed = reader.changes(reader.snapshot().await.unwrap().version()).await.unwrap();
        let mut check = Self {
            feed,
            followed: Rows::new(),
            random: Random::new(seed),
            directory,
            is_remote,
            opened: (store, other),
            table,
            reader,
            has_media,
            rows: Rows::new(),
            versions: BTreeMap::new(),
            held: Vec::new(),
            stores: (0, 1),
            tags: BTreeMap::new(),
            oldest: Version(0),
            has_extra: false,
            staged: Vec::new(),
            beside,
            beside_rows: Rows::new(),
        };
        check.remember(check.table.snapshot().await.unwrap().version());
        check
    }

    fn remember(&mut self, version: Version) {
        self.versions.insert(version, self.rows.clone());
    }

    /// Returns some keys, each once.
    fn ids(&mut self, max: u64) -> Vec<String> {
        let count = 1 + self.random.below(max);
        let mut ids: Vec<String> = (0..count).map(|_| format!("k{:02}", self.random.below(KEYS))).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    async fn step(&mut self, step: usize) {
        match self.random.below(26) {
            0..=5 => self.upsert(step).await,
            6..=8 => self.update(step).await,
            9..=10 => self.delete().await,
            11 => self.delete_where(step).await,
            12..=13 => self.table.fold().await.unwrap(),
            14 => self.reopen().await,
            15 => self.hold().await,
            16 => self.travel().await,
            17 => self.tag(step).await,
            18 => self.alter().await,
            19 => self.shrink().await,
            20..=21 => self.stage(step).await,
            22 => self.commit().await,
            23 => self.update_unchanged(step).await,
            24 if self.random.below(3) == 0 => self.make_anew().await,
            24 => self.write_beside(step).await,
            _ => {
                self.opened.0.release().await.unwrap();
                std::mem::swap(&mut self.opened.0, &mut self.opened.1);
                std::mem::swap(&mut self.table, &mut self.reader);
                self.stores = (self.stores.1, self.stores.0);
            }
        }
        let (now, elsewhere) = (self.table.snapshot().await.unwrap(), self.reader.snapshot().await.unwrap());
        assert_eq!(now.version(), elsewhere.version());
        assert_eq!(contents(&now, self.has_media).await, self.rows);
        assert_eq!(contents(&elsewhere, self.has_media).await, self.rows);
        let rows = without_media(&self.rows);
        self.read_otherwise(&now, &rows).await;
        self.follow().await;
        assert_eq!(self.feed.version(), now.version());
        assert_eq!(self.followed, rows);
    }

    /// Applies the feed's changes, and checks the values before each change.
    async fn follow(&mut self) {
        while let Some(changes) = self.feed.next().await.unwrap() {
            let keys = changes["key"].as_struct().column(0).as_string::<i32>();
            let (before, after) = (changes["before"].as_struct(), changes["after"].as_struct());
            let row = |side: &StructArray, row: usize| {
                side.is_valid(row).then(|| {
                    let notes = side.column_by_name("note").unwrap().as_string::<i32>();
                    let numbers = side.column_by_name("number").unwrap().as_primitive::<Int64Type>();
                    let note = notes.is_valid(row).then(|| notes.value(row).to_owned());
                    (note, numbers.is_valid(row).then(|| numbers.value(row)), None)
                })
            };
            for at in 0..changes.num_rows() {
                let key = keys.value(at).to_owned();
                let (before, after) = (row(before, at), row(after, at));
                let operation = match (&before, &after) {
                    (None, Some(_)) => "insert",
                    (Some(_), Some(_)) => "update",
                    _ => "delete",
                };
                assert_eq!(changes["operation"].as_string::<i32>().value(at), operation);
                assert_eq!(self.followed.get(&key), before.as_ref());
                match after {
                    Some(after) => self.followed.insert(key, after),
                    None => self.followed.remove(&key),
                };
            }
        }
    }

    async fn upsert(&mut self, step: usize) {
        let count = if self.random.below(4) == 0 { KEYS } else { 4 };
        let ids = self.ids(count);
        let media: Vec<Option<Vec<u8>>> = ids
            .iter()
            .map(|_| (self.random.below(3) > 0).then(|| vec![step as u8; self.random.below(3_000) as usize]))
            .collect();
        let notes: Vec<Option<String>> =
            ids.iter().map(|id| (self.random.below(5) > 0).then(|| format!("{id} of {step}"))).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids.clone())),
            Arc::new(StringArray::from(notes.clone())),
            Arc::new(Int64Array::from(vec![step as i64; ids.len()])),
        ];
        if self.has_media {
            columns.push(Arc::new(media.iter().map(Option::as_deref).collect::<LargeBinaryArray>()));
        }
        let batch = RecordBatch::try_new(schema(self.has_media), columns).unwrap();
        let report = self.table.upsert(batch).await.unwrap();
        let updated = ids.iter().filter(|id| self.rows.contains_key(*id)).count();
        assert_eq!((report.inserted, report.updated), (ids.len() - updated, updated));
        for ((id, note), media) in ids.into_iter().zip(notes).zip(media) {
            let media = media.filter(|_| self.has_media).map(|media| summary(&media));
            self.rows.insert(id, (note, Some(step as i64), media));
        }
        self.remember(report.version);
    }

    async fn update(&mut self, step: usize) {
        let ids = self.ids(6);
        let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("number", DataType::Int64, true)];
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![-(step as i64); ids.len()]));
        let columns = vec![Arc::clone(key_batch(&ids).column(0)), numbers];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let report = self.table.update(batch).await.unwrap();
        let mut updated = 0;
        for id in &ids {
            if let Some(row) = self.rows.get_mut(id) {
                row.1 = Some(-(step as i64));
                updated += 1;
            }
        }
        assert_eq!((report.inserted, report.updated), (0, updated));
        self.remember(report.version);
    }

    async fn delete(&mut self) {
        let ids = self.ids(4);
        let report = self.table.delete(&key_batch(&ids)).await.unwrap();
        assert_eq!(report.deleted, ids.iter().filter(|id| self.rows.remove(*id).is_some()).count());
        self.remember(report.version);
    }

    async fn delete_where(&mut self, step: usize) {
        let limit = step as i64 - self.random.below(30) as i64;
        let doomed = |row: &Row| row.1.is_some_and(|number| number >= 0 && number % 3 == 0 && number > limit);
        let filter = format!("number >= 0 AND number % 3 = 0 AND number > {limit}");
        let before = self.rows.len();
        self.rows.retain(|_, row| !doomed(row));
        let report = self.table.delete_where(filter.into()).await.unwrap();
        assert_eq!(report.deleted, before - self.rows.len());
        self.remember(report.version);
    }

    async fn stage(&mut self, step: usize) {
        let (ids, writer) = (self.ids(KEYS), self.random.below(2) == 0);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids.clone())),
            Arc::new(StringArray::from(vec!["staged"; ids.len()])),
            Arc::new(Int64Array::from(vec![step as i64; ids.len()])),
        ];
        let batch = RecordBatch::try_new(schema(false), columns).unwrap();
        let staged = if writer { &self.table } else { &self.reader }.stage(vec![batch]).await.unwrap();
        // As it arrives in another process.
        let staged = Staged::from_bytes(&staged.to_bytes().unwrap()).unwrap();
        let rows = ids.into_iter().map(|id| (id, (Some("staged".to_owned()), Some(step as i64), None))).collect();
        self.staged.push((staged, rows, self.has_extra));
        if self.staged.len() > 2 {
            self.commit().await;
        }
    }

    async fn commit(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let (staged, rows, had_extra) = self.staged.remove(0);
        let outcome = self.table.commit(vec![staged]).await;
        if had_extra != self.has_extra {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Conflict);
            return;
        }
        self.rows.extend(rows);
        self.remember(outcome.unwrap().version);
    }

    /// Sets numbers that depend on the notes of an earlier snapshot.
    async fn update_unchanged(&mut self, step: usize) {
        let Some((_, read, then)) = self.held.last().cloned() else { return };
        let ids = self.ids(8);
        let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("number", DataType::Int64, true)];
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![step as i64; ids.len()]));
        let columns = vec![Arc::clone(key_batch(&ids).column(0)), numbers];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let report = self.table.update_unchanged(batch, &read, &["note".to_owned()]).await.unwrap();
        let mut updated = 0;
        for id in &ids {
            match (then.get(id), self.rows.get_mut(id)) {
                (Some(before), Some(row)) if before.0 == row.0 => {
                    row.1 = Some(step as i64);
                    updated += 1;
                }
                _ => {}
            }
        }
        assert_eq!((report.inserted, report.updated), (0, updated));
        self.remember(report.version);
    }

    /// Drops the table and creates one of its name, in this process or another.
    async fn make_anew(&mut self) {
        let store = if self.random.below(2) == 0 { &self.opened.0 } else { &self.opened.1 };
        for store in [&self.opened.0, &self.opened.1] {
            store.release().await.unwrap();
        }
        store.drop_table("t").await.unwrap();
        store.create_table("t", TableSpec::new(schema(self.has_media), ["id"])).await.unwrap();
        for (staged, ..) in std::mem::take(&mut self.staged) {
            assert!(self.table.commit(vec![staged]).await.is_err(), "rows of a table that is gone");
        }
        self.rows.clear();
        self.versions.clear();
        self.held.clear();
        self.tags.clear();
        self.followed.clear();
        (self.oldest, self.has_extra) = (Version(0), false);
        let version = self.table.snapshot().await.unwrap().version();
        self.remember(version);
        self.feed = self.reader.changes(version).await.unwrap();
    }

    async fn write_beside(&mut self, step: usize) {
        let ids = self.ids(KEYS);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids.clone())),
            Arc::new(StringArray::from(vec!["beside"; ids.len()])),
            Arc::new(Int64Array::from(vec![step as i64; ids.len()])),
        ];
        self.beside.upsert(RecordBatch::try_new(schema(false), columns).unwrap()).await.unwrap();
        self.beside_rows.extend(ids.into_iter().map(|id| (id, (Some("beside".to_owned()), Some(step as i64), None))));
        if self.random.below(3) == 0 {
            self.beside.compact(true).await.unwrap();
        }
        assert_eq!(contents(&self.beside.snapshot().await.unwrap(), self.has_media).await, self.beside_rows);
    }

    async fn reopen(&mut self) {
        let store = open(self.directory.path(), self.is_remote).await;
        self.table = store.table("t").await.unwrap();
        let old = std::mem::replace(&mut self.opened.0, store);
        // Otherwise the lease runs out.
        if self.random.below(4) > 0 {
            old.release().await.unwrap();
        }
        self.stores.0 = self.stores.0.max(self.stores.1) + 1;
    }

    async fn hold(&mut self) {
        if self.held.len() > 3 {
            let (_, snapshot, rows) = self.held.remove(0);
            assert_eq!(contents(&snapshot, self.has_media).await, rows);
        }
        self.held.push((self.stores.0, self.table.snapshot().await.unwrap(), self.rows.clone()));
    }

    async fn travel(&mut self) {
        let versions = self.table.versions().await.unwrap();
        assert!(versions.is_sorted_by(|a, b| a.version < b.version && a.time <= b.time));
        let at = self.random.below(self.versions.len() as u64) as usize;
        let (version, rows) = self.versions.iter().nth(at).unwrap();
        let snapshot = self.table.snapshot_at(*version).await.unwrap();
        assert_eq!(&contents(&snapshot, self.has_media).await, rows, "version {version}");
        let rows = without_media(rows);
        self.read_otherwise(&snapshot, &rows).await;
    }

    async fn tag(&mut self, step: usize) {
        let back = self.random.below(self.versions.len() as u64) as usize;
        let version = *self.versions.keys().nth_back(back).unwrap();
        self.table.tag(&format!("s{step:06}"), version).await.unwrap();
        self.tags.insert(format!("s{step:06}"), version);
        if self.tags.len() > 3 {
            let (tag, version) = self.tags.pop_first().unwrap();
            let snapshot = self.reader.snapshot_of(&tag).await.unwrap();
            assert_eq!(snapshot.version(), version);
            self.table.untag(&tag).await.unwrap();
            self.forget().await;
        }
        assert_eq!(self.reader.tags().await.unwrap(), self.tags);
    }

    async fn alter(&mut self) {
        let version = match self.has_extra {
            true => self.table.drop_columns(&["extra"]).await.unwrap(),
            false => self.table.add_columns(&[Field::new("extra", DataType::Float32, true)]).await.unwrap(),
        };
        self.has_extra = !self.has_extra;
        self.remember(version);
    }

    async fn shrink(&mut self) {
        self.table.compact(self.random.below(2) == 0).await.unwrap();
        if self.random.below(3) == 0 {
            // A snapshot is safe from such a collection only in its own process.
            self.held.retain(|(store, _, _)| *store == self.stores.0);
            self.oldest = self.table.collect(Some(Duration::ZERO)).await.unwrap().oldest;
            self.forget().await;
            let listed: Vec<Version> =
                self.reader.versions().await.unwrap().iter().map(|listed| listed.version).collect();
            assert!(self.versions.keys().all(|version| listed.contains(version)), "{listed:?}");
            assert!(listed.iter().all(|version| self.is_kept(*version)), "{listed:?}");
        }
    }

    fn is_kept(&self, version: Version) -> bool {
        version >= self.oldest || self.tags.values().any(|tagged| *tagged == version)
    }

    /// Forgets the versions that nothing keeps, and checks that one of them is gone.
    async fn forget(&mut self) {
        let gone: Vec<Version> = self.versions.keys().copied().filter(|version| !self.is_kept(*version)).collect();
        for version in &gone {
            self.versions.remove(version);
        }
        if let Some(version) = gone.first() {
            let error = self.reader.snapshot_at(*version).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }

    /// Reads a snapshot that has `rows` by count, filter, row id or key.
    async fn read_otherwise(&mut self, snapshot: &Snapshot, rows: &Rows) {
        let wanted = |row: &Row| row.1.is_some_and(|number| number % 2 == 0) && row.0.is_some();
        let expected: Vec<&String> = rows.iter().filter(|(_, row)| wanted(row)).map(|(id, _)| id).collect();
        let filter = "number % 2 = 0 AND note IS NOT NULL";
        let request = ScanRequest::default().columns(["id"]).filter(filter).with_row_id();
        match self.random.below(4) {
            0 => {
                assert_eq!(snapshot.count(None).await.unwrap(), rows.len());
                assert_eq!(snapshot.count(Some(filter.into())).await.unwrap(), expected.len());
            }
            1 => {
                let limited = snapshot.collect(&request.limit(2)).await.unwrap();
                assert_eq!(limited.num_rows(), expected.len().min(2));
            }
            2 => {
                let found = snapshot.collect(&request).await.unwrap();
                let mut ids: Vec<&str> = found.column(0).as_string::<i32>().iter().flatten().collect();
                ids.sort_unstable();
                assert_eq!(ids, expected);
                let row_ids = found.column_by_name(ROW_ID).unwrap().as_primitive::<UInt64Type>();
                let mut order: Vec<usize> = (0..found.num_rows()).collect();
                order.sort_by_cached_key(|_| self.random.next_u64());
                let shuffled: Vec<u64> = order.iter().map(|at| row_ids.value(*at)).collect();
                let taken = snapshot.take(&shuffled, &["id".into(), "number".into()]).await.unwrap();
                for (row, at) in order.iter().enumerate() {
                    let id = found.column(0).as_string::<i32>().value(*at);
                    assert_eq!(taken.column(0).as_string::<i32>().value(row), id);
                    assert_eq!(Some(taken.column(1).as_primitive::<Int64Type>().value(row)), rows[id].1);
                }
            }
            _ => {
                let ids = self.ids(5);
                let got = snapshot.get(&key_batch(&ids), Some(vec!["id".into()])).await.unwrap();
                let mut got: Vec<&str> = got.column(0).as_string::<i32>().iter().flatten().collect();
                got.sort_unstable();
                assert_eq!(got, ids.iter().filter(|id| rows.contains_key(*id)).collect::<Vec<_>>());
            }
        }
    }
}

async fn contents(snapshot: &Snapshot, has_media: bool) -> Rows {
    let columns = ["id", "note", "number"].into_iter().chain(has_media.then_some("data"));
    let batch = snapshot.collect(&ScanRequest::default().columns(columns)).await.unwrap();
    let (ids, notes) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
    let numbers = batch.column(2).as_primitive::<Int64Type>();
    let rows: Rows = (0..batch.num_rows())
        .map(|row| {
            let note = notes.is_valid(row).then(|| notes.value(row).to_owned());
            let media = batch.columns().get(3).map(|media| media.as_binary::<i64>());
            let media = media.filter(|media| media.is_valid(row)).map(|media| summary(media.value(row)));
            (ids.value(row).to_owned(), (note, numbers.is_valid(row).then(|| numbers.value(row)), media))
        })
        .collect();
    assert_eq!(rows.len(), batch.num_rows(), "a key occurs twice");
    rows
}

fn without_media(rows: &Rows) -> Rows {
    rows.iter().map(|(id, (note, number, _))| (id.clone(), (note.clone(), *number, None))).collect()
}

fn summary(media: &[u8]) -> (usize, u8) {
    let value = media.first().copied().unwrap_or(0);
    assert!(media.iter().all(|byte| *byte == value));
    (media.len(), value)
}

async fn run(has_media: bool, is_remote: bool) {
    let seed = seed();
    let mut check = Check::new(seed, has_media, is_remote).await;
    for step in 1..=steps(if is_remote { 200 } else { 250 }) {
        eprintln!("CENOTE_SEED={seed} step {step}");
        check.step(step).await;
    }
}

#[tokio::test]
async fn a_table_of_numbers_is_a_map() {
    run(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_media_is_a_map() {
    run(true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_an_object_store_is_a_map() {
    run(false, true).await;
}
