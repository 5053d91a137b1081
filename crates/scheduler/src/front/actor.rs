//! Actors as callers hold them: states, and calls that run on them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use tokio::time::Instant;

use super::options::WorkOptions;
use super::reply;
use super::scheduler::Scheduler;
use crate::state::actor_table::{ActorStates, NewActor};
use crate::state::arena::Key;
use crate::state::task_spec::{NewTask, TaskContext, TaskSpec};

type BuildState<S> = Box<dyn Fn() -> Result<S> + Send + Sync>;

/// A set of interchangeable states on which calls run. Each state runs one call at a time, on a CPU thread.
///
/// Clones are the same actor. It ends with the last clone and the last call.
pub struct Actor<S> {
    handle: Arc<ActorHandle<S>>,
}

struct ActorHandle<S> {
    scheduler: Scheduler,
    key: Key,
    spec: Arc<TaskSpec>,
    states: Arc<StateSlots<S>>,
}

struct StateSlots<S> {
    build: BuildState<S>,
    /// The states by the number of their replica. `None` while a call uses the state, and after a call panicked: the
    /// next call then builds the state anew.
    slots: Mutex<Vec<Option<S>>>,
}

impl<S> Clone for Actor<S> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<S> fmt::Debug for Actor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actor").field("name", &self.handle.spec.name).finish_non_exhaustive()
    }
}

impl<S> Drop for ActorHandle<S> {
    fn drop(&mut self) {
        self.scheduler.driver().with(|core| core.close_actor(self.key, Instant::now()));
    }
}

impl<S: Send> ActorStates for StateSlots<S> {
    fn drop_state(&self, number: usize) {
        // Dropping the state runs the caller's code, without the lock.
        drop(self.take(number));
    }
}

impl<S> StateSlots<S> {
    fn take(&self, number: usize) -> Option<S> {
        self.slots.lock().get_mut(number).and_then(Option::take)
    }

    /// Lends the state of replica `number` to `work`, and builds it first if there is none. If the work panics, the
    /// state is dropped.
    fn lend<T>(&self, number: usize, work: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        let mut state = self.take(number).map_or_else(|| (self.build)(), Ok)?;
        let result = work(&mut state);
        let mut slots = self.slots.lock();
        if slots.len() <= number {
            slots.resize_with(number + 1, || None);
        }
        slots[number] = Some(state);
        result
    }
}

impl Scheduler {
    /// Returns an actor of up to `states_max` states, which `build` makes on the scheduler's threads when calls need
    /// them. A call may run on any of them, so what a call leaves in a state must not matter to the next.
    ///
    /// A state holds the resources of `options`, all but the CPU, for as long as it lives: until it has had no call for
    /// the time `idle`, until other work lacks what it holds, or until a call on it fails. A call holds the CPU, and is
    /// tried again as `options` allow.
    ///
    /// # Errors
    /// `InvalidInput` for an actor without states, or on a device; `ResourceExhausted` for a request that can never be
    /// met.
    pub fn actor<S, F>(&self, options: WorkOptions, states_max: usize, idle: Duration, build: F) -> Result<Actor<S>>
    where
        S: Send + 'static,
        F: Fn() -> Result<S> + Send + Sync + 'static,
    {
        if states_max == 0 || options.resources.device.is_some() {
            return Err(Error::invalid_input(format!(
                "actor `{}` must have at least one state, and run on CPU threads",
                options.name
            )));
        }
        let spec = Arc::new(self.task_spec(&options)?);
        let states = Arc::new(StateSlots { build: Box::new(build), slots: Mutex::default() });
        let droppable: Arc<dyn ActorStates> = Arc::clone(&states) as _;
        let new = NewActor { request: spec.request.clone(), states_max, idle, states: droppable };
        let key = self.driver().with(|core| core.add_actor(new));
        Ok(Actor { handle: Arc::new(ActorHandle { scheduler: self.clone(), key, spec, states }) })
    }
}

impl<S: Send + 'static> Actor<S> {
    /// Waits for a state and a CPU, runs `work` on the state, and tries again as the actor's options allow. Dropping
    /// the future withdraws a call that has not started.
    ///
    /// # Errors
    /// See [`Scheduler::run`]; the error that building a state fails with.
    pub async fn call<T, F>(&self, mut work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &TaskContext) -> Result<T> + Send + 'static,
    {
        let ActorHandle { scheduler, key, spec, states } = &*self.handle;
        let states = Arc::clone(states);
        let (body, result) = reply::replying(move |environment| {
            states.lend(environment.replica, |state| work(state, &environment.context))
        });
        let new = NewTask { actor: Some(*key), ..NewTask::new(Arc::clone(spec), body) };
        reply::submit_and_wait(scheduler.driver(), new, result).await
    }
}
