//! State that calls run on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::core::actors::{NewActor, States};
use crate::front::options::WorkOptions;
use crate::front::scheduler::{Scheduler, Withdraw, deliver};
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::task::{Context, Environment, NewTask, Spec, Work};

type Build<S> = Arc<dyn Fn() -> Result<S> + Send + Sync>;

/// States on which calls run, each state one call at a time, on CPU threads. Clones share it; it goes with the last one
/// and the last call.
pub struct Actor<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    scheduler: Scheduler,
    key: Key,
    spec: Arc<Spec>,
    states: Arc<Kept<S>>,
}

struct Kept<S> {
    build: Build<S>,
    /// By replica. `None` while a call has it, and after one panicked: the next call builds the state anew.
    states: Mutex<Vec<Option<S>>>,
}

impl<S> Clone for Actor<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S> fmt::Debug for Actor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actor").field("name", &self.inner.spec.name).finish_non_exhaustive()
    }
}

impl<S> Drop for Inner<S> {
    fn drop(&mut self) {
        self.scheduler.kernel().with(|core| core.close_actor(self.key, Instant::now()));
    }
}

impl<S: Send> States for Kept<S> {
    fn drop_state(&self, number: usize) {
        let state = self.states.lock().get_mut(number).and_then(Option::take);
        drop(state);
    }
}

impl<S: Send> Kept<S> {
    /// Lends the state of replica `number` to `work`, built if it is not there. If the work panics, the broken state is
    /// gone with it.
    fn lend<T>(&self, number: usize, work: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        let kept = self.states.lock().get_mut(number).and_then(Option::take);
        let mut state = kept.map_or_else(|| (self.build)(), Ok)?;
        let result = work(&mut state);
        let mut states = self.states.lock();
        if states.len() <= number {
            states.resize_with(number + 1, || None);
        }
        states[number] = Some(state);
        result
    }
}

impl Scheduler {
    /// Returns an actor of up to `states_max` states, which `build` makes on the scheduler's threads when calls need
    /// them. A call runs on any of them, so what a call leaves in a state must not matter to the next.
    ///
    /// A state holds the resources of `options`, all but the CPU, as long as it lives: until it has had no call for the
    /// time `idle`, until other work lacks what it holds, or until a call on it fails. A call holds the CPU, and is
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
        let spec = Arc::new(self.spec(&options)?);
        let states = Arc::new(Kept { build: Arc::new(build), states: Mutex::default() });
        let kept: Arc<dyn States> = Arc::clone(&states) as _;
        let new = NewActor { request: spec.request.clone(), states_max, idle, states: kept };
        let key = self.kernel().with(|core| core.actors.add(new));
        Ok(Actor { inner: Arc::new(Inner { scheduler: self.clone(), key, spec, states }) })
    }
}

impl<S: Send + 'static> Actor<S> {
    /// Waits for a state and a CPU, then runs `work` on the state, and tries again as the actor's options allow.
    /// Dropping the future before the work started takes it back.
    ///
    /// # Errors
    /// As [`Scheduler::run`], and what building a state fails with.
    pub async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut S, &Context) -> Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let states = Arc::clone(&self.inner.states);
        let work = Box::new(Call { states, work: Some(work), result: None, sender });
        let (spec, actor) = (Arc::clone(&self.inner.spec), Some(self.inner.key));
        let new = NewTask { spec, inputs: Vec::new(), output: None, actor, work };
        let kernel = self.inner.scheduler.kernel();
        let task = kernel.with(|core| core.submit(new, Instant::now()))?;
        let _guard = Withdraw { kernel, task };
        receiver.await.unwrap_or_else(|_| Err(Error::internal("a call was lost with its worker")))
    }
}

/// A call whose result goes to whoever waits for it.
struct Call<S, T, F> {
    states: Arc<Kept<S>>,
    work: Option<F>,
    result: Option<T>,
    sender: oneshot::Sender<Result<T>>,
}

impl<S, T, F> Work for Call<S, T, F>
where
    S: Send,
    T: Send,
    F: FnMut(&mut S, &Context) -> Result<T> + Send,
{
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let work = self.work.as_mut().ok_or_else(|| Error::internal("the call was made before"))?;
        self.result = Some(self.states.lend(environment.replica, |state| work(state, &environment.context))?);
        // What the call holds goes before what it was granted does.
        self.work = None;
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        deliver(self.sender, outcome, self.result);
    }
}
