//! Buffers that are reused, under one bound in bytes.

use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};

/// The smallest step between two sizes of buffers, in bytes.
const STEP_BYTES_MIN: u64 = 256;

/// The purpose of a buffer, which is reused for the same purpose only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BufferPurpose {
    /// Kernels read and write it.
    Work,
    /// The host reads it.
    Read,
}

impl BufferPurpose {
    fn usage(self) -> wgpu::BufferUsages {
        use wgpu::BufferUsages as Usage;
        match self {
            Self::Work => Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST | Usage::QUERY_RESOLVE,
            Self::Read => Usage::MAP_READ | Usage::COPY_DST,
        }
    }
}

/// The memory that a device holds for this process: buffers in use, buffers kept for later, and uploads on their way.
pub(crate) struct BufferPool {
    device: wgpu::Device,
    bytes_max: u64,
    buffer_bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: PoolUsage,
    /// Buffers kept for later, oldest first.
    idle: Vec<(BufferPurpose, wgpu::Buffer)>,
}

/// Bytes that a pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PoolUsage {
    /// Bytes of buffers in use and of uploads on their way.
    pub(crate) used_bytes: u64,
    /// Bytes of buffers kept for later.
    pub(crate) idle_bytes: u64,
}

impl BufferPool {
    pub(crate) fn new(device: wgpu::Device, bytes_max: u64) -> Arc<Self> {
        let buffer_bytes_max = device.limits().max_buffer_size;
        Arc::new(Self { device, bytes_max, buffer_bytes_max, state: Mutex::default() })
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Returns the bytes in use and the bytes kept for later.
    pub(crate) fn held(&self) -> PoolUsage {
        self.state.lock().held
    }

    /// Leases a buffer of at least `bytes`, whose contents are undefined. Over the bound, it waits for the work
    /// submitted so far and frees idle buffers.
    pub(crate) fn lease(self: &Arc<Self>, purpose: BufferPurpose, bytes: u64) -> Result<BufferLease> {
        let step = (bytes.next_power_of_two() / 8).max(STEP_BYTES_MIN);
        let size = bytes.max(1).next_multiple_of(step);
        if size > self.buffer_bytes_max {
            return Err(Error::resource_exhausted(format!(
                "a buffer of {size} bytes is larger than the device's largest, {} bytes; split the batch",
                self.buffer_bytes_max
            )));
        }
        if let Some(buffer) = self.reuse(purpose, size) {
            return Ok(BufferLease { buffer, bytes, purpose, pool: Arc::clone(self) });
        }
        let reservation = self.reserve(size)?;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: purpose.usage(),
            mapped_at_creation: false,
        });
        // The lease accounts for the bytes from here on.
        std::mem::forget(reservation);
        Ok(BufferLease { buffer, bytes, purpose, pool: Arc::clone(self) })
    }

    fn reuse(&self, purpose: BufferPurpose, size: u64) -> Option<wgpu::Buffer> {
        let mut state = self.state.lock();
        let place = state.idle.iter().rposition(|(of, buffer)| *of == purpose && buffer.size() == size)?;
        let (_, buffer) = state.idle.remove(place);
        state.held.idle_bytes -= size;
        state.held.used_bytes += size;
        Some(buffer)
    }

    /// Reserves `bytes` that the driver holds, such as an upload on its way.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        if !self.take(bytes, false) {
            // Finished submissions release their uploads, and a buffer freed before its submission ends keeps its
            // memory.
            self.device
                .poll(wgpu::PollType::wait_indefinitely())
                .map_err(|source| Error::unavailable("the device did not finish its work").with_source(source))?;
            if !self.take(bytes, true) {
                let used = self.held().used_bytes;
                return Err(Error::resource_exhausted(format!(
                    "{bytes} bytes of device memory are asked for, {used} are in use and the bound is {}; use smaller \
                     batches or raise the bound",
                    self.bytes_max
                )));
            }
        }
        Ok(Reservation { bytes, pool: Arc::clone(self) })
    }

    fn take(&self, bytes: u64, evict: bool) -> bool {
        let State { held, idle } = &mut *self.state.lock();
        while evict && !idle.is_empty() && held.used_bytes + held.idle_bytes + bytes > self.bytes_max {
            let (_, buffer) = idle.remove(0);
            held.idle_bytes -= buffer.size();
        }
        let fits = held.used_bytes + held.idle_bytes + bytes <= self.bytes_max;
        if fits {
            held.used_bytes += bytes;
        }
        fits
    }
}

/// A buffer of the pool, which returns to it when the lease is dropped. A lease must be held until the work that uses
/// the buffer is submitted, and no longer: the device works in order.
pub(crate) struct BufferLease {
    buffer: wgpu::Buffer,
    bytes: u64,
    purpose: BufferPurpose,
    pool: Arc<BufferPool>,
}

impl BufferLease {
    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Returns the bytes that were requested.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for BufferLease {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.held.used_bytes -= self.buffer.size();
        state.held.idle_bytes += self.buffer.size();
        state.idle.push((self.purpose, self.buffer.clone()));
    }
}

/// Bytes that count as used until the reservation is dropped.
pub(crate) struct Reservation {
    bytes: u64,
    pool: Arc<BufferPool>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.state.lock().held.used_bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests;
