//! Actors as the core sees them: a mailbox, and the states that calls run on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::{Core, Effect};
use crate::state::arena::{Arena, Key};
use crate::state::fair::Place;
use crate::state::ledger::{Grant, Request};
use crate::state::task::{ActorCall, Task, TaskState};
use crate::state::timers::Event;

/// Where the states of an actor are kept, by number.
pub(crate) trait States: Send + Sync {
    /// Drops state `number`, if it is there.
    fn drop_state(&self, number: usize);
}

/// How an actor is run.
pub(crate) struct NewActor {
    /// What a call that builds a state asks for; all but the CPU is then held as long as the state.
    pub(crate) request: Request,
    pub(crate) states_max: usize,
    /// How long a state is kept without a call.
    pub(crate) idle: Duration,
    pub(crate) states: Arc<dyn States>,
}

struct Record {
    actor: NewActor,
    /// What a call on a state asks for.
    call: Request,
    mailbox: VecDeque<Key>,
    replicas: Vec<Replica>,
    /// Calls that wait for the resources of a new state, oldest first.
    growing: VecDeque<Key>,
    /// Calls that have not ended, in whatever state.
    calls: usize,
    idle_timer: bool,
    has_handle: bool,
}

/// The place of one state, and what it holds.
#[derive(Debug, Default)]
enum Replica {
    #[default]
    Absent,
    /// A call is to build it.
    Growing,
    Busy(Grant),
    Idle(Grant, Instant),
    /// The state is being dropped; what it holds is given back afterwards.
    Leaving(Grant),
}

#[derive(Default)]
pub(crate) struct Actors {
    arena: Arena<Record>,
}

impl Record {
    fn count(&self) -> usize {
        self.replicas.iter().filter(|replica| !matches!(replica, Replica::Absent)).count()
    }

    fn first_idle(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| matches!(replica, Replica::Idle(..)))
    }

    /// A place for one more state.
    fn vacancy(&mut self) -> Option<usize> {
        let absent = self.replicas.iter().position(|replica| matches!(replica, Replica::Absent));
        absent.or_else(|| {
            let is_allowed = self.replicas.len() < self.actor.states_max;
            is_allowed.then(|| {
                self.replicas.push(Replica::Absent);
                self.replicas.len() - 1
            })
        })
    }

    /// Gives up state `number`, which runs no call. `actor` is the record's own key.
    fn give_up(&mut self, actor: Key, number: usize) -> Option<Effect> {
        let grant = match std::mem::take(&mut self.replicas[number]) {
            Replica::Busy(grant) | Replica::Idle(grant, _) => grant,
            other => {
                self.replicas[number] = other;
                return None;
            }
        };
        self.replicas[number] = Replica::Leaving(grant);
        Some(Effect::DropState { actor, states: Arc::clone(&self.actor.states), number })
    }
}

impl Actors {
    pub(crate) fn add(&mut self, actor: NewActor) -> Key {
        let (_, call) = actor.request.split_for_actor();
        self.arena.insert(Record {
            actor,
            call,
            mailbox: VecDeque::new(),
            replicas: Vec::new(),
            growing: VecDeque::new(),
            calls: 0,
            idle_timer: false,
            has_handle: true,
        })
    }

    pub(crate) fn joined(&mut self, actor: Key) {
        if let Some(record) = self.arena.get_mut(actor) {
            record.calls += 1;
        }
    }

    pub(crate) fn left(&mut self, actor: Key) {
        if let Some(record) = self.arena.get_mut(actor) {
            record.calls -= 1;
        }
    }

    pub(crate) fn queue(&mut self, actor: Key, task: Key) {
        if let Some(record) = self.arena.get_mut(actor) {
            record.mailbox.push_back(task);
        }
    }

    /// A call no longer waits: it starts, or is not to start any more.
    pub(crate) fn unqueue(&mut self, actor: Key, task: Key) {
        if let Some(record) = self.arena.get_mut(actor) {
            record.mailbox.retain(|waiting| *waiting != task);
            record.growing.retain(|waiting| *waiting != task);
        }
    }

    /// What `task` asks for when it starts.
    pub(crate) fn request<'a>(&'a self, task: &'a Task) -> &'a Request {
        match task.actor {
            Some(ActorCall { actor, grows: false, .. }) => {
                self.arena.get(actor).map_or(&task.spec.request, |record| &record.call)
            }
            _ => &task.spec.request,
        }
    }

    /// The state that a call was to build holds `grant` from now on.
    pub(crate) fn grown(&mut self, call: ActorCall, grant: Grant) {
        if let (Some(record), Some(number)) = (self.arena.get_mut(call.actor), call.replica) {
            record.replicas[number] = Replica::Busy(grant);
        }
    }

    /// A call is off its replica. A state whose call failed is suspect, and is given up.
    fn leave(&mut self, call: ActorCall, has_failed: bool, now: Instant) -> Option<Effect> {
        let (record, number) = (self.arena.get_mut(call.actor)?, call.replica?);
        if has_failed {
            return record.give_up(call.actor, number);
        }
        if let Replica::Busy(grant) = std::mem::take(&mut record.replicas[number]) {
            record.replicas[number] = Replica::Idle(grant, now);
        }
        None
    }

    /// What states hold.
    #[cfg(test)]
    pub(crate) fn grants(&self) -> Vec<Grant> {
        let replicas = self.arena.iter().flat_map(|(_, record)| &record.replicas);
        let held = replicas.filter_map(|replica| match replica {
            Replica::Busy(grant) | Replica::Idle(grant, _) | Replica::Leaving(grant) => Some(grant.clone()),
            Replica::Growing | Replica::Absent => None,
        });
        held.collect()
    }

