//! Kernels: the part of an operator's work that a device may take over.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use cenote_base::{Error, Result};

use crate::worker::{Output, Rows, Worker};

/// The second half of an operator's work, which a device may do instead of the CPU: it turns a batch of prepared rows
/// into the outputs, row for row.
#[derive(Clone)]
pub struct Kernel {
    /// The name of the kernel on devices.
    pub name: &'static str,
    /// The schema of the prepared rows.
    pub input: SchemaRef,
    /// Starts a worker that prepares rows: its output columns are the kernel's input.
    pub preparer: Arc<StartWorker>,
    /// Runs the kernel on the calling thread. A device agrees with it within a tolerance that the operator states.
    pub on_cpu: Arc<RunOnCpu>,
}

type StartWorker = dyn Fn() -> Result<Box<dyn Worker>> + Send + Sync;
type RunOnCpu = dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync;

impl Kernel {
    /// Starts a worker that prepares rows and runs the kernel on the same thread.
    ///
    /// # Errors
    /// As [`preparer`](Self::preparer).
    pub fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(KernelWorker { kernel: self.clone(), worker: (self.preparer)()? }))
    }

    /// Makes the kernel's input from the `prepared` columns.
    ///
    /// # Errors
    /// `Internal` when the columns are not those of [`input`](Self::input).
    pub fn batch(&self, prepared: Vec<ArrayRef>) -> Result<RecordBatch> {
        let what = || format!("prepare rows for kernel `{}`", self.name);
        RecordBatch::try_new(Arc::clone(&self.input), prepared)
            .map_err(|source| Error::internal(what()).with_source(source))
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).field("input", &self.input).finish_non_exhaustive()
    }
}

/// A worker that prepares rows and runs the kernel on them, on one thread.
struct KernelWorker {
    kernel: Kernel,
    worker: Box<dyn Worker>,
}

impl Worker for KernelWorker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let prepared = self.worker.process(rows)?;
        let output = (self.kernel.on_cpu)(&self.kernel.batch(prepared.columns)?)?;
        Ok(Output { columns: output.columns().to_vec(), ..prepared })
    }
}
