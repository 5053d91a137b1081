//! `cenote changes`.

use std::time::Duration;

use cenote_runtime::{Lake, Result, Version};

use crate::arguments::OutputFormat;
use crate::output::Printer;

/// Interval between polls of a feed that is followed.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub async fn run(lake: &Lake, name: &str, from: Option<u64>, follow: bool, consumer: Option<&str>) -> Result<()> {
    let table = lake.table(name).await?;
    let stands = match consumer {
        Some(consumer) => table.consumers().await?.get(consumer).copied(),
        None => None,
    };
    let oldest = table.snapshot().await?.oldest_version();
    let from = from.map(Version).or(stands).unwrap_or(oldest);
    if let Some(consumer) = consumer {
        // Before reading, so that no change is collected while it is being read.
        table.set_consumer(consumer, Some(from)).await?;
    }
    let mut feed = table.changes(from).await?;
    loop {
        while let Some(changes) = feed.next().await? {
            let mut printer = Printer::new(OutputFormat::Json, changes.schema_ref())?;
            printer.print(&changes)?;
            printer.finish()?;
        }
        if let Some(consumer) = consumer {
            table.set_consumer(consumer, Some(feed.version())).await?;
        }
        if !follow {
            return Ok(());
        }
        let seen = feed.version();
        while table.snapshot().await?.version() == seen {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
