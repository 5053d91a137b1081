//! Fusion: consecutive steps of a group that run as one task, and the resources that they request together.

use std::ops::Range;
use std::sync::Arc;

use cenote_base::Resources;

use crate::devices::{DEVICE_SHARE, Devices};
use crate::engine::Engine;
use crate::plan::PlannedStep;

/// The number of equal shares of the scheduler's memory: one bounds the rows of a pass, another the memory of a task.
pub(super) const MEMORY_SHARES: u64 = 2;

/// Consecutive steps of a group that run as one task.
#[derive(Debug, PartialEq)]
pub(crate) struct FusedSteps {
    /// The indexes of the steps in the group.
    pub(crate) steps: Range<usize>,
    /// The resources that the task requests.
    pub(crate) resources: Resources,
}

/// Splits `steps` into runs of as many consecutive steps as can share a task.
pub(crate) fn fused_steps(engine: &Engine, steps: &[Arc<PlannedStep>]) -> Vec<FusedSteps> {
    let devices = engine.options().devices.as_ref();
    let requests: Vec<Resources> = steps.iter().map(|step| request(step, devices)).collect();
    fuse(&requests, engine.scheduler().usage().total.memory_bytes / MEMORY_SHARES)
}

/// Returns the resources that `step` requests, including the device that its kernel may run on.
fn request(step: &PlannedStep, devices: Option<&Devices>) -> Resources {
    let resources = step.operator.resources();
    match devices.filter(|devices| devices.kernel(&step.operator).is_some()) {
        Some(devices) => resources.with_device(devices.class.as_str(), DEVICE_SHARE),
        None => resources,
    }
}

/// Joins consecutive requests for neither a device nor named resources and for the same share of CPU, as long as their
/// memory adds up to at most `memory_bytes_max`.
fn fuse(requests: &[Resources], memory_bytes_max: u64) -> Vec<FusedSteps> {
    let runs_alone = |request: &Resources| request.device.is_some() || !request.named.is_empty();
    let mut fused: Vec<FusedSteps> = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        match fused.last_mut() {
            Some(FusedSteps { steps, resources })
                if !runs_alone(resources)
                    && !runs_alone(request)
                    && resources.cpu == request.cpu
                    && resources.memory_bytes.saturating_add(request.memory_bytes) <= memory_bytes_max =>
            {
                steps.end = number + 1;
                // The worker of each step lives while the others run, so their memory adds up.
                resources.memory_bytes += request.memory_bytes;
            }
            _ => fused.push(FusedSteps { steps: number..number + 1, resources: request.clone() }),
        }
    }
    fused
}

#[cfg(test)]
mod tests {
    use cenote_base::Share;

    use super::*;

    #[test]
    fn steps_are_fused_where_nothing_forbids_it() {
        let step = |memory: u64| Resources::cpu(1.0).with_memory_bytes(memory);
        let device = step(1).with_device("gpu", Share::Fraction(1.0));
        let requests = [step(10), step(20), Resources::cpu(2.0), device.clone(), step(60), step(50)];
        let fused = |steps: Range<usize>, resources: Resources| FusedSteps { steps, resources };
        let expected = [
            fused(0..2, step(30)),
            fused(2..3, Resources::cpu(2.0)),
            fused(3..4, device),
            fused(4..5, step(60)),
            fused(5..6, step(50)),
        ];
        assert_eq!(fuse(&requests, 100), expected);
    }
}
