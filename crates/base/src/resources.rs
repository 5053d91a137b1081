//! Resource requests of pieces of work.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The resources that a piece of work holds while it runs. Plain data: the scheduler decides when to grant them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU cores, fractions allowed.
    pub cpu: f32,
    /// Bytes of memory that the work may hold beside its input and output.
    pub memory_bytes: u64,
    /// Units of named resources, such as `fpga` or `licence`.
    pub named: BTreeMap<String, u32>,
    /// A share of one device; work that asks for one runs on that device's thread.
    #[serde(default)]
    pub device: Option<DeviceShare>,
}

/// A part of one device of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceShare {
    /// The class of device, such as `gpu`.
    pub class: String,
    /// The part of the device.
    pub share: Share,
}

/// A part of a device, measured by the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Share {
    /// A fraction of the device's memory, up to 1.
    Fraction(f32),
    /// Bytes of the device's memory.
    MemoryBytes(u64),
}

impl Resources {
    /// Returns a request for `cpu` cores and nothing else.
    pub fn cpu(cpu: f32) -> Self {
        Self { cpu, memory_bytes: 0, named: BTreeMap::new(), device: None }
    }

    /// Requests `bytes` of memory.
    pub fn with_memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Requests `units` of the resource called `name`.
    pub fn with_named(mut self, name: impl Into<String>, units: u32) -> Self {
        self.named.insert(name.into(), units);
        self
    }

    /// Requests `share` of one device of `class`.
    pub fn with_device(mut self, class: impl Into<String>, share: Share) -> Self {
        self.device = Some(DeviceShare { class: class.into(), share });
        self
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::cpu(1.0)
    }
}
