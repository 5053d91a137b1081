//! What is to happen later, in order of time.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

use crate::arena::Key;

/// What happens when its time comes.
pub(crate) enum Event {
    /// A task's pause between two tries is over.
    Retry(Key),
    /// A task's time is over.
    Deadline(Key),
    /// An actor may have been idle for long enough to give up replicas.
    Idle(Key),
    /// Somebody outside wants to know.
    Call(Box<dyn FnOnce() + Send>),
}

/// Names an event that is still to come.
pub(crate) type TimerKey = (Instant, u64);

#[derive(Default)]
pub(crate) struct Timers {
    events: BTreeMap<TimerKey, Event>,
    count: u64,
}

impl Timers {
    pub(crate) fn add(&mut self, at: Instant, event: Event) -> TimerKey {
        self.count += 1;
        self.events.insert((at, self.count), event);
        (at, self.count)
    }

    pub(crate) fn remove(&mut self, key: TimerKey) {
        self.events.remove(&key);
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
