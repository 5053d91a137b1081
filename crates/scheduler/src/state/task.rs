//! A piece of work and what it needs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::Result;
use tokio::time::Instant;

use crate::accelerator::Accelerator;
use crate::cancel::Cancel;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::fair::Place;
use crate::state::ledger::{Grant, Request};

/// What running work can ask.
#[derive(Debug, Clone)]
pub struct Context {
    /// Raised when the work should stop: long loops [check](Cancel::check) it.
    pub cancel: Cancel,
    /// 0 on the first try.
    pub attempt: u32,
}

/// What makes an object: it can be called again if the object is lost.
pub(crate) type Function = dyn Fn(&Context, &[Value]) -> Result<Value> + Send + Sync;

/// How to make an object again.
pub(crate) struct Recipe {
    pub(crate) spec: Arc<Spec>,
    pub(crate) inputs: Vec<Key>,
    pub(crate) function: Arc<Function>,
}

/// What is the same for every try of a task.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) job: Key,
    pub(crate) place: Place,
    pub(crate) request: Request,
    pub(crate) retries_max: u32,
    pub(crate) cancel: Cancel,
    /// What keeps the task's grant after it has ended well.
    pub(crate) hold: Option<Key>,
}

/// What runs on a worker, and what becomes of the result.
pub(crate) trait Work: Send {
    /// One try, on a worker. What it returns becomes the task's object, if the task makes one.
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>>;

    /// Called once, after the last try or instead of the first, without any lock held. `service` is how long the last
    /// try took.
    fn settle(self: Box<Self>, _outcome: Result<()>, _service: Duration) {}
}

/// What a worker lends to the work that it runs.
pub(crate) struct Environment<'a> {
    pub(crate) context: Context,
    pub(crate) inputs: &'a [Value],
    pub(crate) device: Option<&'a mut (dyn Accelerator + 'static)>,
    /// The actor's state to use, by number.
    pub(crate) replica: usize,
}

/// A task as it is handed in.
pub(crate) struct NewTask {
    pub(crate) spec: Arc<Spec>,
    pub(crate) inputs: Vec<Key>,
    pub(crate) output: Option<Key>,
    pub(crate) actor: Option<Key>,
    pub(crate) work: Box<dyn Work>,
}

/// A task that has not ended.
pub(crate) struct Task {
    pub(crate) spec: Arc<Spec>,
    /// In the order of the function's arguments.
    pub(crate) inputs: Vec<Key>,
    /// Sorted, each once.
    pub(crate) distinct: Vec<Key>,
    pub(crate) output: Option<Key>,
    pub(crate) actor: Option<ActorCall>,
    /// `None` while it runs.
    pub(crate) work: Option<Box<dyn Work>>,
    pub(crate) state: TaskState,
    pub(crate) attempt: u32,
    pub(crate) retries_left: u32,
    /// How long the last try took.
    pub(crate) service: Duration,
    pub(crate) since: Instant,
}

/// On which of an actor's states a call runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActorCall {
    pub(crate) actor: Key,
    /// `None` in the mailbox.
    pub(crate) replica: Option<usize>,
    /// Whether the call builds the replica, and so asks for what that holds.
    pub(crate) grows: bool,
}

#[derive(Debug)]
pub(crate) enum TaskState {
    /// So many inputs are still to be made.
    Inputs(usize),
    /// Behind other calls of its actor.
    Mailbox,
    /// For resources and a thread.
    Ready,
    Running(Running),
    /// For the pause before the next try.
    Backoff,
}

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) grant: Grant,
    pub(crate) charged_s: f64,
    pub(crate) thread: usize,
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe").field("spec", &self.spec).field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.spec.name).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Task {
    pub(crate) fn new(new: NewTask, now: Instant) -> Self {
        let mut distinct = new.inputs.clone();
        if distinct.len() > 1 {
            distinct.sort_unstable();
            distinct.dedup();
        }
        Self {
            retries_left: new.spec.retries_max,
            spec: new.spec,
            inputs: new.inputs,
            distinct,
            output: new.output,
            actor: new.actor.map(|actor| ActorCall { actor, replica: None, grows: false }),
            work: Some(new.work),
            state: TaskState::Inputs(0),
            attempt: 0,
            service: Duration::ZERO,
            since: now,
        }
    }
}

/// The work of a task that makes an object.
pub(crate) struct Call(pub(crate) Arc<Function>);

impl Work for Call {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        (self.0)(&environment.context, environment.inputs).map(Some)
    }
}
