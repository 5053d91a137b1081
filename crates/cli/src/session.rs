//! The parts that commands share: the open lake, its options, and Ctrl-C.

use std::sync::Arc;
use std::time::Duration;

use cenote_runtime::{ByteSize, Cancel, DeviceChoice, Lake, LakeOptions, Progress, Result, RunOptions, both};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::arguments::{Arguments, Command, DeviceArgument, IndexCommand};
use crate::monitor::{self, Watched};
use crate::output;
use crate::progress::progress;

/// Runs `work` on the lake that the arguments name.
pub async fn with_lake<T>(arguments: &Arguments, work: impl AsyncFnOnce(&Lake) -> Result<T>) -> Result<T> {
    let lake = Lake::open(&arguments.lake, options(arguments)).await?;
    let _monitor = monitor::serve(&lake, arguments.metrics).await?;
    let outcome = work(&lake).await;
    // After a failure too: the next command must not wait for the right to write.
    both(outcome, lake.release().await)
}

/// Returns the lake options that the arguments set.
pub fn options(arguments: &Arguments) -> LakeOptions {
    let trace_max = match &arguments.command {
        Command::Run { trace: Some(_), .. } => TRACE_MAX,
        _ => ByteSize(0),
    };
    let device = match &arguments.command {
        Command::Run { device, .. } | Command::Index(IndexCommand::Create { device, .. }) => *device,
        _ => DeviceArgument::Cpu,
    };
    let device = match device {
        DeviceArgument::Auto => DeviceChoice::Auto,
        DeviceArgument::Cpu => DeviceChoice::Cpu,
        DeviceArgument::Gpu => DeviceChoice::Gpu,
        DeviceArgument::Software => DeviceChoice::Software,
    };
    LakeOptions::default()
        .memory_max(arguments.memory)
        .cache_max(arguments.cache)
        .cpus(arguments.cpus)
        .device(device)
        .trace_max(trace_max)
}

/// Memory for the timeline of a run, which holds the newest work.
const TRACE_MAX: ByteSize = ByteSize::mib(64);

/// Notified by the second Ctrl-C.
static IMPATIENCE: Notify = Notify::const_new();

/// Waits for Ctrl-C or SIGTERM.
pub async fn stop_asked() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
        _ = terminate.recv() => Ok(()),
    }
}

/// Waits for a second Ctrl-C, which asks not to wait for running work.
pub async fn impatience() {
    IMPATIENCE.notified().await;
}

/// Returns run options that the first Ctrl-C or SIGTERM cancels; the second ends the process without waiting for
/// running work.
pub fn run_options(progress: Arc<dyn Progress>) -> RunOptions {
    let cancel = Cancel::default();
    let raised = cancel.clone();
    tokio::spawn(async move {
        if stop_asked().await.is_ok() {
            output::note("stopping; what is committed stays, and the next run resumes there");
            raised.cancel();
        }
        if stop_asked().await.is_ok() {
            IMPATIENCE.notify_one();
        }
    });
    RunOptions { progress, cancel, ..RunOptions::default() }
}

/// Returns progress as the arguments ask for it.
pub fn reporter(arguments: &Arguments) -> Arc<dyn Progress> {
    Arc::new(Watched::new(progress(arguments.quiet, Duration::ZERO)))
}

/// Returns progress as [`reporter`] does, without lines for stages that take less than a second.
pub fn patient_reporter(arguments: &Arguments) -> Arc<dyn Progress> {
    Arc::new(Watched::new(progress(arguments.quiet, Duration::from_secs(1))))
}
