//! Deletion by a condition: deletes exactly the rows that satisfy it at that moment.
//!
//! The search for rows runs while others write. Once this write has its turn, it checks only the rows that changed
//! meanwhile. If the base was replaced meanwhile, the search is repeated, and in the end it runs while nobody else
//! writes.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use cenote_base::{Error, Result};
use futures::FutureExt;

use crate::blocking::detached;
use crate::errors::arrow_error;
use crate::log::Record;
use crate::reading::request::ScanRequest;
use crate::reading::snapshot::Snapshot;
use crate::report::WriteReport;
use crate::row_id::row_ids;
use crate::rows::filter::Filter;
use crate::state::table_state::TableState;
use crate::state::writer::RowWrite;
use crate::writing::commit::Writing;
use crate::writing::direct;
use crate::writing::log_base::Changing;

/// Searches that run while others write, before one that excludes other writers.
const TRIES: usize = 3;

/// Deletes the rows that satisfy `filter`.
pub(crate) async fn delete(state: &Arc<TableState>, filter: Filter) -> Result<WriteReport> {
    for _ in 0..TRIES {
        let then = state.snapshot().boxed().await?;
        let found = found(&then, &filter).boxed().await?;
        let changing = turn(state, found.num_rows()).await?;
        let writing = state.writing().boxed().await?;
        if let Some(keys) = still(&then, &state.view()?, found, &filter).boxed().await? {
            return delete_now(state, changing, writing, keys).await;
        }
    }
    // With both rights, either kind of deletion is possible, however many rows there are.
    let changing = turn(state, usize::MAX).await?;
    let writing = state.writing().boxed().await?;
    let keys = found(&state.view()?, &filter).boxed().await?;
    delete_now(state, changing, writing, keys).await
}

/// Takes the right to change the base if `rows` are many; otherwise waits until the change store has room for their
/// deletion.
async fn turn(state: &Arc<TableState>, rows: usize) -> Result<Option<Changing>> {
    match rows >= state.options().fold_rows {
        true => state.changing().await.map(Some),
        false => state.make_room().await.map(|()| None),
    }
}

/// Finds the keys and row ids of the rows of `snapshot` that satisfy `filter`.
async fn found(snapshot: &Snapshot, filter: &Filter) -> Result<RecordBatch> {
    snapshot.collect(&request(snapshot, filter)).await
}

fn request(snapshot: &Snapshot, filter: &Filter) -> ScanRequest {
    ScanRequest::default().columns(snapshot.primary_key().columns()).filter(filter.clone()).with_row_id()
}

/// Updates what was `found` at `then` to `now`; `None` if the search must be repeated.
async fn still(then: &Snapshot, now: &Snapshot, found: RecordBatch, filter: &Filter) -> Result<Option<RecordBatch>> {
    if then.version() == now.version() {
        return Ok(Some(found));
    }
    if !Arc::ptr_eq(then.base(), now.base()) {
        return Ok(None);
    }
    let is_there: BooleanArray = row_ids(&found)?.iter().map(|row| Some(now.is_live(*row))).collect();
    let mut parts = vec![filter_record_batch(&found, &is_there).map_err(arrow_error)?];
    parts.extend(now.changed_since(then.version(), &request(now, filter)).await?);
    concat_batches(found.schema_ref(), &parts).map(Some).map_err(arrow_error)
}

/// Deletes the rows of `keys`.
async fn delete_now(
    state: &Arc<TableState>,
    changing: Option<Changing>,
    writing: Writing,
    keys: RecordBatch,
) -> Result<WriteReport> {
    let keys = state.key().project(&keys)?;
    if keys.num_rows() == 0 {
        return Ok(WriteReport::unchanged(state.view()?.version()));
    }
    let hashes = state.key().hash(&keys, state.hash_key())?;
    let state = Arc::clone(state);
    let report = {
        let state = Arc::clone(&state);
        detached(async move {
            match changing {
                Some(changing) if keys.num_rows() >= state.options().fold_rows => {
                    direct::delete_while(&state, &changing, writing, keys, hashes).await
                }
                _ => {
                    let write = RowWrite { record: Record::Delete(keys), hashes, base: None };
                    let reports = state.commit(writing, vec![write]).await?;
                    reports.into_iter().next().ok_or_else(|| Error::internal("a commit returned no report"))?
                }
            }
        })
    };
    let report = report.await?;
    state.keep_up();
    Ok(report)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;
    use crate::{Store, StoreOptions, TableSpec};

    fn rows(rows: &[(i64, i64)]) -> RecordBatch {
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let (ids, values) = rows.iter().copied().unzip();
        RecordBatch::try_from_iter([("id", column(ids)), ("value", column(values))]).unwrap()
    }

    /// Three writes between search and turn: one row no longer matches, one now does, and one is deleted.
    #[tokio::test]
    async fn what_was_found_is_looked_at_again_where_it_was_written_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
        let fields = ["id", "value"].map(|name| Field::new(name, DataType::Int64, name == "value"));
        let spec = TableSpec::new(Arc::new(Schema::new(fields.to_vec())), ["id"]);
        let table = store.create_table("t", spec).await.unwrap();
        let filter = Filter::from("value = 1");
        for is_folded in [true, false] {
            table.upsert(rows(&[(1, 1), (2, 1), (3, 0), (4, 1)])).await.unwrap();
            if is_folded {
                table.fold().await.unwrap();
            }
            let then = table.snapshot().await.unwrap();
            let found = found(&then, &filter).await.unwrap();
            table.upsert(rows(&[(1, 0), (3, 1)])).await.unwrap();
            table.delete(&rows(&[(4, 0)])).await.unwrap();
            let now = table.snapshot().await.unwrap();
            let keys = still(&then, &now, found, &filter).await.unwrap().unwrap();
            let mut ids = keys["id"].as_primitive::<Int64Type>().values().to_vec();
            ids.sort_unstable();
            assert_eq!(ids, [2, 3], "folded: {is_folded}");
        }
    }
}
