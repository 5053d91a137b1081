//! A pass that fills a child table: each parent row gives its children, and a parent that is processed again keeps the
//! children that did not change.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::Field;
use cenote_base::{Error, ErrorKind, Result};
use cenote_scheduler::{Actor, Held, WorkOptions, byte_queue};
use cenote_store::{Store, TableSpec};
use futures::stream::{FuturesUnordered, StreamExt};

use super::children::Children;
use super::derive::internal;
use super::intake::{Intake, RowBytes};
use super::read::{Chunk, Pieces, read};
use super::stage::WORKER_IDLE;
use super::worker::{RETRIES_MAX, StepWorker};
use crate::plan::{Child, PlannedStep};
use crate::record::error_table::Failure;
use crate::record::keys;
use crate::run::{Engine, Group, RunOptions, StepReport, Work};

/// What some parents gave.
struct Expanded {
    /// The primary keys of the parents.
    parents: RecordBatch,
    children: RecordBatch,
    failures: Vec<Failure>,
}

pub(crate) async fn run(
    engine: &Engine,
    group: &Group,
    step: &Arc<PlannedStep>,
    work: Work,
    options: &RunOptions,
) -> Result<StepReport> {
    let Some(child) = &step.child else { return Err(Error::internal("a one-to-many step has no child table")) };
    let task = WorkOptions::new(step.operator.definition.name)
        .resources(step.operator.resources())
        .retries(RETRIES_MAX)
        .cancel(&options.cancel)
        .job(&group.job);
    let (operator, workers_max) = (Arc::clone(&step.operator), engine.scheduler.usage().total.cpu.ceil() as usize);
    let workers =
        engine.scheduler.actor(task, workers_max.max(1), WORKER_IDLE, move || Ok(StepWorker::new(&operator)))?;
    let children = Children::new(engine, &group.table, step, child, &work.snapshot);
    let pass = Pass { step, child, work: &work, workers, children };
    let mut report = work.report(step);
    let writes = options.dry_run_rows.is_none();
    if writes {
        report.rows_cleared = pass.children.clear(work.cleared[0].iter().copied().collect()).await?;
    }
    let rows: Vec<u64> = work.stale[0].iter().copied().collect();
    let stage = format!("{}: {}", step.table, step.operator.definition.name);
    if !rows.is_empty() {
        options.progress.begin(&stage, Some(rows.len() as u64));
        let mut columns = work.snapshot.primary_key().columns();
        columns.extend(step.inputs.iter().filter(|input| !columns.contains(input)).cloned().collect::<Vec<_>>());
        let room = engine.room(&group.steps)?;
        let hold = engine
            .scheduler
            .hold(&WorkOptions::new(&stage).cancel(&options.cancel).job(&group.job), room.bytes(), room.worker)
            .await?;
        let made = RowBytes::of(&group.steps);
        let (sender, receiver) = byte_queue(room.queue);
        let row_bytes_max = engine.options.row_bytes_max.0;
        let pieces = Pieces { row_bytes_max, bytes_max: room.piece, made: Arc::clone(&made) };
        let reader = read(work.snapshot.clone(), rows, columns, pieces, sender);
        let process = async {
            let mut intake = Intake::new(receiver, Arc::clone(&made), room.at_work_max, room.at_work);
            let mut in_flight = FuturesUnordered::new();
            let mut pending = Vec::new();
            let mut bytes = 0;
            while intake.goes_on() {
                tokio::select! {
                    biased;
                    () = options.cancel.cancelled() => return Err(Error::cancelled("the run was cancelled")),
                    Some((expanded, counted)) = in_flight.next(), if !in_flight.is_empty() => {
                        intake.done(counted);
                        let expanded: Expanded = expanded?;
                        made.note([&expanded.children], expanded.parents.num_rows());
                        options.progress.advance(&stage, expanded.parents.num_rows() as u64);
                        report.rows_processed += expanded.parents.num_rows();
                        report.rows_failed += expanded.failures.len();
                        if writes {
                            bytes += expanded.children.get_array_memory_size() as u64;
                            pending.push(expanded);
                            if bytes >= room.pending {
                                bytes = 0;
                                pass.commit(std::mem::take(&mut pending), &mut report).await?;
                            }
                        }
                    }
                    piece = intake.next(), if intake.has_room() => {
                        let pass = &pass;
                        let process = |(piece, bytes): (Held<Chunk>, u64)| async move { (pass.process(&piece).await, bytes) };
                        in_flight.extend(piece.map(process));
                    }
                }
            }
            pass.commit(pending, &mut report).await?;
            Ok(())
        };
        tokio::try_join!(reader, process)?;
        drop(hold);
        options.progress.end(&stage);
    }
    if writes {
        report.child_rows_removed += pass.children.remove_orphans().await?;
    }
    Ok(report)
}

