//! Events at a later time, in the order of time.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

use super::arena::Key;

/// An event that a timer brings.
#[derive(Debug)]
pub(crate) enum Event {
    /// The pause of a task between two tries is over.
    Retry(Key),
    /// An actor may have states that have been idle for long enough to retire.
    Idle(Key),
}

/// The timers that have not fired. Timers of the same time fire in the order in which they were added.
#[derive(Default)]
pub(crate) struct Timers {
    events: BTreeMap<(Instant, u64), Event>,
    added: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, event: Event) {
        self.added += 1;
        self.events.insert((at, self.added), event);
    }

    /// Returns the time of the first event.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes and returns the first event whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Event> {
        let first = self.events.first_entry()?;
        if first.key().0 > now { None } else { Some(first.remove()) }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("waiting", &self.events.len()).finish()
    }
}
