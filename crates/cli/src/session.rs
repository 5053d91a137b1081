//! What every command shares: the open lake, and Ctrl-C.

use std::sync::Arc;

use cenote_runtime::{Cancel, Lake, LakeOptions, Progress, Result, RunOptions};

use crate::arguments::Arguments;
use crate::output;
use crate::progress::progress;

/// Opens the lake that the arguments name.
pub async fn open(arguments: &Arguments) -> Result<Lake> {
    Lake::open(&arguments.lake, options(arguments)).await
}

/// The lake options that the arguments set.
pub fn options(arguments: &Arguments) -> LakeOptions {
    LakeOptions { memory_max: arguments.memory, cpu_cores: arguments.cpus, ..LakeOptions::default() }
}

/// Run options whose cancel flag the first Ctrl-C raises.
pub fn run_options(progress: Arc<dyn Progress>) -> RunOptions {
    let cancel = Cancel::default();
    let raised = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            output::note("stopping; what is committed stays, and the next run goes on from there");
            raised.cancel();
        }
    });
    RunOptions { progress, cancel, ..RunOptions::default() }
}

/// Progress as the arguments want it.
pub fn reporter(arguments: &Arguments) -> Arc<dyn Progress> {
    progress(arguments.quiet)
}
