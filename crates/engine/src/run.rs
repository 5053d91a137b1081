//! Running a recipe: steps in order, those of one table that can share a pass over its rows together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, Field};
use cenote_base::{ByteSize, Clock, Error, Progress, Resources, Result, Silent, SystemClock};
use cenote_operator::{Registry, Shape};
use cenote_scheduler::{Cancel, Job, JobOptions, Priority, Scheduler};
use cenote_store::{Filter, ROW_ID, ScanRequest, Snapshot, Store, Table};
use futures::TryStreamExt;

use crate::devices::Devices;
use crate::pass::stage::{GROUP_STEPS_MAX, fuse, requests};
use crate::pass::{derive, expand};
use crate::plan::{self, PlannedStep};
use crate::recipe::Recipe;
use crate::record::dependents;
use crate::record::error_table::ErrorTable;
use crate::record::keys;

/// What the properties begin with that say how columns and child tables were made.
const DERIVED_PREFIX: &str = "cenote.derived.";
/// In one of a child table: which table that is.
const CHILD_IDENTITY: &str = "into_identity";

/// Bounds of an [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Bytes of media that a row may hold.
    pub row_bytes_max: ByteSize,
    /// The budget of which the scheduler's memory is a share: an error says how much of it would do.
    pub budget_bytes: ByteSize,
    /// Dates the error table.
    pub clock: Arc<dyn Clock>,
    /// Devices for the kernels of operators; without any, all runs on the CPU.
    pub devices: Option<Devices>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            row_bytes_max: ByteSize::mib(32),
            budget_bytes: ByteSize::mib(1024),
            clock: Arc::new(SystemClock),
            devices: None,
        }
    }
}

/// How one run goes.
#[derive(Clone)]
pub struct RunOptions {
    /// Whether to process rows again that failed before and have not changed.
    pub retry_errors: bool,
    /// Process at most so many rows of each step, and write nothing.
    pub dry_run_rows: Option<usize>,
    /// Hears how far the run is; stages are named after what a step makes.
    pub progress: Arc<dyn Progress>,
    /// Stops the run; what was committed stays, and the next run goes on from there.
    pub cancel: Cancel,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { retry_errors: false, dry_run_rows: None, progress: Arc::new(Silent), cancel: Cancel::default() }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("retry_errors", &self.retry_errors)
            .field("dry_run_rows", &self.dry_run_rows)
            .finish_non_exhaustive()
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The table it read.
    pub table: String,
    /// Its operator.
    pub operator: String,
    /// What it makes: columns of that table, or a child table.
    pub target: String,
    /// Rows the table has.
    pub rows_total: usize,
    /// Rows the operator worked on.
    pub rows_processed: usize,
    /// Of those, rows that failed.
    pub rows_failed: usize,
    /// Rows the step no longer applies to, whose values were removed.
    pub rows_cleared: usize,
    /// Rows written to the child table, and rows removed from it.
    pub child_rows_written: usize,
    /// See `child_rows_written`.
    pub child_rows_removed: usize,
    /// Wall-clock seconds of the pass that the step was part of.
    pub seconds: f64,
}

/// What a run did, a step each.
#[derive(Debug, Clone, PartialEq)]
pub struct RunReport {
    /// The recipe's name.
    pub recipe: String,
    /// In the recipe's order.
    pub steps: Vec<StepReport>,
}

/// Steps that run as one task over a piece of a table's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct StagePlan {
    /// The table it reads.
    pub table: String,
    /// Its operators, in order.
    pub operators: Vec<&'static str>,
    /// What each task asks for.
    pub resources: Resources,
}

/// Runs recipes over the tables of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    pub(crate) scheduler: Scheduler,
    pub(crate) options: EngineOptions,
}

/// Consecutive steps over one table that share a pass.
pub(crate) struct Group {
    pub(crate) table: Table,
    /// Whose work its tasks are.
    pub(crate) job: Job,
    pub(crate) steps: Vec<Arc<PlannedStep>>,
}

