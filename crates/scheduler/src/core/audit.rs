//! Checks of what must hold after every event: the sums agree with the parts, and nothing is granted twice.

use super::Core;
use super::task::TaskState;

impl Core {
    /// Panics unless the core's sums agree with its parts, and no resource is granted beyond its total.
    /// `in_transit_bytes` may be in memory beyond the budget: one output for each thread.
    pub(crate) fn audit(&self, in_transit_bytes: u64) {
        let pinned_bytes = self.objects.audit(self.ledger.memory(), in_transit_bytes);
        let mut grants = self.actors.grants();
        grants.extend(self.holds.iter().map(|(_, grant)| grant.clone()));
        let mut running = 0;
        for (_, task) in self.tasks.iter() {
            if let TaskState::Running(task) = &task.state {
                grants.push(task.grant.clone());
                running += 1;
            }
        }
        self.ledger.audit(&grants, pinned_bytes);
        self.fair.audit(running);
    }

    /// Panics unless all objects are forgotten, all states dropped and all memory is free.
    pub(crate) fn assert_empty(&self) {
        assert!(self.objects.is_empty(), "objects are left");
        let memory = self.ledger.memory();
        assert_eq!((memory.held(), memory.idle()), (0, 0));
        assert!(self.actors.grants().is_empty(), "states of actors are left");
    }
}
