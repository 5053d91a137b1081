//! The removal of what a step made of rows that it no longer applies to.

use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::Result;

use crate::engine::Engine;
use crate::fault::internal;
use crate::group::StepGroup;
use crate::group_work::GroupWork;
use crate::record::error_table::{ErrorTable, FailedRowKey};
use crate::record::in_turn::in_turn;
use crate::record::keys;

/// Sets the outputs and the fingerprint of step `number` to null, and takes its failures off the record, for the rows
/// that it no longer applies to. Returns how many rows these are.
///
/// A one-to-many step has no outputs in its table: without a fingerprint, the children of a row are orphans. A row to
/// which the step applies again meanwhile is processed by the next run.
pub(super) async fn clear(engine: &Engine, group: &StepGroup, work: &GroupWork, number: usize) -> Result<usize> {
    let rows: Vec<u64> = work.cleared[number].iter().copied().collect();
    if rows.is_empty() {
        return Ok(0);
    }
    let step = &group.steps[number];
    let snapshot = &work.snapshot;
    let keys = snapshot.take(&rows, &snapshot.primary_key().columns()).await?;
    let mut fields: Vec<Field> = keys.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = keys.columns().to_vec();
    let outputs = if step.child.is_none() { &step.outputs[..] } else { &[] };
    let fingerprint = Field::new(&step.fingerprint_column, DataType::Int64, true);
    for field in outputs.iter().cloned().chain([fingerprint]) {
        columns.push(new_null_array(field.data_type(), rows.len()));
        fields.push(field);
    }
    let cleared = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal("clear values"))?;
    let row_keys = keys::render(&snapshot.primary_key().project(&cleared)?)?;
    let (table, label) = (group.table.clone(), step.label().to_owned());
    let errors = ErrorTable::new(engine.store(), table.name(), snapshot);
    let clear = async move {
        table.update(cleared).await?;
        let on_record = errors.recorded().await?.remove(&label).unwrap_or_default();
        let resolved = row_keys.into_iter().filter(|row_key| on_record.contains(row_key));
        errors.resolve(&resolved.map(|row_key| FailedRowKey { step: label.clone(), row_key }).collect()).await
    };
    in_turn(&group.table, |_| clear).await?;
    Ok(rows.len())
}
