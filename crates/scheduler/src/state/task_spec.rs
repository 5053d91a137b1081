//! Tasks as they are handed in: what they need, what runs, and what an object is made by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::Result;

use super::arena::Key;
use super::ledger::ResourceRequest;
use crate::accelerator::Accelerator;
use crate::cancel::Cancel;
use crate::objects::value::Value;

/// The part of its surroundings that running work can ask about.
#[derive(Debug, Clone)]
pub struct TaskContext {
    /// Raised when the work should stop. Long loops [check](Cancel::check) it.
    pub cancel: Cancel,
    /// The number of the try: 0 on the first.
    pub attempt: u32,
}

/// The settings of a task that are the same for every try.
#[derive(Debug)]
pub(crate) struct TaskSpec {
    pub(crate) name: Arc<str>,
    pub(crate) job: Key,
    pub(crate) request: ResourceRequest,
    pub(crate) retries_max: u32,
    pub(crate) cancel: Cancel,
    /// The hold that keeps the task's grant after the task has ended well.
    pub(crate) hold: Option<Key>,
}

/// The code of a task, and the delivery of its result.
pub(crate) trait TaskBody: Send {
    /// Runs one try, on a worker thread. The value returned becomes the task's object, if the task has one.
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>>;

    /// Delivers the outcome. Called once, after the last try or instead of the first, without any lock held. `service`
    /// is the run time of the last try.
    fn settle(self: Box<Self>, _outcome: Result<()>, _service: Duration) {}
}

/// The things that a worker thread lends to a task's body.
pub(crate) struct Environment<'a> {
    pub(crate) context: TaskContext,
    pub(crate) inputs: &'a [Value],
    pub(crate) device: Option<&'a mut (dyn Accelerator + 'static)>,
    /// The number of the actor's state to use.
    pub(crate) replica: usize,
}

/// A task as it is handed in.
pub(crate) struct NewTask {
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) inputs: Vec<Key>,
    pub(crate) output: Option<Key>,
    pub(crate) actor: Option<Key>,
    pub(crate) body: Box<dyn TaskBody>,
}

impl NewTask {
    /// Returns a task without inputs, whose body delivers its result itself.
    pub(crate) fn new(spec: Arc<TaskSpec>, body: Box<dyn TaskBody>) -> Self {
        Self { spec, inputs: Vec::new(), output: None, actor: None, body }
    }
}

/// A function that makes an object. It is called again if the object is lost.
pub(crate) type ObjectFunction = dyn Fn(&TaskContext, &[Value]) -> Result<Value> + Send + Sync;

/// The task that makes an object, kept so that a lost object can be made again.
pub(crate) struct Lineage {
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) inputs: Vec<Key>,
    pub(crate) function: Arc<ObjectFunction>,
}

impl Lineage {
    /// Returns the task that makes the object `output`.
    pub(crate) fn task(&self, output: Key) -> NewTask {
        let body = Box::new(FunctionBody(Arc::clone(&self.function)));
        NewTask { inputs: self.inputs.clone(), output: Some(output), ..NewTask::new(Arc::clone(&self.spec), body) }
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lineage").field("spec", &self.spec).field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

/// The body of a task that makes an object.
struct FunctionBody(Arc<ObjectFunction>);

impl TaskBody for FunctionBody {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        (self.0)(&environment.context, environment.inputs).map(Some)
    }
}

/// The assignment of a call to one of its actor's states.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActorCall {
    pub(crate) actor: Key,
    /// The number of the state; `None` while the call is in the mailbox.
    pub(crate) replica: Option<usize>,
    /// Whether the call builds the state, and so requests the resources that the state holds.
    pub(crate) builds: bool,
}
