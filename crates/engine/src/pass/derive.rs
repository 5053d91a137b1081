//! A pass that fills derived columns: rows are read once, run through every step of the group that needs them, and
//! committed with the fingerprints of what was made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, Result};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};

use super::intake::{Intake, RowBytes};
use super::read::{Chunk, Pieces, read};
use super::stage::{Pattern, Stage, Taken, select, stages};
use crate::plan::PlannedStep;
use crate::record::error_table::{ErrorTable, Failure};
use crate::record::in_turn::in_turn;
use crate::record::keys;
use crate::run::{Engine, Group, RunOptions, StepReport, Work};
use cenote_scheduler::{Held, WorkOptions, byte_queue};
use cenote_store::{PrimaryKey, Snapshot, Table};

/// What became of one chunk.
#[derive(Default)]
struct Processed {
    /// For each pattern, key and new values of the rows that have it.
    updates: Vec<(Pattern, RecordBatch)>,
    /// For each step: how many rows it processed, and those that failed.
    counts: Vec<usize>,
    failures: Vec<Vec<Failure>>,
    rows: u64,
}

/// What waits for the next commit.
#[derive(Default)]
struct Pending {
    updates: BTreeMap<Pattern, Vec<RecordBatch>>,
    failures: Vec<Failure>,
    bytes: u64,
}

struct Pass<'a> {
    engine: &'a Engine,
    group: &'a Group,
    work: &'a Work,
    stages: Vec<Stage>,
}

pub(crate) async fn run(
    engine: &Engine,
    group: &Group,
    mut work: Work,
    options: &RunOptions,
) -> Result<Vec<StepReport>> {
    let mut reports: Vec<StepReport> = group.steps.iter().map(|step| work.report(step)).collect();
    for (number, report) in reports.iter_mut().enumerate() {
        report.rows_cleared = clear(engine, group, &work, number).await?;
    }
    if reports.iter().any(|report| report.rows_cleared > 0)
        && let Some(now) = engine.stale(group, options).await?
    {
        // What was made of what is cleared is stale, and rows are compared with what they are now.
        work = now;
    }
    let stages = stages(engine, group, &work, &options.cancel)?;
    let pass = Pass { engine, group, work: &work, stages };
    let rows: Vec<u64> =
        work.stale.iter().flat_map(|stale| stale.iter()).copied().collect::<BTreeSet<_>>().into_iter().collect();
    if rows.is_empty() {
        return Ok(reports);
    }

    let stage = format!("{}: {}", group.table.name(), stage_name(group));
    options.progress.begin(&stage, Some(rows.len() as u64));
    let room = engine.room(&group.steps)?;
    let rows_held = WorkOptions::new(&stage).cancel(&options.cancel).job(&group.job);
    let hold = engine.scheduler.hold(&rows_held, room.bytes(), room.worker).await?;
    let made = RowBytes::of(&group.steps);
    let (sender, receiver) = byte_queue(room.queue);
    let pieces =
        Pieces { row_bytes_max: engine.options.row_bytes_max.0, bytes_max: room.piece, made: Arc::clone(&made) };
    let reader = read(work.snapshot.clone(), rows, pass.columns(), pieces, sender);
    let process = async {
        let mut intake = Intake::new(receiver, Arc::clone(&made), room.at_work_max, room.at_work);
        let mut in_flight = FuturesUnordered::new();
        let mut pending = Pending::default();
        while intake.goes_on() {
            tokio::select! {
                biased;
                () = options.cancel.cancelled() => return Err(Error::cancelled("the run was cancelled")),
                Some((processed, bytes)) = in_flight.next(), if !in_flight.is_empty() => {
                    intake.done(bytes);
                    let processed: Processed = processed?;
                    made.note(processed.updates.iter().map(|(_, update)| update), processed.rows as usize);
                    options.progress.advance(&stage, processed.rows);
                    for (report, (count, failures)) in reports.iter_mut().zip(processed.counts.iter().zip(&processed.failures)) {
                        report.rows_processed += count;
                        report.rows_failed += failures.len();
                    }
                    if options.dry_run_rows.is_none() {
                        pending.add(processed);
                        if pending.bytes >= room.pending {
                            pass.commit(std::mem::take(&mut pending)).await?;
                        }
                    }
                }
                piece = intake.next(), if intake.has_room() => {
                    in_flight.extend(piece.map(|(piece, bytes)| pass.process(piece).map(move |done| (done, bytes))));
                }
            }
        }
        pass.commit(pending).await?;
        Ok(())
    };
    // The reader ends when the receiver is dropped; an error on either side stops both.
    tokio::try_join!(reader, process)?;
    drop(hold);
    options.progress.end(&stage);
    Ok(reports)
}

