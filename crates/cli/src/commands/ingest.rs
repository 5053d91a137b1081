//! `cenote ingest`.

use std::path::PathBuf;

use cenote_runtime::{IngestReport, Result};

use crate::arguments::Arguments;
use crate::{output, session};

pub async fn run(arguments: &Arguments, table: &str, paths: &[PathBuf]) -> Result<()> {
    let lake = session::open(arguments).await?;
    let report = lake.ingest(table, paths, session::reporter(arguments).as_ref()).await?;
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
