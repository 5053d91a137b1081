//! Calls of actors: their assignment to states, and the states' lives.

use tokio::time::Instant;

use super::Core;
use super::effect::Effect;
use super::task::TaskState;
use crate::state::actor_table::{CallAssignment, IdleState, NewActor, Retirement};
use crate::state::arena::Key;
use crate::state::ledger::{Demand, Grant};
use crate::state::timers::Event;

impl Core {
    pub(crate) fn add_actor(&mut self, actor: NewActor) -> Key {
        self.actors.add(actor)
    }

    /// Forgets an actor whose handle was dropped, once its last call has ended and its states are dropped.
    pub(crate) fn close_actor(&mut self, actor: Key, now: Instant) {
        self.actors.close(actor);
        self.retire_idle_states(actor, now);
    }

    /// Takes a call off its replica, which is then free for the next call, unless the call ran and failed.
    pub(super) fn leave_replica(&mut self, key: Key, has_failed: bool, now: Instant) {
        let Some(call) = self.tasks.get_mut(key).and_then(|task| task.call.as_mut()) else { return };
        let left = *call;
        (call.replica, call.builds) = (None, false);
        let retired = self.actors.leave(left, has_failed, now);
        self.effects.extend(retired.map(Effect::DropState));
        self.assign_calls(left.actor, now);
    }

    /// Assigns waiting calls to idle states, and to new states as long as there may be more.
    pub(super) fn assign_calls(&mut self, actor: Key, now: Instant) {
        while let Some(CallAssignment { task: key, replica, builds }) = self.actors.assign(actor) {
            let Some(task) = self.tasks.get_mut(key) else { continue };
            let Some(call) = &mut task.call else { continue };
            if let Some(vacated) = call.replica {
                self.actors.vacate(actor, vacated);
                self.fair.remove(task.spec.job, key);
            }
            (call.replica, call.builds) = (Some(replica), builds);
            task.state = TaskState::Ready;
            self.fair.push(task.spec.job, task.request(&self.actors), key);
        }
        self.retire_idle_states(actor, now);
    }

    /// Retires the states that have been idle for long enough, or all of them when the actor is done.
    pub(super) fn retire_idle_states(&mut self, actor: Key, now: Instant) {
        let Retirement { states, timer } = self.actors.retire_idle(actor, now);
        self.effects.extend(states.into_iter().map(Effect::DropState));
        if let Some(at) = timer {
            self.timers.add(at, Event::Idle(actor));
        }
    }

    /// Gives back the grant of a retired state that has been dropped.
    pub(crate) fn state_dropped(&mut self, actor: Key, replica: usize, now: Instant) {
        if let Some(grant) = self.actors.state_dropped(actor, replica) {
            self.ledger.give(grant);
        }
        self.assign_calls(actor, now);
    }

    /// Retires the longest idle state among those that hold something that waiting work lacks.
    pub(super) fn make_room(&mut self) {
        let mut longest: Option<IdleState<'_>> = None;
        for state in self.actors.idle_states() {
            if longest.as_ref().is_none_or(|longest| state.since < longest.since) && self.is_wanted(state.grant) {
                longest = Some(state);
            }
        }
        if let Some(IdleState { actor, replica, .. }) = longest {
            self.effects.extend(self.actors.retire(actor, replica).map(Effect::DropState));
        }
    }

    /// Returns whether the oldest task of some queue lacks something that `grant` holds.
    fn is_wanted(&self, grant: &Grant) -> bool {
        self.fair.heads().any(|head| {
            let task = self.tasks.get(head.oldest);
            let inputs_bytes = task.and_then(|task| self.objects.pin_bytes(&task.distinct_inputs));
            inputs_bytes.is_some_and(|inputs_bytes| {
                self.ledger.would_help(grant, Demand { request: head.request, inputs_bytes })
            })
        })
    }
}
