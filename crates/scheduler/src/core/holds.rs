//! Memory that is set aside for work outside the scheduler.

use super::Core;
use crate::state::arena::Key;
use crate::state::ledger::Grant;

impl Core {
    /// Adds a hold that holds nothing yet. A task that names it in its spec fills it.
    pub(crate) fn add_hold(&mut self) -> Key {
        self.holds.insert(Grant::default())
    }

    /// Has `hold` keep `grant`, unless the hold was dropped meanwhile.
    pub(super) fn keep_in(&mut self, hold: Key, grant: Grant) {
        match self.holds.get_mut(hold) {
            Some(held) => *held = grant,
            None => self.ledger.give(grant),
        }
    }

    pub(crate) fn release_hold(&mut self, hold: Key) {
        if let Some(grant) = self.holds.remove(hold) {
            self.ledger.give(grant);
        }
    }
}
