//! `cenote ingest`.

use std::path::PathBuf;

use cenote_runtime::{IngestReport, Result};

use crate::arguments::Arguments;
use crate::{output, session};

pub async fn run(arguments: &Arguments, table: &str, paths: &[PathBuf]) -> Result<()> {
    let reporter = session::reporter(arguments);
    let report = session::with_lake(arguments, async |lake| lake.ingest(table, paths, reporter.as_ref()).await).await?;
    show(table, &report);
    Ok(())
}

/// Says what an ingest did.
pub fn show(table: &str, report: &IngestReport) {
    for (path, reason) in &report.skipped {
        output::note(&format!("skipped {}: {reason}", path.display()));
    }
    output::note(&format!(
        "{table}: {} files, {} new, {} changed, {} unchanged, {} skipped",
        report.files,
        report.inserted,
        report.updated,
        report.unchanged,
        report.skipped.len()
    ));
}
