//! What the index of a column has not seen, read once for many searches: the late rows of a base, the change store of a
//! version, and what of the base that supersedes.

use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use cenote_base::Result;
use cenote_store::{RecordBatches, Snapshot};
use futures::TryStreamExt;
use lance::dataset::scanner::RowAddrTreeMap;
use lance::table::format::IndexMetadata;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_select::RowSetOps;

use super::segment::{Segment, Statistics, read_segment_rows};
use super::texts::Texts;
use crate::blocking::blocking;
use crate::metric::Metric;
use crate::rows::cache::Cache;
use crate::rows::fragments::{self, Examined, Fragment, Parts};
use crate::rows::row_set;
use crate::rows::runs::{Changed, bytes, bytes_of, changed, with};
use crate::vector::exact::Vectors;

/// More late rows than this are read batch by batch for each search, for the sake of memory.
pub(crate) const LATE_ROWS_MAX: usize = 100_000;

/// An opened full-text index, for one base.
#[derive(Debug)]
pub(crate) struct TextIndex {
    pub(crate) segments: Vec<Segment>,
    /// The rows of the base that none of them has seen, and the fragments whose all live rows those are.
    pub(crate) late: RowAddrTreeMap,
    pub(crate) late_fragments: Vec<Fragment>,
    /// Stands for how it reads texts.
    pub(crate) reading: String,
}

/// The texts of rows of the base that later writes supersede, and that its index has.
#[derive(Debug)]
pub(crate) struct Superseded {
    /// The superseded rows of the base, those too that the index does not have.
    of: Weak<RowAddrTreeMap>,
    rows: RowAddrTreeMap,
    /// As in [`Changed`]; `None` where they take too much memory.
    parts: Option<Vec<Arc<Texts>>>,
}

impl Superseded {
    /// Of the rows, for `terms`; `None` where their texts take too much memory.
    pub(crate) fn statistics(&self, terms: &[String]) -> Option<Statistics> {
        let mut sum = Statistics::none(terms.len());
        self.parts.as_ref()?.iter().for_each(|part| sum.add(&part.statistics(terms)));
        Some(sum)
    }
}

/// What was read, bounded in bytes.
pub(crate) struct Unseen {
    late_vectors: Cache<Parts<Vectors>>,
    changed_vectors: Cache<Changed<Vectors>>,
    late_texts: Cache<Parts<Texts>>,
    changed_texts: Cache<Changed<Texts>>,
    superseded_texts: Cache<Superseded>,
    pub(crate) text_indexes: Cache<TextIndex>,
    segment_rows: Cache<RowAddrTreeMap>,
    examined: Examined,
}

impl Unseen {
    pub(crate) fn new(bytes_max: usize, examined: Examined) -> Self {
        let share = bytes_max / 7;
        Self {
            late_vectors: Cache::new(share),
            changed_vectors: Cache::new(share),
            late_texts: Cache::new(share),
            changed_texts: Cache::new(share),
            superseded_texts: Cache::new(share),
            text_indexes: Cache::new(share),
            segment_rows: Cache::new(share),
            examined,
        }
    }

    /// Drops what belongs to the table of this identity.
    pub(crate) fn forget(&self, table: u64) {
        self.late_vectors.forget(table);
        self.changed_vectors.forget(table);
        self.late_texts.forget(table);
        self.changed_texts.forget(table);
        self.superseded_texts.forget(table);
        self.text_indexes.forget(table);
        self.segment_rows.forget(table);
    }

