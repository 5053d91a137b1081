//! The loop of a pass: pieces are read, processed side by side and committed, each in bounded memory.

use std::mem;
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result};
use cenote_scheduler::{Received, WorkOptions, byte_queue};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};

use super::intake::{Admitted, Intake};
use super::output_row_bytes::OutputRowBytes;
use super::read::{PieceBounds, RowPiece, read};
use super::room::Room;
use crate::engine::{Engine, RunOptions};
use crate::group::StepGroup;
use crate::group_work::GroupWork;
use crate::report::StepReport;

/// The group of a pass, its rows, and the engine and options that it runs with.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) engine: &'a Engine,
    pub(super) group: &'a StepGroup,
    pub(super) work: &'a GroupWork,
    pub(super) options: &'a RunOptions,
}

impl Pass<'_> {
    /// Returns the columns to read: the key, and every stored column that is an input of some step.
    pub(super) fn columns(&self) -> Vec<String> {
        let mut columns = self.work.snapshot.primary_key().columns();
        for input in self.group.steps.iter().flat_map(|step| &step.inputs) {
            // A column that the pass makes may not be stored yet in a dry run.
            let is_stored = self.work.snapshot.full_schema().field_with_name(input).is_ok();
            if is_stored && !columns.contains(input) {
                columns.push(input.clone());
            }
        }
        columns
    }

    /// Returns the name of the pass in progress reports.
    fn name(&self) -> String {
        let operators: Vec<_> = self.group.steps.iter().map(|step| step.operator.definition.name).collect();
        format!("{}: {}", self.group.table.name(), operators.join(", "))
    }
}

/// The outcome of one piece.
pub(super) trait Outcome {
    /// Returns the number of rows of the piece.
    fn rows(&self) -> usize;

    /// Returns the batches that were made of them.
    fn made(&self) -> impl Iterator<Item = &RecordBatch>;

    /// Counts the rows in the reports of the steps that processed them.
    fn count(&self, reports: &mut [StepReport]);
}

/// Rows of a child table that a commit changed.
#[derive(Debug, Default)]
pub(super) struct ChildRows {
    pub(super) written: usize,
    pub(super) removed: usize,
}

/// Reads the stale rows of `pass`, runs `process` over each piece of them, and `commit` over the outcomes whenever
/// enough of them wait, and at the end. A dry run commits nothing.
///
/// # Errors
/// `Cancelled`, or what reading, `process` or `commit` met; what was committed stays.
pub(super) async fn drive<O, P, C>(
    pass: Pass<'_>,
    reports: &mut [StepReport],
    process: impl Fn(Received<RowPiece>) -> P,
    commit: impl Fn(Vec<O>) -> C,
) -> Result<()>
where
    O: Outcome,
    P: Future<Output = Result<O>>,
    C: Future<Output = Result<ChildRows>>,
{
    let Pass { engine, group, work, options } = pass;
    let rows = work.stale_rows();
    if rows.is_empty() {
        return Ok(());
    }
    let name = pass.name();
    options.progress.begin(&name, Some(rows.len() as u64));
    let room = Room::of(engine, &group.steps)?;
    let holder = WorkOptions::new(&name).cancel(&options.cancel).job(&group.job);
    let hold = engine.scheduler().hold(&holder, room.bytes(), room.worker).await?;
    let made = OutputRowBytes::of(&group.steps);
    let (sender, receiver) = byte_queue(room.queue);
    let row_bytes_max = engine.options().row_bytes_max.0;
    let bounds = PieceBounds { row_bytes_max, bytes_max: room.piece, made: Arc::clone(&made) };
    let reader = read(work.snapshot.clone(), rows, pass.columns(), bounds, sender);
    let process_all = async {
        let mut intake = Intake::new(receiver, Arc::clone(&made), room.at_work_max, room.at_work);
        let mut in_flight = FuturesUnordered::new();
        let (mut pending, mut pending_bytes) = (Vec::new(), 0);
        while intake.goes_on() {
            tokio::select! {
                biased;
                () = options.cancel.cancelled() => return Err(Error::cancelled("the run was cancelled")),
                Some((outcome, admitted_bytes)) = in_flight.next(), if !in_flight.is_empty() => {
                    intake.done(admitted_bytes);
                    let outcome: O = outcome?;
                    let bytes: u64 = outcome.made().map(|batch| batch.get_array_memory_size() as u64).sum();
                    made.note(bytes, outcome.rows());
                    options.progress.advance(&name, outcome.rows() as u64);
                    outcome.count(reports);
                    if options.dry_run_rows.is_none() {
                        pending.push(outcome);
                        pending_bytes += bytes;
                        if pending_bytes >= room.pending {
                            pending_bytes = 0;
                            note_children(reports, commit(mem::take(&mut pending)).await?);
                        }
                    }
                }
                admitted = intake.next(), if intake.has_room() => {
                    if let Some(Admitted { piece, bytes }) = admitted {
                        in_flight.push(process(piece).map(move |outcome| (outcome, bytes)));
                    }
                }
            }
        }
        if !pending.is_empty() {
            note_children(reports, commit(pending).await?);
        }
        Ok(())
    };
    // The reader ends when the receiver is dropped; an error on either side stops both.
    tokio::try_join!(reader, process_all)?;
    drop(hold);
    options.progress.end(&name);
    Ok(())
}

/// Counts `changed` in the report of the one step of a group that has a child table.
fn note_children(reports: &mut [StepReport], changed: ChildRows) {
    if let [report] = reports {
        report.child_rows_written += changed.written;
        report.child_rows_removed += changed.removed;
    }
}
