//! `cenote sql`.

use cenote_runtime::{Lake, Result};
use futures::TryStreamExt;

use crate::arguments::OutputFormat;
use crate::output::Printer;

pub async fn run(lake: &Lake, query: &str, format: OutputFormat) -> Result<()> {
    let result = lake.sql(query).await?;
    let mut printer = Printer::new(format, &result.schema)?;
    let mut batches = result.stream;
    while let Some(batch) = batches.try_next().await? {
        printer.print(&batch)?;
    }
    printer.finish()
}
