//! Admission, execution and retry of work.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Error, Random, Resources, Result};
use tokio::sync::oneshot;

use crate::actor::Actor;
use crate::cancel::Cancel;
use crate::ledger::{Grant, Ledger};
use crate::pool::Pool;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What a [`Scheduler`] may hand out.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// CPU cores, at least one thread each.
    pub cpu_cores: f32,
    /// Bytes of memory over all work.
    pub memory_max: ByteSize,
    /// Units of named resources.
    pub named: BTreeMap<String, u32>,
    /// Seeds the jitter of retries.
    pub seed: u64,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cpu_cores: cores as f32, memory_max: ByteSize::mib(1024), named: BTreeMap::new(), seed: 0 }
    }
}

/// How a piece of work is run.
#[derive(Debug, Clone)]
pub struct WorkOptions {
    /// Names the work in errors.
    pub name: String,
    /// What it holds: a task while it runs; an actor memory and named units while it lives, CPU while it runs.
    pub resources: Resources,
    /// How often it is tried again after an error that [may pass](cenote_base::ErrorKind::is_retryable).
    pub retries_max: u32,
    /// Stops it.
    pub cancel: Cancel,
}

impl WorkOptions {
    /// Work on one core, without retries.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), resources: Resources::default(), retries_max: 0, cancel: Cancel::default() }
    }

    /// The same with `resources`.
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// The same with at most `retries` retries.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries_max = retries;
        self
    }

    /// The same, stopped by `cancel`.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }
}

/// What running work can ask.
#[derive(Debug, Clone)]
pub struct Context {
    /// Raised when the work should stop: long loops [check](Cancel::check) it.
    pub cancel: Cancel,
    /// 0 on the first try.
    pub attempt: u32,
}

/// A moment's view of a [`Scheduler`].
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// What there is.
    pub total: Resources,
    /// What is held.
    pub used: Resources,
}

/// Hands out resources and runs work on CPU threads of its own. Clones share them.
#[derive(Debug, Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    pool: Pool,
    total: Resources,
    seed: u64,
}

impl Scheduler {
    /// A scheduler with `options.cpu_cores` threads, rounded up.
    ///
    /// # Errors
    /// `InvalidInput` for less than a thousandth of a core; `ResourceExhausted` when threads cannot be started.
    pub fn new(options: SchedulerOptions) -> Result<Self> {
        if !(0.001..=4096.0).contains(&options.cpu_cores) {
            return Err(Error::invalid_input(format!(
                "cpu_cores must be from 0.001 to 4096, found {}",
                options.cpu_cores
            )));
        }
        let total =
            Resources { cpu: options.cpu_cores, memory_bytes: options.memory_max.0, named: options.named.clone() };
        let pool = Pool::new(options.cpu_cores.ceil() as usize)?;
        let shared = Shared { ledger: Ledger::new(&total), pool, total, seed: options.seed };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What there is and what is held.
    pub fn usage(&self) -> Usage {
        Usage { total: self.shared.total.clone(), used: self.shared.ledger.used() }
    }

    /// Waits for the resources, runs `work` on a CPU thread, and tries again as `options` allows.
    ///
    /// # Errors
    /// `ResourceExhausted` at once for a request that can never be met; `Cancelled`; `Internal` when the work panics; else
    /// the work's own error. Dropping the future before the work started takes it back; once started it runs to its end.
    pub async fn run<T, F>(&self, options: &WorkOptions, mut work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Context) -> Result<T> + Send + 'static,
    {
        let mut backoff = BACKOFF_FIRST;
        let mut jitter = Random::new(self.shared.seed);
        let mut attempt = 0;
        loop {
            let grant = self.acquire(&options.resources, &options.cancel).await?;
            let context = Context { cancel: options.cancel.clone(), attempt };
            let (returned, result) = self
                .execute(&options.name, grant, move || {
                    let result = work(&context);
                    (work, result)
                })
                .await?;
            work = returned;
            match result {
                Err(error) if error.kind().is_retryable() && attempt < options.retries_max => {
                    attempt += 1;
                    let pause = backoff.mul_f64(0.5 + jitter.unit());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = options.cancel.cancelled() => return Err(error),
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                result => return result,
            }
        }
    }

    /// An actor whose state `build` makes, on a CPU thread, now and again after a call that panicked.
    pub async fn actor<S, F>(&self, options: WorkOptions, build: F) -> Result<Actor<S>>
    where
        S: Send + 'static,
        F: Fn() -> Result<S> + Send + Sync + 'static,
    {
        Actor::start(self.clone(), options, build).await
    }

    pub(crate) async fn acquire(&self, resources: &Resources, cancel: &Cancel) -> Result<Grant> {
        cancel.check()?;
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::cancelled("the work was cancelled while it waited for resources")),
            grant = self.shared.ledger.acquire(resources) => grant,
        }
    }

    /// Runs `work` on a CPU thread; `grant` is given back when it ends, even if nobody waits any more.
    pub(crate) async fn execute<T, F>(&self, name: &str, grant: Grant, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.shared.pool.spawn(Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            drop(grant);
            // Nobody waits when the caller was dropped: the result is not wanted.
            let _ = sender.send(outcome);
        }))?;
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(Error::internal(format!("`{name}` panicked: {}", panic_text(panic.as_ref())))),
            Err(_) => Err(Error::internal(format!("`{name}` was lost with its CPU thread"))),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
