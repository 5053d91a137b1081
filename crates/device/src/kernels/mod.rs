//! The kernels: each a file of WGSL, its CPU twin and how closely they agree.

pub(crate) mod distance;
pub mod kmeans;
pub mod nearest;
pub mod phash;
pub mod resize;
pub mod yuv;

/// A grid of at least `groups` work groups, as near to one row as the devices allow.
fn grid(groups: usize) -> [u32; 3] {
    /// What every Vulkan device can do.
    const ROW_MAX: usize = 65_535;
    let rows = groups.div_ceil(ROW_MAX).max(1);
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}
