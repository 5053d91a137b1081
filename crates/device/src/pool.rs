//! Buffers that are used again, under one bound in bytes.

use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};

/// Sizes step by this much at least.
const STEP_BYTES_MIN: u64 = 256;

/// What a buffer is for; a buffer is never used again for another purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Kernels read and write it.
    Work,
    /// The host reads it.
    Read,
}

impl Purpose {
    fn usage(self) -> wgpu::BufferUsages {
        use wgpu::BufferUsages as Usage;
        match self {
            Self::Work => Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST | Usage::QUERY_RESOLVE,
            Self::Read => Usage::MAP_READ | Usage::COPY_DST,
        }
    }
}

/// Every byte that a device holds for us: buffers in use, buffers kept for later, and uploads on their way.
pub(crate) struct Pool {
    device: wgpu::Device,
    bytes_max: u64,
    buffer_bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used_bytes: u64,
    idle_bytes: u64,
    /// Oldest first.
    idle: Vec<(Purpose, wgpu::Buffer)>,
}

impl Pool {
    pub(crate) fn new(device: wgpu::Device, bytes_max: u64) -> Arc<Self> {
        let buffer_bytes_max = device.limits().max_buffer_size;
        Arc::new(Self { device, bytes_max, buffer_bytes_max, state: Mutex::default() })
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes in use and bytes kept for later.
    pub(crate) fn held_bytes(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.used_bytes, state.idle_bytes)
    }

    /// A buffer of at least `bytes` with anything in it. Over the bound, it waits for what was submitted and lets idle
    /// buffers go.
    pub(crate) fn lease(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<Lease> {
        let step = (bytes.next_power_of_two() / 8).max(STEP_BYTES_MIN);
        let size = bytes.max(1).next_multiple_of(step);
        if size > self.buffer_bytes_max {
            return Err(Error::resource_exhausted(format!(
                "a buffer of {size} bytes is larger than the device's largest, {} bytes; split the batch",
                self.buffer_bytes_max
            )));
        }
        if let Some(buffer) = self.reuse(purpose, size) {
            return Ok(Lease { buffer, bytes, purpose, pool: Arc::clone(self) });
        }
        let reservation = self.reserve(size)?;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: purpose.usage(),
            mapped_at_creation: false,
        });
        // From here the lease accounts for the bytes.
        std::mem::forget(reservation);
        Ok(Lease { buffer, bytes, purpose, pool: Arc::clone(self) })
    }

    fn reuse(&self, purpose: Purpose, size: u64) -> Option<wgpu::Buffer> {
        let mut state = self.state.lock();
        let place = state.idle.iter().rposition(|(of, buffer)| *of == purpose && buffer.size() == size)?;
        let (_, buffer) = state.idle.remove(place);
        state.idle_bytes -= size;
        state.used_bytes += size;
        Some(buffer)
    }

    /// Room for `bytes` that the driver holds, such as an upload on its way.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        if !self.take(bytes, false) {
            // Uploads end with their submission, and a buffer let go before that would still take its memory.
            self.device
                .poll(wgpu::PollType::wait_indefinitely())
                .map_err(|source| Error::unavailable("the device did not finish its work").with_source(source))?;
            if !self.take(bytes, true) {
                let (used, _) = self.held_bytes();
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
        let mut state = self.state.lock();
        while evict && !state.idle.is_empty() && state.used_bytes + state.idle_bytes + bytes > self.bytes_max {
            let (_, buffer) = state.idle.remove(0);
            state.idle_bytes -= buffer.size();
        }
        let fits = state.used_bytes + state.idle_bytes + bytes <= self.bytes_max;
        if fits {
            state.used_bytes += bytes;
        }
        fits
    }
}

/// A buffer of the pool, which goes back when this is dropped. The device works in order, so it may be dropped as soon as
/// the work that uses it is submitted, and not before.
pub(crate) struct Lease {
    buffer: wgpu::Buffer,
    bytes: u64,
    purpose: Purpose,
    pool: Arc<Pool>,
}

impl Lease {
    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// The bytes that were asked for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.used_bytes -= self.buffer.size();
        state.idle_bytes += self.buffer.size();
        state.idle.push((self.purpose, self.buffer.clone()));
    }
}

/// Bytes that count as used until this is dropped.
pub(crate) struct Reservation {
    bytes: u64,
    pool: Arc<Pool>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.state.lock().used_bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests;
