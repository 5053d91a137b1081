//! What a piece of work asks of the machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A resource request: what one worker holds while it runs. Plain data; who grants it is the scheduler's affair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU cores, fractions allowed.
    pub cpu: f32,
    /// Bytes of memory the worker may hold beside its input and output.
    pub memory_bytes: u64,
    /// Units of named resources, such as `gpu` or `licence`.
    pub named: BTreeMap<String, u32>,
}

impl Resources {
    /// A request for `cpu` cores and nothing else.
    pub fn cpu(cpu: f32) -> Self {
        Self { cpu, memory_bytes: 0, named: BTreeMap::new() }
    }

    /// The same request with `bytes` of memory.
    pub fn with_memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::cpu(1.0)
    }
}
