//! Which kernels of operators may run on a device.

use std::collections::BTreeSet;

use cenote_base::Share;
use cenote_operator::{BoundOperator, Kernel};
use cenote_scheduler::{Choice, PlacedOptions, WorkOptions};

/// What a batch holds of a device: several may be there at once.
pub(crate) const DEVICE_SHARE: Share = Share::Fraction(0.25);

/// Devices of the scheduler that have kernels of operators.
#[derive(Debug, Clone)]
pub struct Devices {
    /// What requests call them.
    pub class: String,
    /// The kernels they have.
    pub kernels: BTreeSet<&'static str>,
    /// Where such work goes.
    pub choice: Choice,
}

impl Devices {
    /// The part of `operator` that may run here.
    pub(crate) fn kernel<'a>(&self, operator: &'a BoundOperator) -> Option<&'a Kernel> {
        operator.kernel().filter(|kernel| self.kernels.contains(kernel.name))
    }

    /// How `kernel` is placed, which runs as `work` says where it runs on the CPU.
    pub(crate) fn placed(&self, kernel: &Kernel, work: WorkOptions) -> PlacedOptions {
        PlacedOptions {
            work,
            class: self.class.clone(),
            share: DEVICE_SHARE,
            kernel: kernel.name.to_owned(),
            choice: self.choice,
        }
    }
}
