//! The hits of a search: row ids with their distances and scores, and the rows behind them.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use cenote_base::{Error, Result};
use cenote_store::{ROW_ID, Snapshot, arrow_error};

/// The column of distances in the result of a search (`Float32`, ascending).
pub const DISTANCE: &str = "_distance";
/// The column of scores in the result of a search (`Float32`, descending).
pub const SCORE: &str = "_score";
/// The largest `k` of a search: beyond it, a scan with a sort is the better plan.
pub const K_MAX: usize = 100_000;

/// A row that a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The id of the row.
    pub row_id: u64,
    /// The distance of its vector from the query vector; `None` for a row that only its text found.
    pub distance: Option<f32>,
    /// The BM25 score of its text, or the fused score of a hybrid search; `None` when only vectors were searched.
    pub score: Option<f32>,
}

/// Reads the rows of `hits`, in their order: `columns`, and then those of `ranks` that are not among them.
///
/// `columns` may name [`ROW_ID`], [`DISTANCE`] and [`SCORE`]; `None` means all visible columns. A column named twice is
/// returned once.
///
/// # Errors
/// `NotFound` for an unknown column.
pub async fn materialize(
    snapshot: &Snapshot,
    hits: &[Hit],
    columns: Option<&[String]>,
    ranks: &[&str],
) -> Result<RecordBatch> {
    let mut names: Vec<String> = match columns {
        Some(columns) => columns.to_vec(),
        None => snapshot.schema().fields().iter().map(|field| field.name().clone()).collect(),
    };
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    for rank in ranks {
        if !names.iter().any(|name| name == rank) {
            names.push((*rank).to_owned());
        }
    }
    let is_rank = |name: &str| matches!(name, ROW_ID | DISTANCE | SCORE) && snapshot.schema().index_of(name).is_err();
    let row_ids: Vec<u64> = hits.iter().map(|hit| hit.row_id).collect();
    let stored: Vec<String> = names.iter().filter(|name| !is_rank(name)).cloned().collect();
    let taken = match stored.is_empty() {
        true => RecordBatch::new_empty(Arc::new(Schema::empty())),
        false => snapshot.take(&row_ids, &stored).await?,
    };
    let mut fields: Vec<FieldRef> = Vec::with_capacity(names.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(names.len());
    for name in &names {
        if !is_rank(name) {
            let at = taken.schema().index_of(name).map_err(arrow_error)?;
            fields.push(Arc::new(taken.schema().field(at).clone()));
            arrays.push(Arc::clone(taken.column(at)));
            continue;
        }
        let floats = |of: fn(&Hit) -> Option<f32>| Arc::new(hits.iter().map(of).collect::<Float32Array>()) as ArrayRef;
        let (data_type, array) = match name.as_str() {
            ROW_ID => (DataType::UInt64, Arc::new(UInt64Array::from(row_ids.clone())) as ArrayRef),
            DISTANCE => (DataType::Float32, floats(|hit| hit.distance)),
            _ => (DataType::Float32, floats(|hit| hit.score)),
        };
        fields.push(Arc::new(Field::new(name, data_type, name != ROW_ID)));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(hits.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).map_err(arrow_error)
}

/// Compares two hits: the nearer one first, equally near ones by row id, so that results are deterministic.
pub(crate) fn by_distance(a: &Hit, b: &Hit) -> Ordering {
    a.distance.unwrap_or(f32::INFINITY).total_cmp(&b.distance.unwrap_or(f32::INFINITY)).then(a.row_id.cmp(&b.row_id))
}

/// Truncates `rows` to the first `k` by `order`. They are not sorted.
pub(crate) fn keep_first<T>(rows: &mut Vec<T>, k: usize, order: impl FnMut(&T, &T) -> Ordering) {
    if rows.len() > k {
        rows.select_nth_unstable_by(k, order);
        rows.truncate(k);
    }
}

/// Returns the number of candidates that a search for `k` rows collects before it truncates them: `2k + 32`.
pub(crate) fn kept_max(k: usize) -> usize {
    2 * k + 32
}

/// Compares two hits: the higher score first, equal scores by row id.
pub(crate) fn by_score(a: &Hit, b: &Hit) -> Ordering {
    b.score.unwrap_or(0.0).total_cmp(&a.score.unwrap_or(0.0)).then(a.row_id.cmp(&b.row_id))
}

/// Checks that `k` is in range.
pub(crate) fn check_k(k: usize) -> Result<()> {
    match k {
        1..=K_MAX => Ok(()),
        _ => Err(Error::invalid_input(format!("k must be from 1 to {K_MAX}, found {k}"))),
    }
}
