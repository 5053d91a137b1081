//! `cenote run`.

use std::path::Path;

use cenote_runtime::{Context, Recipe, Result, RunOptions, RunReport};

use crate::arguments::Arguments;
use crate::{output, session};

pub async fn run(arguments: &Arguments, path: &Path, dry_run: Option<usize>, retry_errors: bool) -> Result<()> {
    let text = tokio::fs::read_to_string(path).await.context(|| format!("read recipe {}", path.display()))?;
    let recipe = Recipe::from_yaml(&text, &path.display().to_string())?;
    let lake = session::open(arguments).await?;
    let options = session::run_options(session::reporter(arguments));
    let report = lake.run(&recipe, &RunOptions { dry_run_rows: dry_run, retry_errors, ..options }).await?;
    show(&report);
    let failed = report.steps.iter().map(|step| step.rows_failed).sum::<usize>();
    if failed > 0 {
        output::note(&format!("{failed} values could not be made; `cenote errors TABLE` says why"));
    }
    if dry_run.is_some() {
        output::note("dry run: nothing was written");
    }
    Ok(())
}

/// Says what each step did.
pub fn show(report: &RunReport) {
    for step in &report.steps {
        let mut line =
            format!("{:<12} {:<18} {} of {} rows", step.table, step.operator, step.rows_processed, step.rows_total);
        let mut add = |count: usize, what: &str| {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        };
        add(step.rows_failed, "failed");
        add(step.rows_cleared, "cleared");
        add(step.child_rows_written, &format!("written to {}", step.target));
        add(step.child_rows_removed, &format!("removed from {}", step.target));
        output::note(&line);
    }
}
