//! What every command shares: the open lake, and Ctrl-C.

use std::sync::Arc;

use cenote_runtime::{Cancel, Lake, LakeOptions, Progress, Result, RunOptions};
use tokio::sync::Notify;

use crate::arguments::Arguments;
use crate::output;
use crate::progress::progress;

/// Runs `work` on the lake that the arguments name.
pub async fn with_lake<T>(arguments: &Arguments, work: impl AsyncFnOnce(&Lake) -> Result<T>) -> Result<T> {
    let lake = Lake::open(&arguments.lake, options(arguments)).await?;
    let outcome = work(&lake).await;
    // Whatever came of it: the next command must not wait.
    lake.release().await?;
    outcome
}

/// The lake options that the arguments set.
pub fn options(arguments: &Arguments) -> LakeOptions {
    LakeOptions { memory_max: arguments.memory, cpu_cores: arguments.cpus, ..LakeOptions::default() }
}

/// Rung by the second Ctrl-C.
static IMPATIENCE: Notify = Notify::const_new();

/// Ends when a second Ctrl-C asks not to wait for work in hand.
pub async fn impatience() {
    IMPATIENCE.notified().await;
}

/// Run options whose cancel flag the first Ctrl-C raises; the second one does not wait for the work in hand.
pub fn run_options(progress: Arc<dyn Progress>) -> RunOptions {
    let cancel = Cancel::default();
    let raised = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            output::note("stopping; what is committed stays, and the next run goes on from there");
            raised.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            IMPATIENCE.notify_one();
        }
    });
    RunOptions { progress, cancel, ..RunOptions::default() }
}

/// Progress as the arguments want it.
pub fn reporter(arguments: &Arguments) -> Arc<dyn Progress> {
    progress(arguments.quiet)
}
