//! The command `cenote run`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use cenote_runtime::{ByteSize, Context, Lake, Recipe, Resources, Result, RunOptions, RunReport, StagePlan, both};

use crate::arguments::Arguments;
use crate::{output, report, session};

/// Runs the recipe at `path`, or with `dry_run` only shows what it would do to that many rows of each step. `trace` is
/// the file that gets the timeline of the work.
pub async fn run(
    arguments: &Arguments,
    path: &Path,
    dry_run: Option<usize>,
    retry_errors: bool,
    trace: Option<&Path>,
) -> Result<()> {
    let text = tokio::fs::read_to_string(path).await.context(|| format!("read recipe {}", path.display()))?;
    let recipe = Recipe::from_yaml(&text, &path.display().to_string())?;
    let options = session::run_options(session::reporter(arguments));
    let options = RunOptions { dry_run_rows: dry_run, retry_errors, ..options };
    // Created before the run, so that a path that cannot be written fails at once and not after the work.
    let mut trace = trace.map(|path| File::create(path).context(|| format!("make {}", path.display()))).transpose()?;
    let run = async |lake: &Lake| {
        if dry_run.is_some() {
            lake.stages(&recipe).await?.iter().for_each(show_stage);
        }
        let report = lake.run(&recipe, &options).await;
        let traced: Result<()> = trace.as_mut().map_or(Ok(()), |file| {
            let mut file = BufWriter::new(file);
            lake.scheduler().write_trace(&mut file)?;
            Ok(file.flush()?)
        });
        both(report, traced.context(|| "write the trace"))
    };
    let done = session::with_lake(arguments, run).await?;
    report::run(&done);
    if dry_run.is_some() {
        let skipped = recipe.steps.len().saturating_sub(done.steps.len());
        if skipped > 0 {
            output::note(&format!("skipped {}, whose input only a real run writes", output::count(skipped, "step")));
        }
        output::note("dry run: nothing was written");
    } else {
        failures(&done);
    }
    Ok(())
}

/// Notes the operators of one task and the resources it requests.
fn show_stage(stage: &StagePlan) {
    let Resources { cpu, memory_bytes, named, device } = &stage.resources;
    let mut requests = format!("{cpu} core{}", if *cpu == 1.0 { "" } else { "s" });
    if *memory_bytes > 0 {
        requests.push_str(&format!(", {}", ByteSize(*memory_bytes)));
    }
    named.iter().for_each(|(name, units)| requests.push_str(&format!(", {units} {name}")));
    if let Some(share) = device {
        requests.push_str(&format!(", a share of a {}", share.class));
    }
    output::note(&format!("{:<12} one task: {}; {requests}", stage.table, stage.operators.join(", ")));
}

/// Notes how many rows failed, and the command that shows why.
fn failures(report: &RunReport) {
    let mut tables: BTreeMap<&str, usize> = BTreeMap::new();
    for step in report.steps.iter().filter(|step| step.rows_failed > 0) {
        *tables.entry(&step.table).or_default() += step.rows_failed;
    }
    for (table, failed) in tables {
        output::note(&format!("{failed} failed in {table}; the run went on, and `cenote errors {table}` says why"));
    }
}