fn stage_name(group: &Group) -> String {
    group.steps.iter().map(|step| step.operator.definition.name).collect::<Vec<_>>().join(", ")
}

impl Pending {
    fn add(&mut self, processed: Processed) {
        for (pattern, batch) in processed.updates {
            self.bytes += batch.get_array_memory_size() as u64;
            self.updates.entry(pattern).or_default().push(batch);
        }
        self.failures.extend(processed.failures.into_iter().flatten());
    }
}

impl Pass<'_> {
    /// The key, and every column some step reads that is not made in this pass for all rows.
    fn columns(&self) -> Vec<String> {
        let mut columns = self.work.snapshot.primary_key().columns();
        for step in &self.group.steps {
            for input in &step.inputs {
                // In a dry run, a column that the pass makes may not be stored yet.
                let stored = self.work.snapshot.full_schema().field_with_name(input).is_ok();
                if stored && !columns.contains(input) {
                    columns.push(input.clone());
                }
            }
        }
        columns
    }

    async fn process(&self, chunk: Held<Chunk>) -> Result<Processed> {
        let key = self.work.snapshot.primary_key();
        let keys = key.project(&chunk.rows)?;
        let mut taken = Taken::new(chunk, keys::render(&keys)?);
        for stage in &self.stages {
            taken = stage.run(&self.engine.scheduler, taken).await?;
        }
        let mut processed = Processed { rows: taken.rows() as u64, ..Processed::default() };
        for pattern in taken.patterns.iter().copied().filter(|pattern| *pattern != 0).collect::<BTreeSet<_>>() {
            let rows = 0..taken.rows() as u32;
            let rows: UInt32Array = rows.filter(|row| taken.patterns[*row as usize] == pattern).collect();
            processed.updates.push((pattern, self.update(pattern, &keys, &taken.made, &rows)?));
        }
        (processed.counts, processed.failures) = (taken.counts, taken.failures);
        Ok(processed)
    }

    /// Key, outputs and fingerprints of `rows`, which went through the steps of `pattern`.
    fn update(
        &self,
        pattern: Pattern,
        keys: &RecordBatch,
        made: &HashMap<String, ArrayRef>,
        rows: &UInt32Array,
    ) -> Result<RecordBatch> {
        let keys = take_record_batch(keys, rows).map_err(internal("take keys"))?;
        let mut fields: Vec<Field> = keys.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut columns = keys.columns().to_vec();
        for (_, step) in self.group.steps.iter().enumerate().filter(|(number, _)| pattern & (1 << number) != 0) {
            for output in &step.outputs {
                let column = made
                    .get(output.name().as_str())
                    .ok_or_else(|| Error::internal(format!("the pass lost column `{}`", output.name())))?;
                fields.push(output.clone());
                // Whole chunks are the rule: then nothing is copied.
                columns.push(if rows.len() == column.len() { Arc::clone(column) } else { select(column, rows)? });
            }
            fields.push(Field::new(&step.fingerprint_column, DataType::Int64, true));
            columns.push(Arc::new(Int64Array::from(vec![step.fingerprint.0; rows.len()])));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal("build an update"))
    }

    /// Failures first: a crash between the commits leaves a row that is on record and will be processed again, never a
    /// null without a reason. A row whose inputs have changed since they were read is left as it is: the next run
    /// processes it.
    ///
    /// A value is right whoever else commits, because it is set on that condition. The record of failures is another
    /// table, so runs over this one commit one at a time, in its turn. What became of a row whose inputs have changed
    /// before the turn is not put on record, nor taken off: another run may have processed it since, and its word
    /// stands. A row whose inputs change during the turn has no fingerprint any more, and whoever processes it commits
    /// after this, with a look at what is on record then.
    async fn commit(&self, mut pending: Pending) -> Result<()> {
        if pending.updates.is_empty() {
            return Ok(());
        }
        let read = self.work.snapshot.clone();
        let inputs = self.columns().split_off(read.primary_key().columns().len());
        let (table, steps, now) = (self.group.table.clone(), self.group.steps.clone(), self.engine.options.clock.now());
        let errors = ErrorTable::new(&self.engine.store, table.name(), &read);
        let commit = async move {
            let mut resolved = succeeded(&steps, read.primary_key(), &pending, &errors.recorded().await?)?;
            let failed = pending.failures.iter().map(|failure| &failure.row_key);
            let judged: BTreeSet<String> = failed.chain(resolved.iter().map(|(_, row_key)| row_key)).cloned().collect();
            let changed = changed(&table, &read, judged, &inputs).await?;
            pending.failures.retain(|failure| !changed.contains(&failure.row_key));
            resolved.retain(|(_, row_key)| !changed.contains(row_key));
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
        in_turn(&self.group.table, |_| commit).await
    }
}

