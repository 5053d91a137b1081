//! All actors: the calls that wait for each one, and the states that calls run on.
//!
//! A *replica* is a numbered slot for one state of an actor, and what that state holds. The states themselves belong to
//! the caller's side, behind [`ActorStates`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::arena::{Arena, Key};
use super::ledger::{Grant, ResourceRequest};
use super::task_spec::ActorCall;

/// The states of an actor, by the number of their replica.
pub(crate) trait ActorStates: Send + Sync {
    /// Drops the state of replica `number`, if there is one.
    fn drop_state(&self, number: usize);
}

/// The settings of an actor.
pub(crate) struct NewActor {
    /// The request of a call that builds a state. The state holds all of it but the CPU.
    pub(crate) request: ResourceRequest,
    pub(crate) states_max: usize,
    /// How long a state is kept without a call.
    pub(crate) idle: Duration,
    pub(crate) states: Arc<dyn ActorStates>,
}

/// All actors that have a handle, a call or a state.
#[derive(Default)]
pub(crate) struct ActorTable {
    actors: Arena<ActorRecord>,
}

struct ActorRecord {
    settings: NewActor,
    /// The request of a call on an existing state.
    call_request: ResourceRequest,
    /// Calls that wait for a replica, oldest first.
    mailbox: VecDeque<Key>,
    replicas: Vec<Replica>,
    /// Calls that wait for the resources of a new state, oldest first.
    building: VecDeque<Key>,
    /// Calls that have not ended.
    calls: usize,
    has_idle_timer: bool,
    has_handle: bool,
}

#[derive(Debug, Default)]
enum Replica {
    #[default]
    Absent,
    /// A call is going to build the state.
    Building,
    Busy(Grant),
    Idle {
        grant: Grant,
        since: Instant,
    },
    /// The state is being dropped. The grant is given back afterwards.
    Retired(Grant),
}

/// A call that was assigned to a replica.
pub(crate) struct CallAssignment {
    pub(crate) task: Key,
    pub(crate) replica: usize,
    /// Whether the call builds the state.
    pub(crate) builds: bool,
}

/// A state that is not used any more. It is dropped without the lock, then [`ActorTable::state_dropped`] is called.
pub(crate) struct RetiredState {
    pub(crate) actor: Key,
    pub(crate) replica: usize,
    pub(crate) states: Arc<dyn ActorStates>,
}

/// The idle states of an actor that were retired.
#[derive(Default)]
pub(crate) struct Retirement {
    pub(crate) states: Vec<RetiredState>,
    /// The time of a new timer for the next state to retire, if there has to be one.
    pub(crate) timer: Option<Instant>,
}

/// An idle state, and what it holds.
pub(crate) struct IdleState<'a> {
    pub(crate) actor: Key,
    pub(crate) replica: usize,
    pub(crate) grant: &'a Grant,
    pub(crate) since: Instant,
}

impl ActorRecord {
    fn state_count(&self) -> usize {
        self.replicas.iter().filter(|replica| !matches!(replica, Replica::Absent)).count()
    }

    /// Takes the first idle replica, which is busy from now on.
    fn take_idle(&mut self) -> Option<usize> {
        let number = self.replicas.iter().position(|replica| matches!(replica, Replica::Idle { .. }))?;
        if let Replica::Idle { grant, .. } = std::mem::take(&mut self.replicas[number]) {
            self.replicas[number] = Replica::Busy(grant);
        }
        Some(number)
    }

    /// Returns an absent replica, if the actor may have one more state.
    fn vacancy(&mut self) -> Option<usize> {
        let absent = self.replicas.iter().position(|replica| matches!(replica, Replica::Absent));
        absent.or_else(|| {
            let is_allowed = self.replicas.len() < self.settings.states_max;
            is_allowed.then(|| {
                self.replicas.push(Replica::Absent);
                self.replicas.len() - 1
            })
        })
    }

    /// Retires the state of replica `number`, which runs no call. `key` is the actor's own key.
    fn retire(&mut self, key: Key, number: usize) -> Option<RetiredState> {
        match std::mem::take(&mut self.replicas[number]) {
            Replica::Busy(grant) | Replica::Idle { grant, .. } => {
                self.replicas[number] = Replica::Retired(grant);
                Some(RetiredState { actor: key, replica: number, states: Arc::clone(&self.settings.states) })
            }
            other => {
                self.replicas[number] = other;
                None
            }
        }
    }
}

impl ActorTable {
    pub(crate) fn add(&mut self, settings: NewActor) -> Key {
        self.actors.insert(ActorRecord {
            call_request: settings.request.for_call(),
            settings,
            mailbox: VecDeque::new(),
            replicas: Vec::new(),
            building: VecDeque::new(),
            calls: 0,
            has_idle_timer: false,
            has_handle: true,
        })
    }