/// The rows a group works on.
pub(crate) struct Work {
    pub(crate) snapshot: Snapshot,
    pub(crate) rows_total: usize,
    /// For each step, the row ids it must process, and those whose values must go.
    pub(crate) stale: Vec<Arc<BTreeSet<u64>>>,
    pub(crate) cleared: Vec<BTreeSet<u64>>,
    /// Failures on record before this run, by step label.
    pub(crate) recorded: BTreeMap<String, BTreeSet<String>>,
}

impl Engine {
    /// An engine over `store` that knows the operators of `registry` and runs them on `scheduler`.
    pub fn new(store: Store, registry: Arc<Registry>, scheduler: Scheduler, options: EngineOptions) -> Self {
        Self { store, registry, scheduler, options }
    }

    /// Checks `recipe` against tables and operators; runs nothing.
    ///
    /// # Errors
    /// The first thing that does not fit, with its line in the recipe.
    pub async fn check(&self, recipe: &Recipe) -> Result<()> {
        let planned = plan::plan(recipe, &self.store, &self.registry).await?;
        self.check_room(&planned)
    }

    /// Refuses what memory has no room for, before anything runs.
    fn check_room(&self, planned: &[Arc<PlannedStep>]) -> Result<()> {
        group(planned).into_iter().try_for_each(|range| self.room(&planned[range]).map(drop))
    }

