//! A pass that fills derived columns: rows are read once, run through every step of the group that needs them, and
//! committed with the fingerprints of what was made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, Result};
use cenote_scheduler::Received;
use cenote_store::{PrimaryKey, Snapshot, Table};

use super::clear::clear;
use super::drive::{ChildRows, Outcome, Pass, drive};
use super::read::RowPiece;
use super::stage::{PassStage, stages};
use super::staged_piece::{StagedPiece, StepOutcome, select};
use crate::engine::{Engine, RunOptions};
use crate::fault::internal;
use crate::group::{StepGroup, StepSet};
use crate::group_work::GroupWork;
use crate::plan::PlannedStep;
use crate::record::error_table::{ErrorTable, FailedRow, FailedRowKey};
use crate::record::in_turn::in_turn;
use crate::record::keys;
use crate::report::StepReport;

/// The outcome of one piece.
struct Processed {
    rows: usize,
    updates: Vec<RowUpdate>,
    /// One outcome for each step of the group.
    steps: Vec<StepOutcome>,
}

/// The key, the new values and their fingerprints for rows that went through the same steps.
struct RowUpdate {
    steps: StepSet,
    batch: RecordBatch,
}

impl Outcome for Processed {
    fn rows(&self) -> usize {
        self.rows
    }

    fn made(&self) -> impl Iterator<Item = &RecordBatch> {
        self.updates.iter().map(|update| &update.batch)
    }

    fn count(&self, reports: &mut [StepReport]) {
        for (report, step) in reports.iter_mut().zip(&self.steps) {
            report.rows_processed += step.rows;
            report.rows_failed += step.failures.len();
        }
    }
}

/// The outcomes of one commit.
#[derive(Default)]
struct PendingCommit {
    updates: BTreeMap<StepSet, Vec<RecordBatch>>,
    failures: Vec<FailedRow>,
}

impl From<Vec<Processed>> for PendingCommit {
    fn from(pieces: Vec<Processed>) -> Self {
        let mut pending = Self::default();
        for piece in pieces {
            for RowUpdate { steps, batch } in piece.updates {
                pending.updates.entry(steps).or_default().push(batch);
            }
            pending.failures.extend(piece.steps.into_iter().flat_map(|step| step.failures));
        }
        pending
    }
}

/// A pass over the columns of a table.
struct ColumnPass<'a> {
    pass: Pass<'a>,
    stages: Vec<PassStage>,
}

/// Runs the row-wise steps of `group` over the rows of `work`.
pub(crate) async fn run(
    engine: &Engine,
    group: &StepGroup,
    mut work: GroupWork,
    options: &RunOptions,
) -> Result<Vec<StepReport>> {
    let mut reports: Vec<StepReport> = group.steps.iter().map(|step| work.report(step)).collect();
    for (number, report) in reports.iter_mut().enumerate() {
        report.rows_cleared = clear(engine, group, &work, number).await?;
    }
    if reports.iter().any(|report| report.rows_cleared > 0)
        && let Some(now) = GroupWork::find(engine, group, options).await?
    {
        // Values derived from the cleared ones are stale now, and later comparisons need the rows as they are after the
        // clearing.
        work = now;
    }
    let stages = stages(engine, group, &work, &options.cancel)?;
    let column_pass = ColumnPass { pass: Pass { engine, group, work: &work, options }, stages };
    let process = |piece| column_pass.process(piece);
    drive(column_pass.pass, &mut reports, process, |processed| column_pass.commit(processed)).await?;
    Ok(reports)
}

