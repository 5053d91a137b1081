//! GPUs for operators in Python: which there are, and who has a share of which.
//!
//! How much is given out in all is the scheduler's affair, which counts thousandths. Here a share becomes a device: the one of which
//! least is taken, whose name the child process gets in `CUDA_VISIBLE_DEVICES`.

use std::collections::BTreeMap;
use std::path::Path;

use cenote_runtime::sync::Mutex;

/// What the scheduler calls them. A request for some is refused by this name.
const RESOURCE: &str = "thousandths of a GPU";
const WHOLE: u32 = 1000;
pub(crate) const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// Shares taken, by device.
static TAKEN: Mutex<BTreeMap<String, f32>> = Mutex::new(BTreeMap::new());

/// A share of a device, until it is dropped.
pub(crate) struct Lease {
    pub(crate) device: String,
    share: f32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(taken) = TAKEN.lock().get_mut(&self.device) {
            *taken -= self.share;
        }
    }
}

/// A share of the device of which least is taken.
pub(crate) fn lease(share: f32) -> Option<Lease> {
    let mut taken = TAKEN.lock();
    for device in devices() {
        taken.entry(device).or_default();
    }
    let (device, part) = taken.iter_mut().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    *part += share;
    Some(Lease { device: device.clone(), share })
}

/// What a lake on this machine may give out.
pub(crate) fn offered() -> BTreeMap<String, u32> {
    BTreeMap::from([(RESOURCE.to_owned(), devices().len() as u32 * WHOLE)])
}

/// What a share asks the scheduler for. Shares that do not fill a device up are rounded up to what does, so that they fit by
/// device and not only in all: two of 0.4 are halves.
pub(crate) fn asked(share: f32) -> (&'static str, u32) {
    let fitting = (1.0 / share).floor() as u32;
    (RESOURCE, if share > 0.0 { WHOLE / fitting.max(1) } else { 0 })
}

/// The devices that CUDA would see, by the names it has for them.
fn devices() -> Vec<String> {
    if let Ok(visible) = std::env::var(VARIABLE) {
        return visible.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    }
    (0..)
        .take_while(|number| Path::new(&format!("/dev/nvidia{number}")).exists())
        .map(|number| number.to_string())
        .collect()
}
