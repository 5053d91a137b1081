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
            1 => "; readers hold 1 old version".to_owned(),
            held => format!("; readers hold {held} old versions"),
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

/// Does the upkeep that is due every `pause`, until Ctrl-C or SIGTERM.
async fn watch(lake: &Lake, pause: Duration) -> Result<()> {
    let (lake_location, seconds) = (lake.location().display(), pause.as_secs());
    output::note(&format!("doing the upkeep of {lake_location} every {seconds} s; stop with Ctrl-C"));
    loop {
        match lake.tend().await {
            Ok(done) => {
                for tended in done {
                    output::note(&format!("{}: folded, because {}", tended.table, tended.reason));
                }
            }
            // The next round tries again; acknowledged writes are safe.
            Err(error) => output::note(&format!("upkeep failed: {error}")),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            stopped = session::stop_asked() => return stopped,
        }
    }
}