impl ColumnPass<'_> {
    async fn process(&self, piece: Received<RowPiece>) -> Result<Processed> {
        let key = self.pass.work.snapshot.primary_key();
        let keys = key.project(&piece.rows)?;
        let mut staged = StagedPiece::new(piece, keys::render(&keys)?);
        for stage in &self.stages {
            staged = stage.run(self.pass.engine.scheduler(), staged).await?;
        }
        let rows = staged.rows();
        let mut updates = Vec::new();
        let distinct: BTreeSet<StepSet> =
            staged.went_through.iter().copied().filter(|steps| !steps.is_empty()).collect();
        for steps in distinct {
            let is_alike = |row: &u32| staged.went_through[*row as usize] == steps;
            let rows: UInt32Array = (0..rows as u32).filter(is_alike).collect();
            updates.push(RowUpdate { steps, batch: self.update(steps, &keys, &staged.made, &rows)? });
        }
        Ok(Processed { rows, updates, steps: staged.steps })
    }

    /// Builds an update of the outputs and fingerprints of `rows`, which went through the steps `went_through`.
    fn update(
        &self,
        went_through: StepSet,
        keys: &RecordBatch,
        made: &HashMap<String, ArrayRef>,
        rows: &UInt32Array,
    ) -> Result<RecordBatch> {
        let keys = take_record_batch(keys, rows).map_err(internal("take keys"))?;
        let mut fields: Vec<Field> = keys.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut columns = keys.columns().to_vec();
        let steps = self.pass.group.steps.iter().enumerate();
        for (_, step) in steps.filter(|(number, _)| went_through.contains(*number)) {
            for output in &step.outputs {
                let column = made
                    .get(output.name().as_str())
                    .ok_or_else(|| Error::internal(format!("the pass lost column `{}`", output.name())))?;
                fields.push(output.clone());
                // Most pieces are taken whole: then nothing is copied.
                columns.push(if rows.len() == column.len() { Arc::clone(column) } else { select(column, rows)? });
            }
            fields.push(Field::new(&step.fingerprint_column, DataType::Int64, true));
            columns.push(Arc::new(Int64Array::from(vec![step.fingerprint.0; rows.len()])));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal("build an update"))
    }

    /// Commits failures, then values with their fingerprints: a crash in between leaves a row that is on record and
    /// will be processed again, never a null without a reason. A row whose inputs have changed since they were read is
    /// passed over: the next run processes it.
    ///
    /// A value is right whoever else commits, because it is set only where its inputs are unchanged. The record of
    /// failures is another table, so runs over one table commit one at a time, in its turn. The outcome of a row whose
    /// inputs changed before the turn is neither put on record nor taken off it: another run may have processed the row
    /// since, and its record stands. A row whose inputs change during the turn loses its fingerprint, and whoever
    /// processes it commits after this turn and sees what is on record then.
    async fn commit(&self, processed: Vec<Processed>) -> Result<ChildRows> {
        let Pass { engine, group, work, .. } = self.pass;
        let mut pending = PendingCommit::from(processed);
        let read = work.snapshot.clone();
        let inputs = self.pass.columns().split_off(read.primary_key().columns().len());
        let (table, steps, now) = (group.table.clone(), group.steps.clone(), engine.options().clock.now());
        let errors = ErrorTable::new(engine.store(), table.name(), &read);
        let commit = async move {
            let mut resolved = succeeded(&steps, read.primary_key(), &pending, &errors.recorded().await?)?;
            let failed = pending.failures.iter().map(|failure| &failure.row_key);
            let judged = failed.chain(resolved.iter().map(|resolved| &resolved.row_key)).cloned().collect();
            let changed = changed(&table, &read, judged, &inputs).await?;
            pending.failures.retain(|failure| !changed.contains(&failure.row_key));
            resolved.retain(|resolved| !changed.contains(&resolved.row_key));
            errors.record(&pending.failures, now).await?;
            for batches in pending.updates.into_values() {
                let schema = batches[0].schema();
                let batch = match <[_; 1]>::try_from(batches) {
                    Ok([batch]) => batch,
                    Err(batches) => concat_batches(&schema, &batches).map_err(internal("join updates"))?,
                };
                table.update_unchanged(batch, &read, &inputs).await?;
            }
            errors.resolve(&resolved).await
        };
        in_turn(&group.table, |_| commit).await?;
        Ok(ChildRows::default())
    }
}

/// Returns the failures in `recorded` of rows that succeeded in `pending`.
fn succeeded(
    steps: &[Arc<PlannedStep>],
    key: &PrimaryKey,
    pending: &PendingCommit,
    recorded: &BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeSet<FailedRowKey>> {
    let mut succeeded = BTreeSet::new();
    for (number, step) in steps.iter().enumerate() {
        let Some(recorded) = recorded.get(step.label()) else { continue };
        let processed = pending.updates.iter().filter(|(steps, _)| steps.contains(number));
        for batch in processed.flat_map(|(_, batches)| batches) {
            let row_keys = keys::render(&key.project(batch)?)?.into_iter();
            let on_record = row_keys.filter(|row_key| recorded.contains(row_key));
            succeeded.extend(on_record.map(|row_key| FailedRowKey { step: step.label().to_owned(), row_key }));
        }
    }
    if !succeeded.is_empty() {
        let failed: BTreeSet<FailedRowKey> = pending.failures.iter().map(FailedRow::key).collect();
        succeeded.retain(|resolved| !failed.contains(resolved));
    }
    Ok(succeeded)
}

/// Returns those of `row_keys` whose rows in `table` no longer have the values in `columns` that they had in `read`.
async fn changed(
    table: &Table,
    read: &Snapshot,
    row_keys: BTreeSet<String>,
    columns: &[String],
) -> Result<BTreeSet<String>> {
    if row_keys.is_empty() {
        return Ok(row_keys);
    }
    let texts: Vec<String> = row_keys.into_iter().collect();
    let keys = keys::parse(read.primary_key(), &texts)?;
    let unchanged = table.snapshot().await?.unchanged_since(read, &keys, columns).await?;
    Ok(texts.into_iter().zip(unchanged).filter(|(_, unchanged)| !unchanged).map(|(text, _)| text).collect())
}