    /// What `recipe` would run as one task, in order; runs nothing.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub async fn stages(&self, recipe: &Recipe) -> Result<Vec<StagePlan>> {
        let planned = plan::plan(recipe, &self.store, &self.registry).await?;
        let stages = group(&planned).into_iter().flat_map(|range| {
            let steps = &planned[range];
            let requests = requests(steps, self.options.devices.as_ref());
            fuse(&requests, self.task_bytes_max()).into_iter().map(|(range, resources)| StagePlan {
                table: steps[0].table.clone(),
                operators: steps[range].iter().map(|step| step.operator.definition.name).collect(),
                resources,
            })
        });
        Ok(stages.collect())
    }

    /// Runs `recipe`: checks all of it, then brings every step's outputs up to date.
    ///
    /// Each commit leaves the tables consistent: a value and its fingerprint are written together. When the run is
    /// cancelled or fails, what was committed counts, and the next run goes on from there.
    pub async fn run(&self, recipe: &Recipe, options: &RunOptions) -> Result<RunReport> {
        let planned = plan::plan(recipe, &self.store, &self.registry).await?;
        self.check_room(&planned)?;
        // Whoever waits for an answer goes first.
        let backfill = JobOptions::new(&recipe.name).priority(Priority::Backfill);
        let job = self.scheduler.job(backfill);
        let mut steps = Vec::with_capacity(planned.len());
        for range in group(&planned) {
            options.cancel.check()?;
            let start = Instant::now();
            let numbers: Vec<usize> = range.collect();
            let members: Vec<Arc<PlannedStep>> = numbers.iter().map(|number| Arc::clone(&planned[*number])).collect();
            let table = match self.store.table(&members[0].table).await {
                // A dry run makes no child tables, so steps over them have nothing to read.
                Err(_) if options.dry_run_rows.is_some() => continue,
                table => table?,
            };
            let group = Group { table, job: job.clone(), steps: members };
            if options.dry_run_rows.is_none() {
                self.prepare(&group, &planned).await?;
            }
            let Some(mut work) = self.stale(&group, options).await? else { continue };
            if let Some(rows) = options.dry_run_rows {
                work.limit(rows);
            }
            let errors = ErrorTable::new(&self.store, group.table.name(), &work.snapshot);
            let mut reports = match &group.steps[..] {
                [step] if step.operator.definition.shape == Shape::OneToMany => {
                    vec![expand::run(self, &group, step, work, options).await?]
                }
                _ => derive::run(self, &group, work, options).await?,
            };
            if options.dry_run_rows.is_none() {
                errors.forget_deleted(&group.table).await?;
            }
            for report in &mut reports {
                report.seconds = start.elapsed().as_secs_f64();
            }
            steps.extend(reports);
        }
        Ok(RunReport { recipe: recipe.name.clone(), steps })
    }

    /// Makes child tables, adds the columns that the group will fill, and records which fingerprints each column's
    /// change voids.
    async fn prepare(&self, group: &Group, planned: &[Arc<PlannedStep>]) -> Result<()> {
        let children = self.prepare_children(group).await?;
        self.void_changed(group).await?;
        let snapshot = group.table.snapshot().await?;
        let missing = |name: &str| snapshot.full_schema().field_with_name(name).is_err();
        let mut fields: Vec<Field> = Vec::new();
        for step in &group.steps {
            fields.push(Field::new(&step.fingerprint_column, DataType::Int64, true));
            if step.child.is_none() {
                fields.extend(step.outputs.iter().cloned());
            }
        }
        fields.retain(|field| missing(field.name()));
        if !fields.is_empty() {
            group.table.add_own_columns(&fields).await?;
        }

        dependents::register(&group.table, planned).await?;
        let mut properties = BTreeMap::new();
        let mut set = |name: String, value: serde_json::Value| {
            let value = value.to_string();
            if snapshot.properties().get(&name) != Some(&value) {
                properties.insert(name, Some(value));
            }
        };
        for step in &group.steps {
            let definition = &step.operator.definition;
            let mut made = serde_json::json!({
                "operator": definition.name,
                "version": definition.version,
                "params": step.operator.params,
                "inputs": step.inputs,
                "outputs": step.outputs.iter().map(Field::name).collect::<Vec<_>>(),
                "where": step.filter,
                "into": step.child.as_ref().map(|child| &child.table),
                "fingerprint": step.fingerprint.to_string(),
            });
            if let Some(child) = children.get(step.label()) {
                made[CHILD_IDENTITY] = child.to_string().into();
            }
            set(format!("{DERIVED_PREFIX}{}", step.label()), made);
        }
        if !properties.is_empty() {
            group.table.set_properties(properties).await?;
        }
        Ok(())
    }

    /// Makes the child tables of the group: their identities, by the labels of their steps. Where the table that had
    /// the children is gone, no parent has any.
    async fn prepare_children(&self, group: &Group) -> Result<BTreeMap<String, u64>> {
        let mut children = BTreeMap::new();
        for step in &group.steps {
            let Some(child) = &step.child else { continue };
            let (identity, is_new) = expand::ensure_child(&self.store, step, child).await?;
            children.insert(step.label().to_owned(), identity);
            let snapshot = group.table.snapshot().await?;
            let made = made_before(&snapshot, step);
            let former = made.as_ref().and_then(|made| made[CHILD_IDENTITY].as_str());
            let is_another = former.map_or(is_new, |former| former != identity.to_string());
            if is_another && snapshot.full_schema().field_with_name(&step.fingerprint_column).is_ok() {
                group.table.drop_columns(&[&step.fingerprint_column]).await?;
            }
        }
        Ok(children)
    }

    /// Takes the fingerprints off steps that read other columns than before, or whose outputs somebody dropped.
    async fn void_changed(&self, group: &Group) -> Result<()> {
        let snapshot = group.table.snapshot().await?;
        let has = |name: &str| snapshot.full_schema().field_with_name(name).is_ok();
        for step in group.steps.iter().filter(|step| has(&step.fingerprint_column)) {
            let before = made_before(&snapshot, step);
            let reads_others = before.is_some_and(|made| made["inputs"] != serde_json::json!(step.inputs));
            let lacks_outputs = step.child.is_none() && !step.outputs.iter().all(|output| has(output.name()));
            if reads_others || lacks_outputs {
                group.table.drop_columns(&[&step.fingerprint_column]).await?;
            }
        }
        Ok(())
    }

    /// Which rows each step of the group must process; `None` in a dry run whose inputs are not there yet.
    pub(crate) async fn stale(&self, group: &Group, options: &RunOptions) -> Result<Option<Work>> {
        let snapshot = group.table.snapshot().await?;
        let has = |name: &String| snapshot.full_schema().field_with_name(name).is_ok();
        if options.dry_run_rows.is_some() && !group.steps.iter().flat_map(|step| &step.inputs).all(has) {
            return Ok(None);
        }
        let recorded = ErrorTable::new(&self.store, group.table.name(), &snapshot).recorded().await?;
        let mut work = Work {
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
                let retried = work.failed_rows(step.label()).await?;
                Arc::make_mut(&mut work.stale[number]).extend(retried);
            }
        }
        work.follow_inputs(group).await?;
        Ok(Some(work))
    }
}

