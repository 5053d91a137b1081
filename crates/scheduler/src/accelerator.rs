//! Devices with a thread of their own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{Error, Result};

/// A device that runs kernels on batches: a GPU, an FPGA, or software that stands for one.
///
/// It is opened, used and dropped on one thread, so it may keep contexts, streams and buffers that know their thread.
pub trait Accelerator {
    /// Runs the kernel called `kernel` on the rows of `input` and waits for its output.
    ///
    /// # Errors
    /// `NotFound` for a kernel it has not; `ResourceExhausted` when its memory does not suffice for so many rows.
    fn run(&mut self, kernel: &str, input: &RecordBatch) -> Result<RecordBatch>;
}

/// What opens a device on its thread.
pub type OpenDevice = Arc<dyn Fn() -> Result<Box<dyn Accelerator>> + Send + Sync>;

/// A device to schedule for.
#[derive(Clone)]
pub struct DeviceOptions {
    /// What requests call it, such as `gpu`.
    pub class: String,
    /// What there is to share out.
    pub memory_bytes: u64,
    /// Opens it; called once, on its thread, before [`Scheduler::new`](crate::Scheduler::new) returns.
    pub open: OpenDevice,
}

impl std::fmt::Debug for DeviceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = (&self.class, self.memory_bytes);
        f.debug_struct("DeviceOptions")
            .field("class", fields.0)
            .field("memory_bytes", &fields.1)
            .finish_non_exhaustive()
    }
}

type Kernel = Box<dyn FnMut(&RecordBatch) -> Result<RecordBatch>>;

/// A device made of functions: each drives the device that it stands for, or, in tests and examples, computes by itself.
#[derive(Default)]
pub struct KernelSet {
    kernels: HashMap<String, Kernel>,
}

impl KernelSet {
    /// The same device with one more kernel.
    pub fn with_kernel(
        mut self,
        name: impl Into<String>,
        kernel: impl FnMut(&RecordBatch) -> Result<RecordBatch> + 'static,
    ) -> Self {
        self.kernels.insert(name.into(), Box::new(kernel));
        self
    }
}

impl std::fmt::Debug for KernelSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelSet").field("kernels", &self.kernels.keys()).finish()
    }
}

impl Accelerator for KernelSet {
    fn run(&mut self, kernel: &str, input: &RecordBatch) -> Result<RecordBatch> {
        match self.kernels.get_mut(kernel) {
            Some(run) => run(input),
            None => Err(Error::not_found(format!(
                "the device has no kernel `{kernel}`; it has {:?}",
                self.kernels.keys().collect::<Vec<_>>()
            ))),
        }
    }
}
