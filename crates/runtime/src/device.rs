//! The device that runs the kernels of operators.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use cenote_base::{Error, Result, unknown};
use cenote_device::{Device, gpu, software};
use cenote_engine::Devices;
use cenote_operators_image::{DeviceKernel, KERNELS};
use cenote_scheduler::{Accelerator, DeviceOptions, KernelSet, PlacementChoice};

use crate::train;

/// The device class of GPUs in resource requests.
const CLASS: &str = "gpu";
/// Kernels may hold `1 / MEMORY_SHARE` of a device's memory, at most `MEMORY_MAX` bytes.
const MEMORY_SHARE: u64 = 2;
const MEMORY_MAX: u64 = 8 << 30;

/// The device for operators whose kernels a GPU can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The CPU; no GPU is looked for.
    #[default]
    Cpu,
    /// The device on which a batch is expected to end first, by measured rate and queue; the CPU where there is no GPU.
    Auto,
    /// The GPU.
    Gpu,
    /// Mesa's software Vulkan, to try out what a GPU would do.
    Software,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "gpu" => Ok(Self::Gpu),
            "software" => Ok(Self::Software),
            other => {
                let error = unknown("device", other, ["auto", "cpu", "gpu", "software"]);
                Err(Error::invalid_input(error.message()))
            }
        }
    }
}

/// Returns the options by which a scheduler and an engine use the device of `choice`; `None` on the CPU.
///
/// # Errors
/// `Unsupported` for a device that is not there, naming what was found and what to install.
pub(crate) fn device(choice: DeviceChoice) -> Result<Option<(DeviceOptions, Devices)>> {
    let (info, placed) = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Gpu => (gpu()?, PlacementChoice::Device),
        DeviceChoice::Software => (software()?, PlacementChoice::Device),
        DeviceChoice::Auto => match gpu() {
            Ok(info) => (info, PlacementChoice::Auto),
            Err(reason) => {
                tracing::debug!(%reason, "kernels run on the CPU");
                return Ok(None);
            }
        },
    };
    let memory_bytes = (info.memory_bytes / MEMORY_SHARE).min(MEMORY_MAX);
    let open = move || {
        let device = Device::open(&info, memory_bytes)?;
        let kernels = KERNELS.into_iter().chain([(train::KERNEL, train::on_device as DeviceKernel)]);
        let kernels = kernels.fold(KernelSet::default(), |kernels, (name, kernel)| {
            let device = device.clone();
            kernels.with_kernel(name, move |input| kernel(&device, input))
        });
        Ok(Box::new(kernels) as Box<dyn Accelerator>)
    };
    let options = DeviceOptions { class: CLASS.to_owned(), memory_bytes, open: Arc::new(open) };
    let kernels: BTreeSet<&str> = KERNELS.into_iter().map(|(name, _)| name).collect();
    Ok(Some((options, Devices { class: CLASS.to_owned(), kernels, choice: placed })))
}
