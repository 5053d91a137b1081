//! Finding devices. Vulkan is loaded when one of these functions is first called.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task;

use cenote_base::{Error, Result};

/// Advice for a machine without a device.
const INSTALL: &str = "install the driver of the GPU's vendor with its Vulkan part";
/// Advice for a machine without a GPU, on which one is to be tried out.
const INSTALL_SOFTWARE: &str = "install Mesa's software Vulkan: apt-get install libvulkan1 mesa-vulkan-drivers";

/// The type of hardware that a device is. The kinds are in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU that a hypervisor passes on.
    Virtual,
    /// A device whose driver does not say.
    Unknown,
    /// The processor posing as a GPU: correct, and slower than the kernels' `on_cpu`.
    Software,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete GPU",
            Self::Integrated => "integrated GPU",
            Self::Virtual => "virtual GPU",
            Self::Unknown => "unknown",
            Self::Software => "software",
        })
    }
}

/// A device that can be opened with [`Device::open`](crate::Device::open).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver's name for the device.
    pub name: String,
    /// The driver's interface: always `vulkan` for now.
    pub backend: String,
    /// The type of hardware.
    pub kind: DeviceKind,
    /// The driver's name and version.
    pub driver: String,
    /// The address on the PCI bus, which distinguishes two devices of one name; empty for software.
    pub bus: String,
    /// Bytes of memory local to the device; for an integrated or software device, of the memory that it shares.
    pub memory_bytes: u64,
    /// Bytes of a buffer, at most.
    pub buffer_bytes_max: u64,
    /// Bytes of a buffer that a kernel can access, at most.
    pub binding_bytes_max: u64,
}

/// Lists all devices: GPUs before software, otherwise in the driver's order. The list is empty without Vulkan.
pub fn devices() -> Vec<DeviceInfo> {
    let mut found: Vec<_> = adapters().iter().map(describe).collect();
    found.sort_by_key(|info| info.kind);
    found
}

/// Returns the first real GPU.
///
/// # Errors
/// `Unsupported` when there is none, naming what was found instead and what to install.
pub fn gpu() -> Result<DeviceInfo> {
    let found = devices();
    let names: Vec<_> = found.iter().map(|info| info.name.as_str()).collect();
    let instead = match names.as_slice() {
        [] => "no Vulkan device at all".to_owned(),
        names => format!("only software: {}", names.join(", ")),
    };
    found.iter().find(|info| info.kind != DeviceKind::Software).cloned().ok_or_else(|| {
        let advice = format!("Use the CPU, {INSTALL}, or, to try out what a GPU would do, {INSTALL_SOFTWARE}");
        Error::unsupported(format!("a GPU was asked for and there is {instead}. {advice}"))
    })
}

/// Returns the first real GPU, or else the software device, which serves tests and is slower than the kernels'
/// `on_cpu`.
///
/// # Errors
/// `Unsupported` when there is neither, naming what to install.
pub fn gpu_or_software() -> Result<DeviceInfo> {
    devices()
        .into_iter()
        .next()
        .ok_or_else(|| Error::unsupported(format!("there is no Vulkan device. Use the CPU, or {INSTALL_SOFTWARE}")))
}

/// Returns the software device.
///
/// # Errors
/// `Unsupported` when there is none, naming what to install.
pub fn software() -> Result<DeviceInfo> {
    devices()
        .into_iter()
        .find(|info| info.kind == DeviceKind::Software)
        .ok_or_else(|| Error::unsupported(format!("there is no software Vulkan. Use the CPU, or {INSTALL_SOFTWARE}")))
}

/// Finds the adapter that `info` describes.
pub(crate) fn adapter(info: &DeviceInfo) -> Result<wgpu::Adapter> {
    adapters().into_iter().find(|adapter| describe(adapter) == *info).ok_or_else(|| {
        let message = format!("device `{}` ({}) is gone; list the devices again", info.name, info.driver);
        Error::not_found(message)
    })
}

fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    ready(instance.enumerate_adapters(wgpu::Backends::VULKAN)).unwrap_or_default()
}

fn describe(adapter: &wgpu::Adapter) -> DeviceInfo {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
        wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
        wgpu::DeviceType::Cpu => DeviceKind::Software,
        wgpu::DeviceType::Other => DeviceKind::Unknown,
    };
    DeviceInfo {
        name: info.name,
        backend: info.backend.to_str().to_owned(),
        kind,
        driver: format!("{} {}", info.driver, info.driver_info),
        bus: info.device_pci_bus_id,
        memory_bytes: memory_bytes(adapter),
        buffer_bytes_max: limits.max_buffer_size,
        binding_bytes_max: limits.max_storage_buffer_binding_size,
    }
}

/// Returns the size of the largest heap that is local to the device, which wgpu itself does not report. The heaps do
/// not add up: drivers list the window through which the processor writes to a heap as another.
fn memory_bytes(adapter: &wgpu::Adapter) -> u64 {
    // SAFETY: The handles are used only while `adapter` is borrowed, and only to read a property; nothing is destroyed.
    #[expect(unsafe_code, reason = "wgpu gives access to Vulkan's own handles only this way")]
    let properties = unsafe {
        adapter.as_hal::<wgpu::hal::api::Vulkan>().map(|vulkan| {
            let instance = vulkan.shared_instance().raw_instance();
            instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
        })
    };
    let Some(properties) = properties else { return 0 };
    let heaps = &properties.memory_heaps[..properties.memory_heap_count as usize];
    // Bit 0 is VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
    heaps.iter().filter(|heap| heap.flags.as_raw() & 1 == 1).map(|heap| heap.size).max().unwrap_or(0)
}

/// Returns the result of one of wgpu's futures, which are ready at once on every platform but the web.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> Result<T> {
    match pin!(future).poll(&mut task::Context::from_waker(task::Waker::noop())) {
        task::Poll::Ready(value) => Ok(value),
        task::Poll::Pending => Err(Error::internal("the driver's answer was not ready at once")),
    }
}
