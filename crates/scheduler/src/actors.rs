//! Actors as the core sees them: a mailbox, and the states that calls run on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::arena::{Arena, Key};
use crate::core::{Core, Effect};
use crate::fair::Place;
use crate::ledger::{Grant, Request};
use crate::task::{ActorCall, Task, TaskState};
use crate::timers::Event;

/// Where the states of an actor are kept, by number.
pub(crate) trait States: Send + Sync {
    /// Drops state `number`.
    fn drop_state(&self, number: usize);
}

/// How an actor is run.
pub(crate) struct NewActor {
    pub(crate) place: Place,
    /// What a call that builds a state asks for; all but the CPU is then held as long as the state.
    pub(crate) request: Request,
    pub(crate) replicas_min: usize,
    pub(crate) replicas_max: usize,
    /// In how much time the calls that wait should have had their turn: more states are built until they would.
    pub(crate) catch_up: Duration,
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
    service_s: Option<f64>,
    /// Calls that have not ended, in whatever state.
    calls: usize,
    idle_timer: bool,
    has_handle: bool,
}

#[derive(Debug, Default)]
enum Replica {
    #[default]
    Absent,
    /// A call is to build it.
    Growing,
    Busy(Grant),
    Idle(Grant, Instant),
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

    /// States that would serve all calls in time: queue depth times service time.
    fn wanted(&self) -> usize {
        let at_work = |replica: &&Replica| matches!(replica, Replica::Busy(_) | Replica::Growing);
        let depth = self.mailbox.len() + self.replicas.iter().filter(at_work).count();
        let work_s = depth as f64 * self.service_s.unwrap_or(0.0);
        let wanted = (work_s / self.actor.catch_up.as_secs_f64()).ceil() as usize;
        wanted.clamp(self.actor.replicas_min.max(1), self.actor.replicas_max)
    }

    /// A place for one more state.
    fn vacancy(&mut self) -> usize {
        let absent = self.replicas.iter().position(|replica| matches!(replica, Replica::Absent));
        absent.unwrap_or_else(|| {
            self.replicas.push(Replica::Absent);
            self.replicas.len() - 1
        })
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
            service_s: None,
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

    /// A call built its state, which holds `grant` from now on.
    pub(crate) fn grown(&mut self, call: ActorCall, grant: Grant) {
        if let (Some(record), Some(number)) = (self.arena.get_mut(call.actor), call.replica) {
            record.replicas[number] = Replica::Busy(grant);
        }
    }

    pub(crate) fn served(&mut self, call: ActorCall, service: Duration) {
        // The first call on a state builds it too, which says nothing of the calls after it.
        if let Some(record) = self.arena.get_mut(call.actor).filter(|_| !call.grows) {
            let service_s = service.as_secs_f64();
            record.service_s = Some(record.service_s.map_or(service_s, |mean| mean + (service_s - mean) / 8.0));
        }
    }

    /// A call is off its replica; what it was to build and did not is gone.
    fn leave(&mut self, call: ActorCall, now: Instant) -> Option<Effect> {
        let (record, number) = (self.arena.get_mut(call.actor)?, call.replica?);
        let replica = &mut record.replicas[number];
        match std::mem::take(replica) {
            Replica::Busy(grant) => {
                *replica = Replica::Idle(grant, now);
                None
            }
            _ => Some(drop_state(&record.actor.states, number)),
        }
    }

    /// What states hold.
    #[cfg(test)]
    pub(crate) fn grants(&self) -> Vec<Grant> {
        let replicas = self.arena.iter().flat_map(|(_, record)| &record.replicas);
        let held = replicas.filter_map(|replica| match replica {
            Replica::Busy(grant) | Replica::Idle(grant, _) => Some(grant.clone()),
            Replica::Growing | Replica::Absent => None,
        });
        held.collect()
    }

    /// States that there are, over all actors.
    pub(crate) fn replicas(&self) -> usize {
        self.arena.iter().map(|(_, record)| record.count()).sum()
    }
}

fn drop_state(states: &Arc<dyn States>, number: usize) -> Effect {
    let states = Arc::clone(states);
    Effect::Call(Box::new(move || states.drop_state(number)))
}

impl Core {
    /// Takes a call off its replica, which is then free for the next.
    pub(crate) fn leave_replica(&mut self, key: Key, now: Instant) {
        let Some(call) = self.tasks.get_mut(key).and_then(|task| task.actor.as_mut()) else { return };
        let left = *call;
        (call.replica, call.grows) = (None, false);
        self.effects.extend(self.actors.leave(left, now));
        self.promote(left.actor, now);
    }

    /// Hands waiting calls to free states, and has more states built while the calls that wait would take too long.
    pub(crate) fn promote(&mut self, actor: Key, now: Instant) {
        while let Some(record) = self.actors.arena.get_mut(actor) {
            let (key, number, place, grows) = if let Some(number) = record.first_idle() {
                // A call that waits for a new state is older than those in the mailbox, and better off here.
                let Some(key) = record.growing.pop_front().or_else(|| record.mailbox.pop_front()) else { break };
                let Replica::Idle(grant, _) = std::mem::take(&mut record.replicas[number]) else { break };
                let place = grant.device.map_or(record.actor.place, Place::Device);
                record.replicas[number] = Replica::Busy(grant);
                (key, number, place, false)
            } else if !record.mailbox.is_empty() && record.count() < record.wanted() {
                let Some(key) = record.mailbox.pop_front() else { break };
                let number = record.vacancy();
                record.replicas[number] = Replica::Growing;
                record.growing.push_back(key);
                (key, number, record.actor.place, true)
            } else {
                break;
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
            self.fair.push(task.spec.job, place, request, key);
        }
        self.rest_actor(actor, now);
    }

    /// Gives up states that have been idle for long enough, and all of them when the actor is done.
    pub(crate) fn rest_actor(&mut self, actor: Key, now: Instant) {
        let Some(record) = self.actors.arena.get_mut(actor) else { return };
        let done = record.calls == 0 && !record.has_handle;
        let kept = if done { 0 } else { record.actor.replicas_min };
        let mut count = record.count();
        let mut next: Option<Instant> = None;
        for number in (0..record.replicas.len()).rev() {
            let Replica::Idle(_, since) = &record.replicas[number] else { continue };
            let due = since.checked_add(record.actor.idle);
            if count <= kept {
                break;
            } else if done || due.is_some_and(|due| due <= now) {
                if let Replica::Idle(grant, _) = std::mem::take(&mut record.replicas[number]) {
                    self.ledger.give(&grant);
                }
                self.effects.push(drop_state(&record.actor.states, number));
                count -= 1;
            } else {
                next = next.into_iter().chain(due).min();
            }
        }
        if let (Some(next), false) = (next, record.idle_timer) {
            record.idle_timer = true;
            self.timers.add(next, Event::Idle(actor));
        }
        if done {
            self.actors.arena.remove(actor);
        }
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
