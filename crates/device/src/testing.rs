//! Devices and random input for the tests of kernels.

use std::sync::OnceLock;

use cenote_base::Random;

use crate::{Device, gpu_or_software};

const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// Returns the device that the tests share. Without a device they fail; `make setup` installs the software one.
pub(crate) fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(open).clone()
}

/// Opens a device that is not shared, for tests that count or break something.
pub(crate) fn open() -> Device {
    open_with(MEMORY_BYTES_MAX)
}

pub(crate) fn open_with(memory_bytes_max: u64) -> Device {
    Device::open(&gpu_or_software().unwrap(), memory_bytes_max).unwrap()
}

pub(crate) fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.next_u64() as u8).collect()
}

/// Makes numbers in `[-1, 1)`.
pub(crate) fn numbers(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
}