    /// Counts a call that was submitted.
    pub(crate) fn call_submitted(&mut self, actor: Key) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.calls += 1;
        }
    }

    /// Discounts a call that has ended.
    pub(crate) fn call_ended(&mut self, actor: Key) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.calls -= 1;
        }
    }

    /// Puts a call into the mailbox.
    pub(crate) fn queue(&mut self, actor: Key, task: Key) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.mailbox.push_back(task);
        }
    }

    /// Removes a call that no longer waits, because it starts or ends.
    pub(crate) fn unqueue(&mut self, actor: Key, task: Key) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.mailbox.retain(|waiting| *waiting != task);
            actor.building.retain(|waiting| *waiting != task);
        }
    }

    /// Returns the request of `call`.
    pub(crate) fn request(&self, call: ActorCall) -> Option<&ResourceRequest> {
        let actor = self.actors.get(call.actor)?;
        Some(if call.builds { &actor.settings.request } else { &actor.call_request })
    }

    /// Assigns a waiting call to an idle state, or to a new state if there may be one more.
    pub(crate) fn assign(&mut self, actor: Key) -> Option<CallAssignment> {
        let actor = self.actors.get_mut(actor)?;
        if actor.building.is_empty() && actor.mailbox.is_empty() {
            return None;
        }
        if let Some(replica) = actor.take_idle() {
            // A call that waits for a new state is older than those in the mailbox, and need not wait for it any more.
            let task = actor.building.pop_front().or_else(|| actor.mailbox.pop_front())?;
            return Some(CallAssignment { task, replica, builds: false });
        }
        if actor.mailbox.is_empty() {
            return None;
        }
        let replica = actor.vacancy()?;
        let task = actor.mailbox.pop_front()?;
        actor.replicas[replica] = Replica::Building;
        actor.building.push_back(task);
        Some(CallAssignment { task, replica, builds: true })
    }

    /// Frees a replica whose state is not going to be built, because its call was assigned to another one.
    pub(crate) fn vacate(&mut self, actor: Key, replica: usize) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.replicas[replica] = Replica::Absent;
        }
    }

    /// Has the state that `call` was to build hold `grant` from now on.
    pub(crate) fn built(&mut self, call: ActorCall, grant: Grant) {
        if let (Some(actor), Some(number)) = (self.actors.get_mut(call.actor), call.replica) {
            actor.replicas[number] = Replica::Busy(grant);
        }
    }

    /// Takes a call off its replica, whose state is idle from now on. The state of a failed call is suspect, so it is
    /// retired.
    pub(crate) fn leave(&mut self, call: ActorCall, has_failed: bool, now: Instant) -> Option<RetiredState> {
        let (actor, number) = (self.actors.get_mut(call.actor)?, call.replica?);
        if has_failed {
            return actor.retire(call.actor, number);
        }
        if let Replica::Busy(grant) = std::mem::take(&mut actor.replicas[number]) {
            actor.replicas[number] = Replica::Idle { grant, since: now };
        }
        None
    }

    /// Retires the states that have been idle for long enough. An actor without handle and calls retires all of them,
    /// and is forgotten once they are dropped.
    pub(crate) fn retire_idle(&mut self, key: Key, now: Instant) -> Retirement {
        let mut retirement = Retirement::default();
        let Some(actor) = self.actors.get_mut(key) else { return retirement };
        let is_done = actor.calls == 0 && !actor.has_handle;
        let mut next: Option<Instant> = None;
        for number in 0..actor.replicas.len() {
            let Replica::Idle { since, .. } = &actor.replicas[number] else { continue };
            let due = since.checked_add(actor.settings.idle);
            if is_done || due.is_some_and(|due| due <= now) {
                retirement.states.extend(actor.retire(key, number));
            } else {
                next = next.into_iter().chain(due).min();
            }
        }
        if next.is_some() && !actor.has_idle_timer {
            actor.has_idle_timer = true;
            retirement.timer = next;
        }
        if is_done && actor.state_count() == 0 {
            self.actors.remove(key);
        }
        retirement
    }

    /// Returns the grant of a retired state that has been dropped.
    pub(crate) fn state_dropped(&mut self, actor: Key, replica: usize) -> Option<Grant> {
        let replica = self.actors.get_mut(actor)?.replicas.get_mut(replica)?;
        match std::mem::take(replica) {
            Replica::Retired(grant) => Some(grant),
            _ => None,
        }
    }

    pub(crate) fn idle_states(&self) -> impl Iterator<Item = IdleState<'_>> {
        self.actors.iter().flat_map(|(key, actor)| {
            actor.replicas.iter().enumerate().filter_map(move |(number, replica)| match replica {
                Replica::Idle { grant, since } => Some(IdleState { actor: key, replica: number, grant, since: *since }),
                _ => None,
            })
        })
    }

    /// Retires the state of a replica that runs no call.
    pub(crate) fn retire(&mut self, actor: Key, replica: usize) -> Option<RetiredState> {
        self.actors.get_mut(actor)?.retire(actor, replica)
    }

    /// Marks that the idle timer of an actor has fired.
    pub(crate) fn timer_fired(&mut self, actor: Key) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.has_idle_timer = false;
        }
    }

    /// Marks that the handle of an actor was dropped.
    pub(crate) fn close(&mut self, actor: Key) {
        if let Some(actor) = self.actors.get_mut(actor) {
            actor.has_handle = false;
        }
    }

    /// Returns the number of states of all actors.
    pub(crate) fn state_count(&self) -> usize {
        self.actors.iter().map(|(_, actor)| actor.state_count()).sum()
    }

    /// Returns the grants of all states.
    #[cfg(test)]
    pub(crate) fn grants(&self) -> Vec<Grant> {
        let replicas = self.actors.iter().flat_map(|(_, actor)| &actor.replicas);
        let grants = replicas.filter_map(|replica| match replica {
            Replica::Busy(grant) | Replica::Idle { grant, .. } | Replica::Retired(grant) => Some(grant.clone()),
            Replica::Building | Replica::Absent => None,
        });
        grants.collect()
    }
}
