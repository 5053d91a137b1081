//! An opened device: its queue, its memory and the kernels compiled for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};

use crate::discover::{self, DeviceInfo};
use crate::pool::BufferPool;

/// An opened device. Clones share it.
///
/// Its methods and the kernels block the calling thread while data is copied and while a result is awaited, so they
/// belong on a thread of their own and never on an async executor's. The intended use is one owner thread per device,
/// which submits the next batch before it waits for the last. Work runs in the order of submission.
///
/// ```
/// use cenote_device::{Device, devices};
///
/// for info in devices() {
///     println!("{} ({}): {} bytes", info.name, info.kind, info.memory_bytes);
///     let device = Device::open(&info, 256 << 20)?;
///     assert_eq!(device.usage().used_bytes, 0);
/// }
/// # Ok::<(), cenote_base::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    info: DeviceInfo,
    device: wgpu::Device,
    queue: wgpu::Queue,
    pool: Arc<BufferPool>,
    pipelines: Mutex<HashMap<Shader, wgpu::ComputePipeline>>,
    fault: Arc<Fault>,
    counters: DeviceCounters,
    /// Nanoseconds of a tick of the device's clock; `None` when kernels cannot read its clock.
    tick_ns: Option<f32>,
}

/// The memory that a device holds, and counters of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceUsage {
    /// Bytes of buffers in use and of uploads on their way.
    pub used_bytes: u64,
    /// Bytes of buffers kept for later, which are freed when others need the memory.
    pub idle_bytes: u64,
    /// Bytes sent to the device since it was opened.
    pub uploaded_bytes: u64,
    /// Bytes read back since it was opened.
    pub read_bytes: u64,
    /// Batches submitted since it was opened.
    pub submissions: u64,
    /// Nanoseconds that kernels ran since it was opened, by the device's clock: counted when a result is read, and 0
    /// for a device without such a clock.
    pub compute_ns: u64,
}

#[derive(Default)]
pub(crate) struct DeviceCounters {
    pub(crate) uploaded_bytes: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) submissions: AtomicU64,
    pub(crate) compute_ns: AtomicU64,
}

/// A WGSL entry point with its constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shader {
    pub(crate) source: &'static str,
    pub(crate) entry: &'static str,
    pub(crate) constants: &'static [(&'static str, u32)],
}

/// The faults that the driver has reported. It may report them at any time; the next call returns them.
#[derive(Default)]
struct Fault {
    lost: Mutex<Option<String>>,
    error: Mutex<Option<wgpu::Error>>,
}

impl Device {
    /// Opens the device that `info` describes. It holds at most `memory_bytes_max` of the device's memory.
    ///
    /// # Errors
    /// `NotFound` when the device is gone, `Unavailable` when the driver refuses it.
    pub fn open(info: &DeviceInfo, memory_bytes_max: u64) -> Result<Self> {
        let adapter = discover::adapter(info)?;
        let clock = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: None,
            required_features: wgpu::Features::IMMEDIATES | clock,
            required_limits: adapter.limits(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = discover::ready(request)?.map_err(|source| {
            Error::unavailable(format!("device `{}` cannot be opened", info.name)).with_source(source)
        })?;
        let fault = Arc::new(Fault::default());
        let handler = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error| {
            handler.error.lock().get_or_insert(error);
        }));
        let handler = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, message| {
            handler.lost.lock().get_or_insert(format!("{reason:?} {message}"));
        });
        Ok(Self(Arc::new(Inner {
            info: info.clone(),
            pool: BufferPool::new(device.clone(), memory_bytes_max),
            pipelines: Mutex::default(),
            fault,
            counters: DeviceCounters::default(),
            tick_ns: (!clock.is_empty()).then(|| queue.get_timestamp_period()),
            device,
            queue,
        })))
    }

    /// Returns the description of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Returns the memory in use and the counters.
    pub fn usage(&self) -> DeviceUsage {
        let held = self.0.pool.held();
        let counters = &self.0.counters;
        DeviceUsage {
            used_bytes: held.used_bytes,
            idle_bytes: held.idle_bytes,
            uploaded_bytes: counters.uploaded_bytes.load(Ordering::Relaxed),
            read_bytes: counters.read_bytes.load(Ordering::Relaxed),
            submissions: counters.submissions.load(Ordering::Relaxed),
            compute_ns: counters.compute_ns.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn raw(&self) -> &wgpu::Device {
        &self.0.device
    }

    pub(crate) fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    pub(crate) fn pool(&self) -> &Arc<BufferPool> {
        &self.0.pool
    }

    pub(crate) fn counters(&self) -> &DeviceCounters {
        &self.0.counters
    }

    pub(crate) fn tick_ns(&self) -> Option<f32> {
        self.0.tick_ns
    }

    /// Returns the pipeline of `shader`, which the first call compiles.
    pub(crate) fn pipeline(&self, shader: Shader) -> Result<wgpu::ComputePipeline> {
        let mut pipelines = self.0.pipelines.lock();
        if let Some(pipeline) = pipelines.get(&shader) {
            return Ok(pipeline.clone());
        }
        let source = wgpu::ShaderSource::Wgsl(shader.source.into());
        let module = self.raw().create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let constants: Vec<_> = shader.constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let pipeline = self.raw().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.entry),
            layout: None,
            module: &module,
            entry_point: Some(shader.entry),
            // No kernel reads workgroup memory that it did not write.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.check()?;
        pipelines.insert(shader, pipeline.clone());
        Ok(pipeline)
    }

    /// Returns the fault that the driver reported since the last call, if there was one.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(reason) = self.0.fault.lost.lock().as_ref() {
            return Err(Error::unavailable(format!(
                "device `{}` was lost ({}); open it again, or use the CPU",
                self.0.info.name,
                reason.trim()
            )));
        }
        match self.0.fault.error.lock().take() {
            None => Ok(()),
            Some(source @ wgpu::Error::OutOfMemory { .. }) => {
                let message = format!("device `{}` is out of memory; use smaller batches", self.0.info.name);
                Err(Error::resource_exhausted(message).with_source(source))
            }
            Some(source) => {
                let message = format!("device `{}` refused a kernel or a buffer", self.0.info.name);
                Err(Error::internal(message).with_source(source))
            }
        }
    }
}

#[cfg(test)]
mod tests;
