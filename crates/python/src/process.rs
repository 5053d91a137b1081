//! Values that belong to one process: the async runtime, and everything with threads behind it.
//!
//! A fork copies memory and one thread. A runtime, lake or loader of the parent has lost its threads in the
//! child, and they may hold its locks for ever. So each is marked with its process: the child never touches the
//! parent's, not even to drop it, and makes its own.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use cenote_runtime::sync::Mutex;
use cenote_runtime::{Error, Result};
use pyo3::prelude::*;
use tokio::runtime::Runtime;

use crate::fault::raise;

/// Time between checks for Ctrl-C while waiting.
pub(crate) const SIGNAL_EVERY: Duration = Duration::from_millis(50);

/// A value of the process that made it. Another process cannot reach it, and never drops it.
pub(crate) struct Owned<T> {
    process: u32,
    value: ManuallyDrop<T>,
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: std::process::id(), value: ManuallyDrop::new(value) }
    }

    /// Returns the value, in the process that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        (self.process == std::process::id()).then(|| self.value.deref())
    }

    /// Returns the value, or in another process an error that names `what` it is.
    pub(crate) fn here(&self, what: &str) -> PyResult<&T> {
        self.get().ok_or_else(|| {
            raise(Error::unsupported(format!(
                "this {what} was opened before the process was forked: open it again here"
            )))
        })
    }
}

impl<T> Drop for Owned<T> {
    #[expect(unsafe_code, reason = "the value is dropped once, here, and nothing reads it afterwards")]
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // SAFETY: `value` is not used again, because `self` is being dropped.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

/// The runtime of this process. The lock is only held under the interpreter's lock, and is free whenever that is
/// released; so a fork, which happens under the interpreter's lock, finds it free.
static RUNTIME: Mutex<Option<Owned<Arc<Runtime>>>> = Mutex::new(None);

/// Returns the runtime of this process, which is made when it is first needed.
pub(crate) fn runtime(_attached: Python<'_>) -> Result<Arc<Runtime>> {
    let mut slot = RUNTIME.lock();
    if let Some(runtime) = slot.as_ref().and_then(Owned::get) {
        return Ok(Arc::clone(runtime));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("cenote")
        .enable_all()
        .build()
        .map_err(|error| Error::from(error).context("start the async runtime"))?;
    let runtime = Arc::new(runtime);
    *slot = Some(Owned::new(Arc::clone(&runtime)));
    Ok(runtime)
}

/// Waits for `work` without the interpreter's lock. Ctrl-C ends the wait and drops the work.
pub(crate) fn wait<T: Send>(py: Python<'_>, work: impl Future<Output = Result<T>> + Send) -> PyResult<T> {
    let runtime = runtime(py).map_err(raise)?;
    // Futures of storage are large, and Python's threads have small stacks on some systems.
    let mut work = Box::pin(work);
    py.detach(|| {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    done = &mut work => return done.map_err(raise),
                    () = tokio::time::sleep(SIGNAL_EVERY) => Python::attach(|py| py.check_signals())?,
                }
            }
        })
    })
}
