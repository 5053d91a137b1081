//! What must hold after every event: the books agree with what is there, and nothing is given out twice.

use crate::core::Core;
use crate::state::object_table::State;
use crate::state::task::TaskState;

/// Panics unless the core's sums agree with its parts, and no resource is given out beyond its total.
///
/// `in_transit_bytes` is how much may be in memory beyond the budget: one output for each thread.
pub(crate) fn audit(core: &Core, in_transit_bytes: u64) {
    let memory = &core.ledger.memory;
    let (mut pinned, mut idle, mut present) = (0, 0, 0);
    for (key, object) in core.objects.arena.iter() {
        match &object.state {
            State::InMemory(value) => {
                assert_eq!(value.size_bytes(), object.bytes);
                present += object.bytes;
                idle += if object.pins == 0 { object.bytes } else { 0 };
            }
            State::Spilling(_) => present += object.bytes,
            State::Restoring => assert!(object.pins > 0, "{key:?} is restored for nobody"),
            _ => assert_eq!(object.pins, 0, "{key:?} is pinned and not there"),
        }
        pinned += if object.pins > 0 { object.bytes } else { 0 };
        let needed = object.users > 0 || object.pins > 0 || object.has_descendants();
        assert!(needed || matches!(object.state, State::Pending), "{key:?} is kept for nobody");
    }
    let mut grants = core.actors.grants();
    grants.extend(core.holds.iter().map(|(_, grant)| grant.clone()));
    let mut running = 0;
    for (_, task) in core.tasks.iter() {
        if let TaskState::Running(run) = &task.state {
            grants.push(run.grant.clone());
            running += 1;
        }
    }
    core.ledger.audit(&grants, pinned);
    assert_eq!(memory.idle, idle, "idle bytes");
    assert!(memory.held + memory.idle <= memory.total, "{memory:?} is over budget");
    assert!(present <= memory.total + in_transit_bytes, "{present} bytes are there, of {}", memory.total);
    core.fair.audit(running);
}
