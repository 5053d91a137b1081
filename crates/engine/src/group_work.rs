//! The rows that each step of a group must process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use cenote_base::{Error, Result};
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot};
use futures::TryStreamExt;

use crate::engine::{Engine, RunOptions};
use crate::group::StepGroup;
use crate::plan::PlannedStep;
use crate::record::error_table::ErrorTable;
use crate::record::keys;
use crate::report::StepReport;

/// The rows that a group works on, at one snapshot.
pub(crate) struct GroupWork {
    pub(crate) snapshot: Snapshot,
    /// For each step, the ids of the rows that it must process.
    pub(crate) stale: Vec<Arc<BTreeSet<u64>>>,
    /// For each step, the ids of the rows that it no longer applies to and that still hold its values, or have a
    /// failure on record.
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
            let stale = work.stale_for(step).await?;
            let cleared = work.cleared_for(step).await?;
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

    fn has_column(&self, name: &str) -> bool {
        self.snapshot.full_schema().field_with_name(name).is_ok()
    }

    /// Returns the rows that `step` applies to and that were not made under its fingerprint.
    async fn stale_for(&self, step: &PlannedStep) -> Result<BTreeSet<u64>> {
        let column = &step.fingerprint_column;
        let is_stale =
            self.has_column(column).then(|| format!("(`{column}` IS NULL OR `{column}` <> {})", step.fingerprint.0));
        let filter = step.filter.as_ref().map(|filter| format!("({filter})"));
        let predicates: Vec<String> = filter.into_iter().chain(is_stale).collect();
        if predicates.is_empty() { self.rows("true").await } else { self.rows(&predicates.join(" AND ")).await }
    }

    /// Returns the rows that `step` no longer applies to and that still hold its values, or have a failure on record.
    async fn cleared_for(&self, step: &PlannedStep) -> Result<BTreeSet<u64>> {
        let Some(filter) = &step.filter else { return Ok(BTreeSet::new()) };
        let made = &step.fingerprint_column;
        let mut cleared = match self.has_column(made) {
            true => self.rows(&format!("`{made}` IS NOT NULL AND NOT coalesce({filter}, false)")).await?,
            false => BTreeSet::new(),
        };
        // A row that was replaced since it failed has no fingerprint.
        let failed = self.failed_rows(step.label()).await?;
        let applicable = self.applicable(step, failed.clone()).await?;
        cleared.extend(failed.difference(&applicable));
        Ok(cleared)
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
