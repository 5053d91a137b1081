//! The kernels: each in WGSL and for the CPU, with the tolerance between the two.
//!
//! This part does not know how a device is found.

pub(crate) mod distance;
pub mod kmeans;
pub mod nearest;
pub mod phash;
pub mod resize;

/// Returns a grid of at least `groups` work groups, in as few rows as the devices allow.
fn grid(groups: usize) -> [u32; 3] {
    /// Work groups in a row of the grid, at most, on every Vulkan device.
    const ROW_MAX: usize = 65_535;
    let rows = groups.div_ceil(ROW_MAX).max(1);
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}
