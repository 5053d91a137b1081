//! A batch of work for a device: uploads, kernels in order, one result.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytemuck::Pod;
use cenote_base::{Error, Result};

use crate::device::{Device, Shader};
use crate::pool::{BufferLease, BufferPurpose, Reservation};

/// Bytes per piece of an upload: a large upload needs little memory beside its destination.
const PIECE_BYTES: usize = 16 << 20;
/// Seconds after which the device of an unfinished batch counts as hung.
const BATCH_SECONDS_MAX: u64 = 300;
/// The bytes of two time stamps.
const CLOCK_BYTES: u64 = 16;

/// A batch in the making. The buffers that it uses live until it is submitted.
pub(crate) struct Work<'d> {
    device: &'d Device,
    encoder: wgpu::CommandEncoder,
    buffers: Vec<Arc<BufferLease>>,
    uploads: Vec<Reservation>,
    /// The pass with all kernels of the batch, opened with the first.
    pass: Option<wgpu::ComputePass<'static>>,
    clock: Option<wgpu::QuerySet>,
}

impl<'d> Work<'d> {
    pub(crate) fn new(device: &'d Device) -> Result<Self> {
        device.check()?;
        let encoder = device.raw().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let clock = device.tick_ns().map(|_| {
            let (ty, count) = (wgpu::QueryType::Timestamp, 2);
            device.raw().create_query_set(&wgpu::QuerySetDescriptor { label: None, ty, count })
        });
        Ok(Self { device, encoder, buffers: Vec::new(), uploads: Vec::new(), pass: None, clock })
    }

    /// Leases a buffer for `count` values of `T`, whose contents are undefined.
    pub(crate) fn buffer<T>(&mut self, count: usize) -> Result<Arc<BufferLease>> {
        // A binding is a whole number of words, at least one.
        let bytes = (count * size_of::<T>()).next_multiple_of(4).max(4) as u64;
        let most = self.device.info().binding_bytes_max;
        if bytes > most {
            return Err(Error::resource_exhausted(format!(
                "{bytes} bytes in one buffer of a kernel are more than device `{}` allows, {most}; split the batch",
                self.device.info().name
            )));
        }
        let lease = Arc::new(self.device.pool().lease(BufferPurpose::Work, bytes)?);
        self.buffers.push(Arc::clone(&lease));
        Ok(lease)
    }

    /// Leases a buffer and writes `values` to it.
    pub(crate) fn upload<T: Pod>(&mut self, values: &[T]) -> Result<Arc<BufferLease>> {
        let buffer = self.buffer::<T>(values.len())?;
        self.write(&buffer, 0, bytemuck::cast_slice(values))?;
        Ok(buffer)
    }

