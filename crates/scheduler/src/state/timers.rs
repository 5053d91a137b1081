//! What is to happen later, in order of time.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

use crate::state::arena::Key;

/// What happens when its time comes.
#[derive(Debug)]
pub(crate) enum Event {
    /// A task's pause between two tries is over.
    Retry(Key),
    /// An actor may have states that were idle for long enough.
    Idle(Key),
}

#[derive(Default)]
pub(crate) struct Timers {
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    /// When the first event comes.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next event whose time has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Event> {
        let first = self.events.first_entry()?;
        if first.key().0 > now { None } else { Some(first.remove()) }
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("waiting", &self.events.len()).finish()
    }
}
