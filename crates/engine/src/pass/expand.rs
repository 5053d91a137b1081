//! A pass that fills a child table: each parent row gives its children, and a parent that is processed again keeps the
//! children that did not change.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use cenote_base::{Error, Result};
use cenote_scheduler::{Actor, Received, WorkOptions};

use super::children::Children;
use super::clear::clear;
use super::drive::{ChildRows, Outcome, Pass, drive};
use super::read::RowPiece;
use super::set_aside::set_aside;
use super::worker::{RETRIES_MAX, StepWorker, WORKER_IDLE};
use crate::engine::{Engine, RunOptions};
use crate::fault::internal;
use crate::group::StepGroup;
use crate::group_work::GroupWork;
use crate::plan::{Child, PlannedStep};
use crate::record::error_table::FailedRow;
use crate::record::keys;
use crate::report::StepReport;

/// The outcome of one piece.
struct Expanded {
    /// The primary keys of the parents.
    parents: RecordBatch,
    children: RecordBatch,
    failures: Vec<FailedRow>,
}

impl Outcome for Expanded {
    fn rows(&self) -> usize {
        self.parents.num_rows()
    }

    fn made(&self) -> impl Iterator<Item = &RecordBatch> {
        [&self.children].into_iter()
    }

    fn count(&self, reports: &mut [StepReport]) {
        if let [report] = reports {
            report.rows_processed += self.parents.num_rows();
            report.rows_failed += self.failures.len();
        }
    }
}

/// A pass from the rows of a table to their children.
struct ChildTablePass<'a> {
    pass: Pass<'a>,
    step: &'a PlannedStep,
    child: &'a Child,
    workers: Actor<StepWorker>,
    children: Children,
}

/// Runs the one-to-many `step`, the only one of `group`, over the rows of `work`.
pub(crate) async fn run(
    engine: &Engine,
    group: &StepGroup,
    step: &Arc<PlannedStep>,
    work: GroupWork,
    options: &RunOptions,
) -> Result<StepReport> {
    let Some(child) = &step.child else { return Err(Error::internal("a one-to-many step has no child table")) };
    let task = WorkOptions::new(step.operator.definition.name)
        .resources(step.operator.resources())
        .retries(RETRIES_MAX)
        .cancel(&options.cancel)
        .job(&group.job);
    let (operator, workers_max) = (Arc::clone(&step.operator), engine.scheduler().usage().total.cpu.ceil() as usize);
    let workers =
        engine.scheduler().actor(task, workers_max.max(1), WORKER_IDLE, move || Ok(StepWorker::new(&operator)))?;
    let children = Children::new(engine, &group.table, step, child, &work.snapshot);
    let mut report = work.report(step);
    report.rows_cleared = clear(engine, group, &work, 0).await?;
    let pass = Pass { engine, group, work: &work, options };
    let child_pass = ChildTablePass { pass, step, child, workers, children };
    let process = |piece| child_pass.process(piece);
    drive(pass, std::slice::from_mut(&mut report), process, |expanded| child_pass.commit(expanded)).await?;
    if options.dry_run_rows.is_none() {
        report.child_rows_removed += child_pass.children.remove_orphans().await?;
    }
    Ok(report)
}

impl ChildTablePass<'_> {
    async fn process(&self, piece: Received<RowPiece>) -> Result<Expanded> {
        let parents = self.pass.work.snapshot.primary_key().project(&piece.rows)?;
        let row_keys = keys::render(&parents)?;
        let input = |name: &String| {
            piece
                .rows
                .column_by_name(name)
                .cloned()
                .ok_or_else(|| Error::internal(format!("the pass lost column `{name}`")))
        };
        let inputs = self.step.inputs.iter().map(input).collect::<Result<Vec<_>>>()?;
        let output = self.workers.call(move |worker, context| worker.process(&inputs, &context.cancel)).await?;
        let output = set_aside(&self.step.outputs, output)?;
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

        let too_large = piece.too_large.iter().cloned();
        let reasons: HashMap<usize, String> =
            output.errors.into_iter().chain(too_large).map(|error| (error.row, error.reason)).collect();
        let failure = |(row, reason): (&usize, &String)| FailedRow {
            row_key: row_keys[*row].clone(),
            step: self.step.label().to_owned(),
            operator: self.step.operator.definition.name.to_owned(),
            reason: reason.clone(),
        };
        Ok(Expanded { parents, children, failures: reasons.iter().map(failure).collect() })
    }

    async fn commit(&self, expanded: Vec<Expanded>) -> Result<ChildRows> {
        let Some(first) = expanded.first() else { return Ok(ChildRows::default()) };
        let parents = concat_batches(&first.parents.schema(), expanded.iter().map(|piece| &piece.parents))
            .map_err(internal("join parents"))?;
        let children = concat_batches(&self.child.schema, expanded.iter().map(|piece| &piece.children))
            .map_err(internal("join child rows"))?;
        let failures = expanded.into_iter().flat_map(|piece| piece.failures).collect();
        self.children.commit(parents, children, failures).await
    }
}

/// Numbers the children of each parent from 0; `parents` ascends.
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
