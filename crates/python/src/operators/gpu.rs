//! GPUs for operators in Python, and the shares that are taken of each.
//!
//! The scheduler limits the sum of all shares, in thousandths. This module assigns each share a device, the one with
//! the least taken, whose name the child process gets in `CUDA_VISIBLE_DEVICES`.

use std::collections::BTreeMap;
use std::path::Path;

use cenote_runtime::sync::Mutex;

/// The scheduler's name of the resource, which its refusals show.
const RESOURCE: &str = "thousandths of a GPU";
/// The units of one device.
const WHOLE: u32 = 1000;
/// The environment variable that lists the devices visible to CUDA.
pub(crate) const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// The shares taken of each device.
static TAKEN: Mutex<BTreeMap<String, f32>> = Mutex::new(BTreeMap::new());

/// A share of a device, until it is dropped.
pub(crate) struct GpuLease {
    pub(crate) device: String,
    share: f32,
}

impl Drop for GpuLease {
    fn drop(&mut self) {
        if let Some(taken) = TAKEN.lock().get_mut(&self.device) {
            *taken -= self.share;
        }
    }
}

/// Takes a share of the device with the least taken; `None` without devices.
pub(crate) fn lease(share: f32) -> Option<GpuLease> {
    let mut taken = TAKEN.lock();
    for device in devices() {
        taken.entry(device).or_default();
    }
    let (device, part) = taken.iter_mut().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    *part += share;
    Some(GpuLease { device: device.clone(), share })
}

/// Returns the resource that a lake on this machine offers.
pub(crate) fn offered() -> BTreeMap<String, u32> {
    BTreeMap::from([(RESOURCE.to_owned(), devices().len() as u32 * WHOLE)])
}

/// Returns the resource and units that a share requests: `WHOLE / ⌊1 / share⌋`, so that shares fit each device and not
/// only the sum. Two shares of 0.4, for example, are halves.
pub(crate) fn asked(share: f32) -> (&'static str, u32) {
    let fitting = (1.0 / share).floor() as u32;
    (RESOURCE, if share > 0.0 { WHOLE / fitting.max(1) } else { 0 })
}

/// Lists the devices that CUDA sees, by CUDA's names.
fn devices() -> Vec<String> {
    if let Ok(visible) = std::env::var(VARIABLE) {
        return visible.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    }
    (0..)
        .take_while(|number| Path::new(&format!("/dev/nvidia{number}")).exists())
        .map(|number| number.to_string())
        .collect()
}
