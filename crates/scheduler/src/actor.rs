//! State that calls run on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::accelerator::Accelerator;
use crate::actors::{NewActor, States};
use crate::arena::Key;
use crate::kernel::{Kernel, look_out};
use crate::object::Value;
use crate::options::WorkOptions;
use crate::reference::ObjectRef;
use crate::scheduler::{Scheduler, Withdraw, deliver};
use crate::task::{Context, Environment, NewTask, Spec, Work};

type Build<S> = Arc<dyn Fn() -> Result<S> + Send + Sync>;

/// How many states an actor has. Each holds the actor's resources, all but the CPU, as long as it lives.
#[derive(Debug, Clone)]
pub struct Replicas {
    /// States that are kept when nothing is called.
    pub min: usize,
    /// States at most.
    pub max: usize,
    /// More states are built while the calls that wait would take longer than this, by the measured time of a call.
    pub catch_up: Duration,
    /// For how long a state beyond `min` is kept without a call.
    pub idle: Duration,
}

impl Default for Replicas {
    /// One state.
    fn default() -> Self {
        Self { min: 1, max: 1, catch_up: Duration::from_millis(100), idle: Duration::from_secs(30) }
    }
}

impl Replicas {
    /// From none, when there are no calls, up to `max`.
    pub fn up_to(max: usize) -> Self {
        Self { min: 0, max, ..Self::default() }
    }
}

/// State on which calls run, each state one at a time, each call on a CPU thread or on the thread of the device that the actor
/// asks for. Clones share it; it goes with the last one and the last call.
pub struct Actor<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    scheduler: Scheduler,
    key: Key,
    spec: Arc<Spec>,
    /// Without retries, for work that can be called once.
    spec_once: Arc<Spec>,
    states: Arc<Kept<S>>,
}

struct Kept<S> {
    build: Build<S>,
    /// By replica. `None` after a call panicked: the next call builds the state anew.
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
    /// The state of replica `number`, built if it is not there, taken out until it is put back.
    fn take(&self, number: usize) -> Result<S> {
        let kept = self.states.lock().get_mut(number).and_then(Option::take);
        kept.map_or_else(|| (self.build)(), Ok)
    }

    fn put_back(&self, number: usize, state: S) {
        let mut states = self.states.lock();
        if states.len() <= number {
            states.resize_with(number + 1, || None);
        }
        states[number] = Some(state);
    }

    /// Taken out for the call: if the work panics, the broken state is gone with it.
    fn lend<T>(&self, number: usize, work: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        let mut state = self.take(number)?;
        let result = work(&mut state);
        self.put_back(number, state);
        result
    }
}

impl Scheduler {
    /// An actor whose state `build` makes, on its worker, now and again after a call that panicked.
    ///
    /// # Errors
    /// As [`run`](Self::run); what `build` failed with.
    pub async fn actor<S, F>(&self, options: WorkOptions, build: F) -> Result<Actor<S>>
    where
        S: Send + 'static,
        F: Fn() -> Result<S> + Send + Sync + 'static,
    {
        let actor = self.replicated_actor(options, Replicas::default(), build)?;
        actor.call(|_, _| Ok(())).await?;
        Ok(actor)
    }

    /// An actor with as many states as its calls need, within bounds. A call runs on any of them, so what a call leaves in a
    /// state must not matter to the next.
    ///
    /// # Errors
    /// `InvalidInput` for bounds that make no sense; `ResourceExhausted` for a request that can never be met.
    pub fn replicated_actor<S, F>(&self, options: WorkOptions, replicas: Replicas, build: F) -> Result<Actor<S>>
    where
        S: Send + 'static,
        F: Fn() -> Result<S> + Send + Sync + 'static,
    {
        if replicas.max == 0 || replicas.min > replicas.max || replicas.catch_up.is_zero() {
            return Err(Error::invalid_input(format!(
                "actor `{}` is to have {} to {} states and catch up in {:?}; it must be at least one, and some time",
                options.name, replicas.min, replicas.max, replicas.catch_up
            )));
        }
        let spec = Arc::new(self.spec(&options)?);
        let spec_once = Arc::new(self.spec(&options.retries(0))?);
        let states = Arc::new(Kept { build: Arc::new(build), states: Mutex::default() });
        let new = NewActor {
            place: spec.place,
            request: spec.request.clone(),
            replicas_min: replicas.min,
            replicas_max: replicas.max,
            catch_up: replicas.catch_up,
            idle: replicas.idle,
            states: Arc::clone(&states) as _,
        };
        let key = self.kernel().with(|core| core.actors.add(new));
        Ok(Actor { inner: Arc::new(Inner { scheduler: self.clone(), key, spec, spec_once, states }) })
    }
}

