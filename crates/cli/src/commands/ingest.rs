//! `cenote ingest`.

use std::path::PathBuf;

use cenote_runtime::Result;

use crate::arguments::Arguments;
use crate::{report, session};

pub async fn run(arguments: &Arguments, table: &str, paths: &[PathBuf]) -> Result<()> {
    let reporter = session::reporter(arguments);
    let done = session::with_lake(arguments, async |lake| lake.ingest(table, paths, reporter.as_ref()).await).await?;
    report::ingest(table, &done);
    Ok(())
}
