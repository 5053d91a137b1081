//! Groups: consecutive steps over one table that share a pass, the rows that each of them must process, and what they
//! report.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use cenote_base::{Error, Result};
use cenote_scheduler::Job;
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot, Table};
use futures::TryStreamExt;

use crate::engine::{Engine, RunOptions};
use crate::plan::PlannedStep;
use crate::record::error_table::ErrorTable;
use crate::record::keys;

/// The steps of a group that a row went through: bit `n` stands for step `n`.
pub(crate) type Pattern = u64;

/// Steps of a group, at most: a [`Pattern`] has one bit for each.
const GROUP_STEPS_MAX: usize = 64;

/// Consecutive steps over one table that share a pass.
pub(crate) struct StepGroup {
    pub(crate) table: Table,
    /// The job that the group's tasks belong to.
    pub(crate) job: Job,
    pub(crate) steps: Vec<Arc<PlannedStep>>,
}

impl StepGroup {
    /// Splits `planned` into ranges of consecutive steps that share a pass: over one table, row-wise, and without a
    /// predicate over an output of the same pass.
    pub(crate) fn split(planned: &[Arc<PlannedStep>]) -> Vec<Range<usize>> {
        let alone = |step: &Arc<PlannedStep>| step.child.is_some();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for (number, step) in planned.iter().enumerate() {
            let joins = ranges.last().is_some_and(|range| {
                let members = &planned[range.clone()];
                let mut made = members.iter().flat_map(|member| &member.outputs);
                let filtered_by_member = made.any(|output| step.filter_columns.contains(output.name()));
                members.len() < GROUP_STEPS_MAX
                    && members[0].table == step.table
                    && !members.iter().any(alone)
                    && !alone(step)
                    && !filtered_by_member
            });
            match ranges.last_mut() {
                Some(range) if joins => range.end = number + 1,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }
}

/// The rows that a group works on, at one snapshot.
pub(crate) struct GroupWork {
    pub(crate) snapshot: Snapshot,
    /// For each step, the ids of the rows that it must process.
    pub(crate) stale: Vec<Arc<BTreeSet<u64>>>,
    /// For each step, the ids of the rows that it no longer applies to and that still hold its values.
    pub(crate) cleared: Vec<BTreeSet<u64>>,
    rows_total: usize,
    /// The keys of the rows that had failed before this run, by step label.
    recorded: BTreeMap<String, BTreeSet<String>>,
}

impl GroupWork {
    /// Finds the rows that each step of `group` must process. Returns `None` in a dry run whose inputs are not stored
    /// yet.
    pub(crate) async fn find(engine: &Engine, group: &StepGroup, options: &RunOptions) -> Result<Option<Self>> {
        let snapshot = group.table.snapshot().await?;
        let has = |name: &String| snapshot.full_schema().field_with_name(name).is_ok();
        let can_read = |step: &Arc<PlannedStep>| step.inputs.iter().chain(&step.filter_columns).all(has);
        if options.dry_run_rows.is_some() && !group.steps.iter().all(can_read) {
            return Ok(None);
        }
        let recorded = ErrorTable::new(engine.store(), group.table.name(), &snapshot).recorded().await?;
        let mut work = Self {
            rows_total: snapshot.count(None).await?,
            stale: Vec::new(),
            cleared: Vec::new(),
            recorded,
            snapshot,
        };
        for step in &group.steps {
            let column = &step.fingerprint_column;
            let (stale, cleared) = if work.snapshot.full_schema().field_with_name(column).is_ok() {
                let other = format!("(`{column}` IS NULL OR `{column}` <> {})", step.fingerprint.0);
                let cleared = match &step.filter {
                    Some(filter) => {
                        work.rows(&format!("`{column}` IS NOT NULL AND NOT coalesce({filter}, false)")).await?
                    }
                    None => BTreeSet::new(),
                };
                let stale = match &step.filter {
                    Some(filter) => format!("({filter}) AND {other}"),
                    None => other,
                };
                (work.rows(&stale).await?, cleared)
            } else {
                (work.rows(step.filter.as_deref().unwrap_or("true")).await?, BTreeSet::new())
            };
            work.stale.push(Arc::new(stale));
            work.cleared.push(cleared);
        }
        if options.retry_errors {
            for (number, step) in group.steps.iter().enumerate() {
                let failed = work.failed_rows(step.label()).await?;
                let retried = work.applicable(step, failed).await?;
                Arc::make_mut(&mut work.stale[number]).extend(retried);
            }
        }
        work.follow_inputs(group).await?;
        if let Some(rows) = options.dry_run_rows {
            work.limit(rows);
        }
        Ok(Some(work))
    }

    /// Returns the ids of all rows that some step must process, ascending.
    pub(crate) fn stale_rows(&self) -> Vec<u64> {
        self.stale.iter().flat_map(|stale| stale.iter()).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Returns the report of `step` before any row is processed.
    pub(crate) fn report(&self, step: &PlannedStep) -> StepReport {
        StepReport {
            table: step.table.clone(),
            operator: step.operator.definition.name.to_owned(),
            target: step.target(),
            rows_total: self.rows_total,
            rows_processed: 0,
            rows_failed: 0,
            rows_cleared: 0,
            child_rows_written: 0,
            child_rows_removed: 0,
            seconds: 0.0,
        }
    }

    async fn rows(&self, filter: &str) -> Result<BTreeSet<u64>> {
        self.matching(filter.into()).await
    }

    async fn matching(&self, filter: Filter) -> Result<BTreeSet<u64>> {
        let request = ScanRequest::default().columns([""; 0]).filter(filter).with_row_id();
        let mut stream = self.snapshot.scan(&request).await?;
        let mut rows = BTreeSet::new();
        while let Some(batch) = stream.try_next().await? {
            let ids = batch.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
            rows.extend(ids.ok_or_else(|| Error::internal("the scan gave no row ids"))?.values());
        }
        Ok(rows)
    }

    async fn failed_rows(&self, label: &str) -> Result<BTreeSet<u64>> {
        let Some(texts) = self.recorded.get(label) else { return Ok(BTreeSet::new()) };
        let texts: Vec<String> = texts.iter().cloned().collect();
        let key = self.snapshot.primary_key();
        self.matching(key.filter(&keys::parse(key, &texts)?)?).await
    }

    /// Returns the rows among `rows` that `step` applies to.
    async fn applicable(&self, step: &PlannedStep, mut rows: BTreeSet<u64>) -> Result<BTreeSet<u64>> {
        if let Some(filter) = step.filter.as_deref().filter(|_| !rows.is_empty()) {
            let applies = self.rows(filter).await?;
            rows.retain(|row| applies.contains(row));
        }
        Ok(rows)
    }

    /// Adds to the stale rows of each step the rows for which an earlier step of the group derives one of its inputs
    /// again.
    async fn follow_inputs(&mut self, group: &StepGroup) -> Result<()> {
        for number in 0..group.steps.len() {
            let step = &group.steps[number];
            let mut inherited = BTreeSet::new();
            for (earlier, other) in group.steps[..number].iter().enumerate() {
                if other.outputs.iter().any(|output| step.inputs.contains(output.name())) {
                    inherited.extend(self.stale[earlier].iter().copied());
                }
            }
            let inherited = self.applicable(step, inherited).await?;
            Arc::make_mut(&mut self.stale[number]).extend(inherited);
        }
        Ok(())
    }

    /// Keeps only the first `rows` stale rows of each step, and clears none: for a dry run.
    fn limit(&mut self, rows: usize) {
        for stale in &mut self.stale {
            *stale = Arc::new(stale.iter().copied().take(rows).collect());
        }
        self.cleared.iter_mut().for_each(BTreeSet::clear);
    }
}

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The table that the step reads.
    pub table: String,
    /// The name of its operator.
    pub operator: String,
    /// What the step writes: columns of that table, or a child table.
    pub target: String,
    /// All rows of the table.
    pub rows_total: usize,
    /// Rows that the operator processed.
    pub rows_processed: usize,
    /// Processed rows that failed.
    pub rows_failed: usize,
    /// Rows that the step no longer applies to, whose values were removed.
    pub rows_cleared: usize,
    /// Rows written to the child table.
    pub child_rows_written: usize,
    /// Rows removed from the child table.
    pub child_rows_removed: usize,
    /// Wall-clock seconds of the pass that the step was part of.
    pub seconds: f64,
}