impl<S: Send + 'static> Actor<S> {
    /// Waits for its turn and a CPU, then runs `work` on the state.
    ///
    /// # Errors
    /// `Cancelled`; `Internal` when the work panics, after which the state is built anew; else the work's own error.
    pub async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut S, &Context) -> Result<T> + Send + 'static,
    {
        self.call_on(move |state, context, _device| work(state, context)).await
    }

    /// As [`call`](Self::call), with the device on whose thread it runs, if the actor asks for one.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_on<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut S, &Context, Option<&mut (dyn Accelerator + 'static)>) -> Result<T> + Send + 'static,
    {
        let (task, receiver) = self.hand_in_call(work)?;
        let _guard = Withdraw { kernel: self.kernel(), task };
        receiver.await.unwrap_or_else(|_| Err(Error::internal("a call was lost with its worker")))
    }

    /// As [`call`](Self::call), from a thread that is no async executor's. It looks out for the answer for a moment before it
    /// sleeps, so that a short call costs no wake-up.
    ///
    /// # Errors
    /// As [`call`](Self::call); `InvalidInput` on a thread of an async runtime, which it would hold up.
    pub fn call_blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut S, &Context) -> Result<T> + Send + 'static,
    {
        if tokio::runtime::Handle::try_current().is_ok() {
            let text =
                format!("a blocking call of `{}` would hold up an async thread: use `call`", self.inner.spec.name);
            return Err(Error::invalid_input(text));
        }
        let (_, mut receiver) = self.hand_in_call(move |state, context, _device| work(state, context))?;
        if let Some(result) = look_out(|| receiver.try_recv().ok()) {
            return result;
        }
        receiver.blocking_recv().unwrap_or_else(|_| Err(Error::internal("a call was lost with its worker")))
    }

    fn hand_in_call<T, F>(&self, work: F) -> Result<(Key, oneshot::Receiver<Result<T>>)>
    where
        T: Send + 'static,
        F: FnOnce(&mut S, &Context, Option<&mut (dyn Accelerator + 'static)>) -> Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let states = Arc::clone(&self.inner.states);
        let work = Box::new(Once { states, work: Some(work), result: None, sender });
        Ok((self.hand_in_once(work)?, receiver))
    }

    /// Hands in a call that takes and makes objects, and is tried again as the actor's options allow. Calls that are ready run in the order in which they came. What a call made
    /// cannot be made again if it is lost, because the state has moved on.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn submit<F>(&self, inputs: &[ObjectRef], work: F) -> Result<ObjectRef>
    where
        F: FnMut(&mut S, &Context, &[Value]) -> Result<Value> + Send + 'static,
    {
        let inputs = self.inner.scheduler.keys(inputs)?;
        let states = Arc::clone(&self.inner.states);
        let (object, _) = self.hand_in(&self.inner.spec, inputs, true, Box::new(Making { states, work }))?;
        object.ok_or_else(|| Error::internal("a call that makes an object has none"))
    }

    /// Hands in work that runs once, on a state that `with_state` lends it.
    pub(crate) fn hand_in_once(&self, work: Box<dyn Work>) -> Result<Key> {
        self.hand_in(&self.inner.spec_once, Vec::new(), false, work).map(|(_, task)| task)
    }

    /// Lends the state of replica `number` to `work`. If that panics, the broken state is gone with it.
    pub(crate) fn with_state<T>(&self, number: usize, work: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        self.inner.states.lend(number, work)
    }

    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        self.inner.scheduler.kernel()
    }

    fn hand_in(
        &self,
        spec: &Arc<Spec>,
        inputs: Vec<Key>,
        makes: bool,
        work: Box<dyn Work>,
    ) -> Result<(Option<ObjectRef>, Key)> {
        let (spec, actor) = (Arc::clone(spec), Some(self.inner.key));
        let (output, task) = self.kernel().with(|core| {
            let output = makes.then(|| core.objects.create(None));
            (output, core.submit(NewTask { spec, inputs, output, actor, work }, Instant::now()))
        });
        let object = output.map(|key| ObjectRef::new(self.kernel(), key));
        Ok((object, task?))
    }
}

/// A call whose result goes to whoever waits for it.
struct Once<S, T, F> {
    states: Arc<Kept<S>>,
    work: Option<F>,
    result: Option<T>,
    sender: oneshot::Sender<Result<T>>,
}

impl<S, T, F> Work for Once<S, T, F>
where
    S: Send,
    T: Send,
    F: FnOnce(&mut S, &Context, Option<&mut (dyn Accelerator + 'static)>) -> Result<T> + Send,
{
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let work = self.work.take().ok_or_else(|| Error::internal("the call cannot be made twice"))?;
        let device = environment.device.as_deref_mut();
        let result = self.states.lend(environment.replica, |state| work(state, &environment.context, device))?;
        self.result = Some(result);
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        deliver(self.sender, outcome, self.result);
    }
}

/// A call that makes an object.
struct Making<S, F> {
    states: Arc<Kept<S>>,
    work: F,
}

impl<S, F> Work for Making<S, F>
where
    S: Send,
    F: FnMut(&mut S, &Context, &[Value]) -> Result<Value> + Send,
{
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let work = |state: &mut S| (self.work)(state, &environment.context, environment.inputs);
        self.states.lend(environment.replica, work).map(Some)
    }
}