/// What the table says of the step that made the outputs of `step` before.
fn made_before(snapshot: &Snapshot, step: &PlannedStep) -> Option<serde_json::Value> {
    let made = snapshot.properties().get(&format!("{DERIVED_PREFIX}{}", step.label()))?;
    serde_json::from_str(made).ok()
}

impl Work {
    async fn rows(&self, filter: &str) -> Result<BTreeSet<u64>> {
        self.matching(filter.into()).await
    }

    async fn matching(&self, filter: Filter) -> Result<BTreeSet<u64>> {
        let request = ScanRequest::default().columns([""; 0]).filter(filter).with_row_id();
        let mut stream = self.snapshot.scan(&request).await?;
        let mut rows = BTreeSet::new();
        while let Some(batch) = stream.try_next().await? {
            let ids = batch.column_by_name(ROW_ID).and_then(|column| {
                arrow::array::AsArray::as_primitive_opt::<arrow::datatypes::UInt64Type>(column.as_ref())
            });
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

    /// A step that reads what another step of the group makes anew for a row must process that row too.
    async fn follow_inputs(&mut self, group: &Group) -> Result<()> {
        for number in 0..group.steps.len() {
            let step = &group.steps[number];
            let mut inherited = BTreeSet::new();
            for (earlier, other) in group.steps[..number].iter().enumerate() {
                if other.outputs.iter().any(|output| step.inputs.contains(output.name())) {
                    inherited.extend(self.stale[earlier].iter().copied());
                }
            }
            if let Some(filter) = step.filter.as_deref().filter(|_| !inherited.is_empty()) {
                let applies = self.rows(filter).await?;
                inherited.retain(|row| applies.contains(row));
            }
            Arc::make_mut(&mut self.stale[number]).extend(inherited);
        }
        Ok(())
    }

    fn limit(&mut self, rows: usize) {
        for stale in &mut self.stale {
            *stale = Arc::new(stale.iter().copied().take(rows).collect());
        }
        self.cleared.iter_mut().for_each(BTreeSet::clear);
    }

    /// The report of a step before it ran.
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
}

/// Ranges of consecutive steps that share a pass: one table, row-wise, and no predicate over what the pass itself
/// makes.
fn group(planned: &[Arc<PlannedStep>]) -> Vec<std::ops::Range<usize>> {
    let alone = |step: &Arc<PlannedStep>| step.child.is_some();
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for (number, step) in planned.iter().enumerate() {
        let joins = ranges.last().is_some_and(|range| {
            let members = &planned[range.clone()];
            let filtered_by_member = step.filter.as_deref().is_some_and(|filter| {
                let made = members.iter().flat_map(|member| &member.outputs);
                made.into_iter().any(|output| mentions(filter, output.name()))
            });
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

/// Whether `name` stands in the predicate as a word of its own. A word inside a string literal counts too: that only
/// costs a pass.
fn mentions(predicate: &str, name: &str) -> bool {
    predicate.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}