    /// Writes `bytes` at `offset`, a multiple of 4. Writes precede all kernels of the batch, whatever the order of
    /// calls.
    pub(crate) fn write(&mut self, buffer: &BufferLease, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut place = offset;
        for piece in bytes.chunks(PIECE_BYTES) {
            let whole = piece.len().next_multiple_of(4);
            if let Some(size) = NonZeroU64::new(whole as u64) {
                self.flush_if_full(size.get());
                self.uploads.push(self.device.pool().reserve(size.get())?);
                let view = self.device.queue().write_buffer_with(buffer.buffer(), place, size);
                self.device.check()?;
                let mut view = view.ok_or_else(|| Error::internal("the driver gave no room for an upload"))?;
                let mut target = view.slice(..);
                target.slice(..piece.len()).copy_from_slice(piece);
                let padding = [0u8; 3];
                target.slice(piece.len()..).copy_from_slice(&padding[..whole - piece.len()]);
            }
            place += whole as u64;
        }
        self.device.counters().uploaded_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Submits the uploads so far when the pool is full, so that waiting for them frees their memory.
    fn flush_if_full(&mut self, next_bytes: u64) {
        if self.device.pool().held().used_bytes + next_bytes > self.device.pool().bytes_max() {
            self.device.queue().submit([]);
            self.release_uploads();
        }
    }

    fn release_uploads(&mut self) {
        let uploads = std::mem::take(&mut self.uploads);
        self.device.queue().on_submitted_work_done(move || drop(uploads));
    }

    /// Adds a run of `shader` over `groups` work groups, with `buffers` at bindings 0, 1, … and `params` as its
    /// immediate data.
    pub(crate) fn dispatch<P: Pod>(
        &mut self,
        shader: Shader,
        buffers: &[&BufferLease],
        params: &P,
        groups: [u32; 3],
    ) -> Result<()> {
        let most = self.device.raw().limits().max_compute_workgroups_per_dimension;
        if groups.iter().any(|&count| count > most) {
            return Err(Error::resource_exhausted(format!(
                "{groups:?} work groups are more than the device allows, {most} a dimension; split the batch"
            )));
        }
        let pipeline = self.device.pipeline(shader)?;
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, lease)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: lease.buffer(),
                    offset: 0,
                    size: NonZeroU64::new(lease.bytes()),
                }),
            })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
        let group = self.device.raw().create_bind_group(&descriptor);
        let pass = self.pass.get_or_insert_with(|| {
            let timestamp_writes = self.clock.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            self.encoder.begin_compute_pass(&descriptor).forget_lifetime()
        });
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_immediates(0, bytemuck::bytes_of(params));
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        Ok(())
    }

    /// Submits the batch. `decode` makes the value from the bytes of `result`, on the thread that waits for it.
    pub(crate) fn finish<T>(
        mut self,
        result: &BufferLease,
        decode: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Result<Pending<T>> {
        let clock = self.pass.take().and(self.clock.take());
        let clock_bytes = if clock.is_some() { CLOCK_BYTES } else { 0 };
        let read = self.device.pool().lease(BufferPurpose::Read, result.bytes() + clock_bytes)?;
        self.encoder.copy_buffer_to_buffer(result.buffer(), 0, read.buffer(), 0, result.bytes());
        if let Some(clock) = &clock {
            let stamps = self.buffer::<u64>(2)?;
            self.encoder.resolve_query_set(clock, 0..2, stamps.buffer(), 0);
            self.encoder.copy_buffer_to_buffer(stamps.buffer(), 0, read.buffer(), result.bytes(), CLOCK_BYTES);
        }
        let (device, result_bytes) = (self.device.clone(), result.bytes());
        let submission = self.submit();
        let read = ReadBack::new(read, result_bytes + clock_bytes);
        device.check()?;
        Ok(Pending::new(move || {
            let value = read.wait(&device, submission, |bytes| {
                let (bytes, stamps) = bytes.split_at(result_bytes as usize);
                if let (&[begin, end], Some(tick_ns)) =
                    (bytemuck::pod_collect_to_vec(stamps).as_slice(), device.tick_ns())
                {
                    let ticks: u64 = u64::saturating_sub(end, begin);
                    let elapsed_ns = (ticks as f64 * f64::from(tick_ns)) as u64;
                    device.counters().compute_ns.fetch_add(elapsed_ns, Ordering::Relaxed);
                }
                decode(bytes)
            })?;
            device.counters().read_bytes.fetch_add(result_bytes, Ordering::Relaxed);
            Ok(value)
        }))
    }

    /// Submits the batch without reading a result.
    pub(crate) fn submit(mut self) -> wgpu::SubmissionIndex {
        drop(self.pass.take());
        self.device.counters().submissions.fetch_add(1, Ordering::Relaxed);
        let uploads = std::mem::take(&mut self.uploads);
        let (queue, encoder) = (self.device.queue(), self.encoder);
        let submission = queue.submit([encoder.finish()]);
        queue.on_submitted_work_done(move || drop(uploads));
        submission
    }
}

/// A buffer on its way to the host.
struct ReadBack {
    lease: BufferLease,
    bytes: u64,
    mapped: mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>,
}

impl ReadBack {
    fn new(lease: BufferLease, bytes: u64) -> Self {
        let (tell, mapped) = mpsc::sync_channel(1);
        lease.buffer().map_async(wgpu::MapMode::Read, 0..bytes, move |outcome| {
            // The result may have been dropped without waiting for it.
            let _ = tell.send(outcome);
        });
        Self { lease, bytes, mapped }
    }

    fn wait<T>(self, device: &Device, submission: wgpu::SubmissionIndex, decode: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let timeout = Duration::from_secs(BATCH_SECONDS_MAX);
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(timeout) };
        let polled = device.raw().poll(wait);
        device.check()?;
        let name = &device.info().name;
        polled.map_err(|source| {
            Error::unavailable(format!("device `{name}` did not finish a batch within {BATCH_SECONDS_MAX} s"))
                .with_source(source)
        })?;
        // The callback may run on another thread that waits for the same device.
        let mapped = self.mapped.recv_timeout(timeout).map_err(|source| {
            Error::internal(format!("device `{name}` finished a batch without its result")).with_source(source)
        })?;
        mapped.map_err(|source| {
            Error::unavailable(format!("the result of device `{name}` cannot be read")).with_source(source)
        })?;
        let view = self.lease.buffer().get_mapped_range(0..self.bytes);
        let view =
            view.map_err(|source| Error::unavailable("the device's result cannot be read").with_source(source))?;
        Ok(decode(&view))
    }
}

impl Drop for ReadBack {
    fn drop(&mut self) {
        // Cancels a mapping that is still pending too, so that the buffer can be reused.
        self.lease.buffer().unmap();
    }
}

/// A result on its way. Dropping it abandons the result; the device finishes the work all the same.
#[must_use = "a result is read when it is waited for"]
pub struct Pending<T>(Box<dyn FnOnce() -> Result<T> + Send>);

impl<T> Pending<T> {
    pub(crate) fn new(wait: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Blocks the calling thread until the device has the result, and returns it.
    ///
    /// # Errors
    /// `Unavailable` when the device was lost or does not answer, `ResourceExhausted` when it ran out of memory.
    pub fn wait(self) -> Result<T> {
        (self.0)()
    }
}