/// Makes the child table of `step`, or the output columns that it lacks: its identity, and whether it is new.
pub(crate) async fn ensure_child(store: &Store, step: &PlannedStep, child: &Child) -> Result<(u64, bool)> {
    match store.table(&child.table).await {
        Ok(table) => {
            let snapshot = table.snapshot().await?;
            if snapshot.primary_key().columns() != child.key {
                return Err(Error::invalid_input(format!(
                    "table `{}` exists with primary key ({}), and the step needs ({}): choose another `into`",
                    child.table,
                    snapshot.primary_key().columns().join(", "),
                    child.key.join(", ")
                )));
            }
            let is_missing = |output: &&Field| snapshot.full_schema().field_with_name(output.name()).is_err();
            let missing: Vec<Field> = step.outputs.iter().filter(is_missing).cloned().collect();
            if !missing.is_empty() {
                table.add_columns(&missing).await?;
            }
            Ok((snapshot.identity(), false))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let spec = TableSpec::new(Arc::clone(&child.schema), child.key.clone());
            let table = match store.create_table(&child.table, spec).await {
                // Another run has made it meanwhile.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Box::pin(ensure_child(store, step, child)).await;
                }
                table => table?,
            };
            Ok((table.snapshot().await?.identity(), true))
        }
        Err(error) => Err(error),
    }
}

struct Pass<'a> {
    step: &'a PlannedStep,
    child: &'a Child,
    work: &'a Work,
    workers: Actor<StepWorker>,
    children: Children,
}

impl Pass<'_> {
    async fn process(&self, chunk: &Chunk) -> Result<Expanded> {
        let parents = self.work.snapshot.primary_key().project(&chunk.rows)?;
        let row_keys = keys::render(&parents)?;
        let input = |name: &String| {
            chunk
                .rows
                .column_by_name(name)
                .cloned()
                .ok_or_else(|| Error::internal(format!("the pass lost column `{name}`")))
        };
        let inputs = self.step.inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
        let output = self.workers.call(move |worker, context| worker.process(&inputs, &context.cancel)).await?;
        let of = output.parents.ok_or_else(|| Error::internal("a one-to-many operator gave no parents"))?;

        let mut columns = parents
            .columns()
            .iter()
            .map(|column| take(column.as_ref(), &of, None).map_err(internal("repeat parent keys")))
            .collect::<Result<Vec<ArrayRef>>>()?;
        columns.push(Arc::new(ordinals(&of)));
        columns.extend(output.columns);
        let children =
            RecordBatch::try_new(Arc::clone(&self.child.schema), columns).map_err(internal("build child rows"))?;

        let oversized = chunk.too_large.iter().cloned();
        let reasons: HashMap<usize, String> =
            output.errors.into_iter().map(|error| (error.row, error.reason)).chain(oversized).collect();
        let label = self.step.label();
        let failure = |(row, reason): (&usize, &String)| Failure {
            row_key: row_keys[*row].clone(),
            step: label.to_owned(),
            operator: self.step.operator.definition.name.to_owned(),
            reason: reason.clone(),
        };
        Ok(Expanded { parents, children, failures: reasons.iter().map(failure).collect() })
    }

    async fn commit(&self, expanded: Vec<Expanded>, report: &mut StepReport) -> Result<()> {
        if expanded.is_empty() {
            return Ok(());
        }
        let parents: Vec<&RecordBatch> = expanded.iter().map(|part| &part.parents).collect();
        let parents = concat_batches(&parents[0].schema(), parents).map_err(internal("join parents"))?;
        let children: Vec<&RecordBatch> = expanded.iter().map(|part| &part.children).collect();
        let children = concat_batches(&self.child.schema, children).map_err(internal("join child rows"))?;
        let failures = expanded.into_iter().flat_map(|part| part.failures).collect();
        let (written, removed) = self.children.commit(parents, children, failures).await?;
        report.child_rows_written += written;
        report.child_rows_removed += removed;
        Ok(())
    }
}

/// 0, 1, 2 … for the children of each parent; `parents` ascends.
fn ordinals(parents: &UInt32Array) -> Int32Array {
    let mut next = 0;
    let mut last = None;
    let number = |parent: &u32| {
        next = if last == Some(*parent) { next + 1 } else { 0 };
        last = Some(*parent);
        next
    };
    parents.values().iter().map(number).collect()
}