    /// States that there are, over all actors.
    pub(crate) fn replicas(&self) -> usize {
        self.arena.iter().map(|(_, record)| record.count()).sum()
    }
}

impl Core {
    /// Takes a call off its replica, which is then free for the next, unless the call ran and failed.
    pub(crate) fn leave_replica(&mut self, key: Key, has_failed: bool, now: Instant) {
        let Some(call) = self.tasks.get_mut(key).and_then(|task| task.actor.as_mut()) else { return };
        let left = *call;
        (call.replica, call.grows) = (None, false);
        self.effects.extend(self.actors.leave(left, has_failed, now));
        self.promote(left.actor, now);
    }

    /// Hands waiting calls to free states, and has states built for those that wait still, as many as there may be.
    pub(crate) fn promote(&mut self, actor: Key, now: Instant) {
        while let Some(record) = self.actors.arena.get_mut(actor) {
            let (key, number, grows) = if let Some(number) = record.first_idle() {
                // A call that waits for a new state is older than those in the mailbox, and better off here.
                let Some(key) = record.growing.pop_front().or_else(|| record.mailbox.pop_front()) else { break };
                let Replica::Idle(grant, _) = std::mem::take(&mut record.replicas[number]) else { break };
                record.replicas[number] = Replica::Busy(grant);
                (key, number, false)
            } else {
                let Some(number) = record.vacancy() else { break };
                let Some(key) = record.mailbox.pop_front() else { break };
                record.replicas[number] = Replica::Growing;
                record.growing.push_back(key);
                (key, number, true)
            };
            let Some(task) = self.tasks.get_mut(key) else { continue };
            let Some(call) = &mut task.actor else { continue };
            if let Some(vacated) = call.replica {
                record.replicas[vacated] = Replica::Absent;
                self.fair.remove(task.spec.job, key);
            }
            (call.replica, call.grows) = (Some(number), grows);
            task.state = TaskState::Ready;
            let request = if grows { &record.actor.request } else { &record.call };
            self.fair.push(task.spec.job, Place::Pool, request, key);
        }
        self.rest_actor(actor, now);
    }

    /// Gives up states that have been idle for long enough, and all of them when the actor is done.
    pub(crate) fn rest_actor(&mut self, actor: Key, now: Instant) {
        let Some(record) = self.actors.arena.get_mut(actor) else { return };
        let is_done = record.calls == 0 && !record.has_handle;
        let mut next: Option<Instant> = None;
        for number in 0..record.replicas.len() {
            let Replica::Idle(_, since) = &record.replicas[number] else { continue };
            let due = since.checked_add(record.actor.idle);
            if is_done || due.is_some_and(|due| due <= now) {
                self.effects.extend(record.give_up(actor, number));
            } else {
                next = next.into_iter().chain(due).min();
            }
        }
        if let (Some(next), false) = (next, record.idle_timer) {
            record.idle_timer = true;
            self.timers.add(next, Event::Idle(actor));
        }
        if is_done && record.count() == 0 {
            self.actors.arena.remove(actor);
        }
    }

    /// A state that was given up has been dropped: what it held is free.
    pub(crate) fn state_dropped(&mut self, actor: Key, number: usize, now: Instant) {
        let Some(record) = self.actors.arena.get_mut(actor) else { return };
        if let Replica::Leaving(grant) = std::mem::take(&mut record.replicas[number]) {
            self.ledger.give(&grant);
        }
        self.promote(actor, now);
    }

    /// Gives up the state that has been idle for longest among those that hold what waiting work lacks.
    pub(crate) fn make_room(&mut self) {
        let mut longest: Option<(Instant, Key, usize)> = None;
        for (actor, record) in self.actors.arena.iter() {
            for (number, replica) in record.replicas.iter().enumerate() {
                let Replica::Idle(grant, since) = replica else { continue };
                let is_longer = longest.is_none_or(|(other, _, _)| *since < other);
                if is_longer && self.is_wanted(grant) {
                    longest = Some((*since, actor, number));
                }
            }
        }
        if let Some((_, actor, number)) = longest
            && let Some(record) = self.actors.arena.get_mut(actor)
        {
            self.effects.extend(record.give_up(actor, number));
        }
    }

    /// Whether the oldest task of some queue lacks what `grant` holds.
    fn is_wanted(&self, grant: &Grant) -> bool {
        self.fair.queues().any(|(_, request, _, oldest)| {
            let inputs = self.tasks.get(oldest).map(|task| task.distinct.iter());
            let bytes: Option<u64> = inputs.and_then(|mut inputs| {
                inputs.try_fold(0, |bytes, input| Some(bytes + self.objects.pin_bytes(*input)?))
            });
            bytes.is_some_and(|bytes| self.ledger.would_help(&grant.request, request, bytes))
        })
    }

    /// The timer of an actor came.
    pub(crate) fn wake_actor(&mut self, actor: Key, now: Instant) {
        if let Some(record) = self.actors.arena.get_mut(actor) {
            record.idle_timer = false;
            self.rest_actor(actor, now);
        }
    }

    /// Nobody can call an actor any more: it goes with its last call.
    pub(crate) fn close_actor(&mut self, actor: Key, now: Instant) {
        if let Some(record) = self.actors.arena.get_mut(actor) {
            record.has_handle = false;
            self.rest_actor(actor, now);
        }
    }
}
