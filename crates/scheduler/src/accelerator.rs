//! Devices, each of which is driven by a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use cenote_base::{Result, unknown};

/// A device that runs kernels on batches: a GPU, an FPGA, or software that stands for one.
///
/// It is opened, used and dropped on one thread, so it may keep contexts, streams and buffers that are tied to a
/// thread.
pub trait Accelerator {
    /// Runs the kernel called `kernel` on the rows of `input` and waits for its output.
    ///
    /// # Errors
    /// `NotFound` for an unknown kernel; `ResourceExhausted` when the rows do not fit into the device's memory.
    fn run(&mut self, kernel: &str, input: &RecordBatch) -> Result<RecordBatch>;
}

/// A function that opens a device on the device's thread.
pub type OpenDevice = Arc<dyn Fn() -> Result<Box<dyn Accelerator>> + Send + Sync>;

/// The settings of a device.
#[derive(Clone)]
pub struct DeviceOptions {
    /// The class that requests name, such as `gpu`.
    pub class: String,
    /// Bytes of memory, which requests share.
    pub memory_bytes: u64,
    /// Opens the device; called once, on the device's thread, before [`Scheduler::new`](crate::Scheduler::new) returns.
    pub open: OpenDevice,
}

impl std::fmt::Debug for DeviceOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceOptions")
            .field("class", &self.class)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

type KernelFunction = Box<dyn FnMut(&RecordBatch) -> Result<RecordBatch>>;

/// A device whose kernels are functions. They drive a real device, or compute the result themselves in tests and
/// examples.
#[derive(Default)]
pub struct KernelSet {
    kernels: BTreeMap<String, KernelFunction>,
}

impl KernelSet {
    /// Adds a kernel.
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
            None => Err(unknown("kernel", kernel, self.kernels.keys().map(String::as_str))),
        }
    }
}
