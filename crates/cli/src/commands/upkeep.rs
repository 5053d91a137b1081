//! `cenote compact`.

use std::time::Duration;

use cenote_runtime::{ByteSize, Lake, Result};

use crate::{output, session};

pub async fn run(lake: &Lake, table: Option<&str>, purge: bool, every: Option<u64>) -> Result<()> {
    if let Some(seconds) = every {
        return watch(lake, Duration::from_secs(seconds)).await;
    }
    let names = match table {
        Some(name) => vec![name.to_owned()],
        None => lake.tables().await?,
    };
    for name in names {
        let removed = lake.table(&name).await?.compact(purge).await?;
        let held = match removed.held {
            0 => String::new(),
            1 => "; an old version is left that somebody reads".to_owned(),
            held => format!("; {held} old versions are left that somebody reads"),
        };
        output::note(&format!(
            "compacted {name}: removed {} old versions and {} of files; versions from {} on can be read{held}",
            removed.bases,
            ByteSize(removed.bytes),
            removed.oldest
        ));
    }
    Ok(())
}

/// Does what is due, again and again, until Ctrl-C or SIGTERM.
async fn watch(lake: &Lake, pause: Duration) -> Result<()> {
    output::note(&format!("looking after {} every {} s; stop with Ctrl-C", lake.location().display(), pause.as_secs()));
    loop {
        match lake.tend().await {
            Ok(done) => {
                for (table, reason) in done {
                    output::note(&format!("{table}: folded, because {reason}"));
                }
            }
            // The next round tries again; what was written is safe.
            Err(error) => output::note(&format!("upkeep failed: {error}")),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            stopped = session::stop_asked() => return stopped,
        }
    }
}