    /// The vectors of `column` in the fragments of the base that index `name` has not seen; of at most
    /// [`LATE_ROWS_MAX`] rows.
    pub(crate) async fn late_vectors(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        (metric, width): (Metric, usize),
        late: &[Fragment],
    ) -> Result<Arc<Parts<Vectors>>> {
        let name = format!("{name} {} {}", field_of(snapshot, column), metric == Metric::Hamming);
        let known = self.late_vectors.last(snapshot, &name);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(late)) {
            return Ok(Arc::clone(known));
        }
        let (mut parts, missing) = Parts::carried(known.as_deref(), late);
        for fragment in missing {
            let mut vectors = Vectors::new(metric, width);
            let mut batches = fragments::read(snapshot.base(), column, &fragment).await?;
            while let Some(batch) = batches.try_next().await? {
                self.examined.add(batch.num_rows());
                vectors = blocking(move || vectors.read(&batch).map(|_| vectors)).await?;
            }
            parts.push(fragment, vectors);
        }
        let parts = Arc::new(parts);
        self.late_vectors.put_lasting(snapshot, &name, &parts, bytes_of(&parts));
        Ok(parts)
    }

    /// The vectors of `column` in the change store.
    pub(crate) async fn changed_vectors(
        &self,
        snapshot: &Snapshot,
        column: &str,
        (metric, width): (Metric, usize),
    ) -> Result<Arc<Changed<Vectors>>> {
        let name = format!("{column} {}", metric == Metric::Hamming);
        let read = move |batches: Vec<RecordBatch>| {
            let mut vectors = Vectors::new(metric, width);
            batches.iter().try_for_each(|batch| vectors.read(batch).map(drop)).map(|()| vectors)
        };
        changed(&self.changed_vectors, snapshot, name, column, read).await
    }

    /// The texts of `column` in the fragments of the base that `index`, which is called `name`, has not seen; of at
    /// most [`LATE_ROWS_MAX`] rows.
    pub(crate) async fn late_texts(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        index: &TextIndex,
    ) -> Result<Arc<Parts<Texts>>> {
        let late = &index.late_fragments;
        // The fragments are others where the index cannot be read: then all are late.
        let name = format!("{name} {} {}", field_of(snapshot, column), index.reading);
        let known = self.late_texts.last(snapshot, &name);
        if let Some(known) = known.as_ref().filter(|known| known.are_of(late)) {
            return Ok(Arc::clone(known));
        }
        let (mut parts, missing) = Parts::carried(known.as_deref(), late);
        for fragment in missing {
            let batches = fragments::read(snapshot.base(), column, &fragment).await?;
            parts.push(fragment, self.read_texts(batches, tokenizer).await?);
        }
        let parts = Arc::new(parts);
        self.late_texts.put_lasting(snapshot, &name, &parts, bytes_of(&parts));
        Ok(parts)
    }

    /// The rows that `segment` of a full-text index was built from.
    pub(crate) async fn segment_rows(
        &self,
        snapshot: &Snapshot,
        segment: &IndexMetadata,
    ) -> Result<Arc<RowAddrTreeMap>> {
        let name = segment.uuid.to_string();
        if let Some(known) = self.segment_rows.last(snapshot, &name) {
            return Ok(known);
        }
        let rows = Arc::new(read_segment_rows(snapshot.base(), segment).await?);
        self.examined.add(row_set::count(&rows));
        self.segment_rows.put_lasting(snapshot, &name, &rows, rows.serialized_size());
        Ok(rows)
    }

    /// The texts of the superseded rows of the base that index `name` over `column` has, which are all but the `late`
    /// ones.
    pub(crate) async fn superseded_texts(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
        late: &RowAddrTreeMap,
    ) -> Result<Arc<Superseded>> {
        let of = snapshot.superseded();
        let mut name = name.to_owned();
        let mut known = self.superseded_texts.get(snapshot, &name);
        let is_current = |known: &Arc<Superseded>| Weak::as_ptr(&known.of) == Arc::as_ptr(of);
        if let Some(known) = known.as_ref().filter(|known| is_current(known)) {
            return Ok(Arc::clone(known));
        }
        let rows = of.as_ref().clone() - late;
        if known.as_ref().is_some_and(|known| !(known.rows.clone() - &rows).is_empty()) {
            // What is known of a later version has rows that are live here.
            name = format!("{name} {}", snapshot.version());
            known = self.superseded_texts.get(snapshot, &name);
        }
        let (new, parts) = match &known {
            Some(known) => (rows.clone() - &known.rows, known.parts.clone()),
            None => (rows.clone(), Some(Vec::new())),
        };
        let mut parts = parts.filter(|_| row_set::count(&rows) <= LATE_ROWS_MAX);
        if let Some(known) = parts.take() {
            let texts = self.read_texts(row_set::read(snapshot.base(), column, new).await?, tokenizer).await?;
            parts = Some(blocking(move || Ok(with(known, texts))).await?);
        }
        let parts = parts.filter(|parts| self.superseded_texts.has_room_for(bytes(parts)));
        let bytes = rows.serialized_size() + parts.as_deref().map_or(0, bytes);
        let superseded = Arc::new(Superseded { of: Arc::downgrade(of), rows, parts });
        self.superseded_texts.put(snapshot, &name, &superseded, bytes);
        Ok(superseded)
    }

    /// The texts of `column` in the change store, as index `name` reads them.
    pub(crate) async fn changed_texts(
        &self,
        snapshot: &Snapshot,
        name: &str,
        column: &str,
        tokenizer: &dyn LanceTokenizer,
    ) -> Result<Arc<Changed<Texts>>> {
        let mut tokenizer = tokenizer.box_clone();
        let read = move |batches: Vec<RecordBatch>| {
            let mut texts = Texts::default();
            batches.iter().try_for_each(|batch| texts.read(batch, tokenizer.as_mut())).map(|()| texts)
        };
        changed(&self.changed_texts, snapshot, name.to_owned(), column, read).await
    }

    /// The texts in the first column of `batches`.
    async fn read_texts(&self, mut batches: RecordBatches, tokenizer: &dyn LanceTokenizer) -> Result<Texts> {
        let mut texts = Texts::default();
        while let Some(batch) = batches.try_next().await? {
            self.examined.add(batch.num_rows());
            let mut tokenizer = tokenizer.box_clone();
            texts = blocking(move || texts.read(&batch, tokenizer.as_mut()).map(|()| texts)).await?;
        }
        Ok(texts)
    }
}

/// The number of `column`, which another column that gets its name has not.
fn field_of(snapshot: &Snapshot, column: &str) -> i32 {
    snapshot.base().schema().field(column).map_or(-1, |field| field.id)
}
