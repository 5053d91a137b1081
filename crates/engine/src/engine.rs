//! The engine: the store, operators and threads that recipes run on, and the options of both the engine and a run.

use std::fmt;
use std::sync::Arc;

use cenote_base::{ByteSize, Clock, Progress, Silent, SystemClock};
use cenote_operator::Registry;
use cenote_scheduler::{Cancel, Scheduler};
use cenote_store::Store;

use crate::devices::Devices;

/// Bounds of an [`Engine`].
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Bytes of media that a row may hold, at most.
    pub row_bytes_max: ByteSize,
    /// The whole memory budget, of which the scheduler's memory is a share. Errors state the budget that would suffice.
    pub budget_bytes: ByteSize,
    /// The clock that dates entries of the error table.
    pub clock: Arc<dyn Clock>,
    /// Devices for the kernels of operators. Without any, all work runs on the CPU.
    pub devices: Option<Devices>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            row_bytes_max: ByteSize::mib(32),
            budget_bytes: ByteSize::mib(1024),
            clock: Arc::new(SystemClock),
            devices: None,
        }
    }
}

/// Options of one run.
#[derive(Clone)]
pub struct RunOptions {
    /// Whether to process again the rows that failed before and have not changed since.
    pub retry_errors: bool,
    /// `Some` for a dry run, which writes nothing: the maximum number of rows to process per step.
    pub dry_run_rows: Option<usize>,
    /// The listener for the run's progress; stages are named after their table and operators.
    pub progress: Arc<dyn Progress>,
    /// The flag that stops the run. What was committed stays, and the next run resumes from there.
    pub cancel: Cancel,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { retry_errors: false, dry_run_rows: None, progress: Arc::new(Silent), cancel: Cancel::default() }
    }
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("retry_errors", &self.retry_errors)
            .field("dry_run_rows", &self.dry_run_rows)
            .finish_non_exhaustive()
    }
}

/// Runs recipes over the tables of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    options: EngineOptions,
}

impl Engine {
    /// Creates an engine over `store` that takes operators from `registry` and runs them on `scheduler`.
    pub fn new(store: Store, registry: Arc<Registry>, scheduler: Scheduler, options: EngineOptions) -> Self {
        Self { store, registry, scheduler, options }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub(crate) fn options(&self) -> &EngineOptions {
        &self.options
    }
}