/// Removes the values of rows that step `number` no longer applies to.
async fn clear(engine: &Engine, group: &Group, work: &Work, number: usize) -> Result<usize> {
    let rows: Vec<u64> = work.cleared[number].iter().copied().collect();
    if rows.is_empty() {
        return Ok(0);
    }
    let step = &group.steps[number];
    let snapshot = &work.snapshot;
    let keys = snapshot.take(&rows, &snapshot.primary_key().columns()).await?;
    let mut fields: Vec<Field> = keys.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = keys.columns().to_vec();
    let own = Field::new(&step.fingerprint_column, DataType::Int64, true);
    for field in step.outputs.iter().cloned().chain([own]) {
        columns.push(new_null_array(field.data_type(), rows.len()));
        fields.push(field);
    }
    let cleared = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal("clear values"))?;
    let row_keys = keys::render(&snapshot.primary_key().project(&cleared)?)?;
    let (table, label) = (group.table.clone(), step.label().to_owned());
    let errors = ErrorTable::new(&engine.store, table.name(), snapshot);
    let clear = async move {
        table.update(cleared).await?;
        let on_record = errors.recorded().await?.remove(&label).unwrap_or_default();
        let resolved = row_keys.into_iter().filter(|row_key| on_record.contains(row_key));
        errors.resolve(&resolved.map(|row_key| (label.clone(), row_key)).collect()).await
    };
    in_turn(&group.table, |_| clear).await?;
    Ok(rows.len())
}

/// (step label, key) of rows that are `recorded` as failed, and succeeded.
fn succeeded(
    steps: &[Arc<PlannedStep>],
    key: &PrimaryKey,
    pending: &Pending,
    recorded: &BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeSet<(String, String)>> {
    let mut succeeded = BTreeSet::new();
    for (number, step) in steps.iter().enumerate() {
        let Some(recorded) = recorded.get(step.label()) else { continue };
        let processed = pending.updates.iter().filter(|(pattern, _)| *pattern & (1 << number) != 0);
        for batch in processed.flat_map(|(_, batches)| batches) {
            let row_keys = keys::render(&key.project(batch)?)?.into_iter();
            let on_record = row_keys.filter(|row_key| recorded.contains(row_key));
            succeeded.extend(on_record.map(|row_key| (step.label().to_owned(), row_key)));
        }
    }
    if !succeeded.is_empty() {
        let failed = pending.failures.iter().map(|failure| (&failure.step, &failure.row_key));
        let failed: BTreeSet<(&String, &String)> = failed.collect();
        succeeded.retain(|(step, row_key)| !failed.contains(&(step, row_key)));
    }
    Ok(succeeded)
}

/// Of these keys, those whose rows in `table` no longer have the `columns` that they had in `read`.
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

pub(crate) fn internal(doing: &'static str) -> impl Fn(arrow::error::ArrowError) -> Error {
    move |source| Error::internal(format!("{doing}: {source}")).with_source(source)
}
