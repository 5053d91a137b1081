//! Which device does the kernels of operators.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use cenote_base::{Error, Result};
use cenote_device::{Device, DeviceInfo, DeviceKind, devices, gpu};
use cenote_engine::Devices;
use cenote_operators_image::{DeviceKernel, KERNELS};
use cenote_scheduler::{Accelerator, Choice, DeviceOptions, KernelSet};

use crate::train;

/// What requests call GPUs.
const CLASS: &str = "gpu";
/// Of a device's memory, so much is for kernels.
const MEMORY_SHARE: u64 = 2;
const MEMORY_MAX: u64 = 8 << 30;

/// Where operators run that a GPU can do a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// On the CPU; no GPU is looked for.
    #[default]
    Cpu,
    /// Where a batch ends first, by measured rate and queue; on the CPU where there is no GPU.
    Auto,
    /// On the GPU.
    Gpu,
    /// On Mesa's software Vulkan, to try out what a GPU would do.
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
            other => Err(Error::invalid_input(format!("device `{other}` is none of auto, cpu, gpu, software"))),
        }
    }
}

/// What `choice` adds to a scheduler and an engine.
///
/// # Errors
/// `Unsupported` when the device that was asked for is not there, with what was found and what to install.
pub(crate) fn device(choice: DeviceChoice) -> Result<Option<(DeviceOptions, Devices)>> {
    let (info, placed) = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Gpu => (gpu()?, Choice::Device),
        DeviceChoice::Software => (software()?, Choice::Device),
        DeviceChoice::Auto => match gpu() {
            Ok(info) => (info, Choice::Auto),
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

fn software() -> Result<DeviceInfo> {
    let found = devices().into_iter().find(|info| info.kind == DeviceKind::Software);
    found.ok_or_else(|| {
        Error::unsupported(
            "there is no software Vulkan: install Mesa's with apt-get install libvulkan1 mesa-vulkan-drivers, or use the CPU",
        )
    })
}
