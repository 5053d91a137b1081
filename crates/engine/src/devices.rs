//! The kernels of operators that may run on a device.

use std::collections::BTreeSet;

use cenote_base::Share;
use cenote_operator::{BoundOperator, Kernel};
use cenote_scheduler::{PlacedOptions, PlacementChoice, WorkOptions};

/// The share of a device that a batch holds: several batches may be on it at once.
pub(crate) const DEVICE_SHARE: Share = Share::Fraction(0.25);

/// A class of the scheduler's devices, and the kernels of operators that they have.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The name of the class in resource requests.
    pub class: String,
    /// The names of the kernels that the devices have.
    pub kernels: BTreeSet<&'static str>,
    /// The rule by which work goes to a device or to the CPU.
    pub choice: PlacementChoice,
}

impl Devices {
    /// Returns the kernel of `operator` if these devices have it.
    pub(crate) fn kernel<'a>(&self, operator: &'a BoundOperator) -> Option<&'a Kernel> {
        operator.kernel().filter(|kernel| self.kernels.contains(kernel.name))
    }

    /// Returns options that place `kernel`. On the CPU it runs as `work` says.
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
