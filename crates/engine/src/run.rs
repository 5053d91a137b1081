//! Running a recipe: its groups of steps in order, each in one pass over its table.

use std::sync::Arc;
use std::time::Instant;

use cenote_base::{ErrorKind, Result};
use cenote_operator::Shape;
use cenote_scheduler::{JobOptions, Priority};

use crate::engine::{Engine, RunOptions};
use crate::group::StepGroup;
use crate::group_work::GroupWork;
use crate::pass::room::Room;
use crate::pass::{derive, expand, fusion};
use crate::plan::{self, PlannedStep};
use crate::prepare::prepare;
use crate::recipe::Recipe;
use crate::record::error_table::ErrorTable;
use crate::report::{RunReport, StagePlan};

impl Engine {
    /// Checks `recipe` against tables and operators; runs nothing.
    ///
    /// # Errors
    /// The first thing that does not fit, with its line in the recipe.
    pub async fn check(&self, recipe: &Recipe) -> Result<()> {
        let planned = plan::plan(recipe, self.store(), self.registry()).await?;
        self.check_room(&planned)
    }

    /// Refuses steps whose pass does not fit into memory.
    fn check_room(&self, planned: &[Arc<PlannedStep>]) -> Result<()> {
        StepGroup::split(planned).into_iter().try_for_each(|range| Room::of(self, &planned[range]).map(drop))
    }

    /// Returns the steps of `recipe` that would run as one task, in order; runs nothing.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub async fn stages(&self, recipe: &Recipe) -> Result<Vec<StagePlan>> {
        let planned = plan::plan(recipe, self.store(), self.registry()).await?;
        let stages = StepGroup::split(&planned).into_iter().flat_map(|range| {
            let steps = &planned[range];
            fusion::fused_steps(self, steps).into_iter().map(|fused| StagePlan {
                table: steps[0].table.clone(),
                operators: steps[fused.steps].iter().map(|step| step.operator.definition.name).collect(),
                resources: fused.resources,
            })
        });
        Ok(stages.collect())
    }

    /// Runs `recipe`: checks all of it, then brings every step's outputs up to date.
    ///
    /// Each commit leaves the tables consistent: a value and its fingerprint are written together. When the run is
    /// cancelled or fails, what was committed stays, and the next run resumes from there.
    ///
    /// # Errors
    /// As [`check`](Self::check), before anything is written; `Cancelled`; or what reading, an operator or writing met.
    pub async fn run(&self, recipe: &Recipe, options: &RunOptions) -> Result<RunReport> {
        let planned = plan::plan(recipe, self.store(), self.registry()).await?;
        self.check_room(&planned)?;
        // A caller who waits for an answer goes first.
        let job = self.scheduler().job(JobOptions::new(&recipe.name).priority(Priority::Backfill));
        let is_dry = options.dry_run_rows.is_some();
        let mut steps = Vec::with_capacity(planned.len());
        for range in StepGroup::split(&planned) {
            options.cancel.check()?;
            let start = Instant::now();
            let members: Vec<Arc<PlannedStep>> = planned[range].to_vec();
            let table = match self.store().table(&members[0].table).await {
                // A dry run creates no child tables, so steps over them have nothing to read.
                Err(error) if is_dry && error.kind() == ErrorKind::NotFound => continue,
                table => table?,
            };
            let group = StepGroup { table, job: job.clone(), steps: members };
            if !is_dry {
                prepare(self.store(), &group, &planned).await?;
            }
            let Some(work) = GroupWork::find(self, &group, options).await? else { continue };
            let errors = ErrorTable::new(self.store(), group.table.name(), &work.snapshot);
            let mut reports = match &group.steps[..] {
                [step] if step.operator.definition.shape == Shape::OneToMany => {
                    vec![expand::run(self, &group, step, work, options).await?]
                }
                _ => derive::run(self, &group, work, options).await?,
            };
            if !is_dry {
                errors.forget_deleted(&group.table).await?;
            }
            for report in &mut reports {
                report.seconds = start.elapsed().as_secs_f64();
            }
            steps.extend(reports);
        }
        Ok(RunReport { recipe: recipe.name.clone(), steps })
    }
}
