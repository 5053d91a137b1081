//! Objects in and out.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Error, Resources, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::front::options::WorkOptions;
use crate::front::reference::{ObjectRef, Pinned};
use crate::front::scheduler::{Scheduler, Withdraw, deliver};
use crate::kernel::Kernel;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::object_table::{Found, State};
use crate::state::task::{Environment, NewTask, Spec, Work};

impl Scheduler {
    /// Keeps `value` as an object. Waits while memory has no room for it and cannot make any.
    ///
    /// # Errors
    /// `ResourceExhausted` when it is larger than the whole budget, or when room cannot be made because the spill directory is full.
    pub async fn put(&self, value: impl Into<Value>) -> Result<ObjectRef> {
        let value = value.into();
        let bytes = value.size_bytes();
        let spec = Arc::new(Spec {
            name: "put".to_owned(),
            ..self.spec(&WorkOptions::new("").resources(Resources::cpu(0.0).with_memory_bytes(bytes)))?
        });
        let key = self.kernel().with(|core| {
            let output = core.objects.create(None);
            let memory = &mut core.ledger.memory;
            if memory.held + memory.idle + bytes <= memory.total {
                core.objects.admit(output, value, memory);
                return Ok(output);
            }
            // Room is made on a worker, which may have to write.
            let work = Box::new(Put(Some(value)));
            let new = NewTask { spec, inputs: Vec::new(), output: Some(output), actor: None, work };
            let submitted = core.submit(new, Instant::now());
            submitted.inspect_err(|_| core.objects.release(output, &mut core.ledger.memory)).map(|_| output)
        })?;
        let object = ObjectRef::new(self.kernel(), key);
        self.wait(&object).await?;
        Ok(object)
    }

    /// Waits until an object is there, in memory or on disk.
    ///
    /// # Errors
    /// What its task failed with.
    pub async fn wait(&self, object: &ObjectRef) -> Result<()> {
        loop {
            let waiter = self.kernel().with(|core| {
                let Some(object) = core.objects.arena.get_mut(object.key()) else {
                    return Err(Error::internal("an object vanished while it was referred to"));
                };
                match &object.state {
                    State::Pending => {
                        let (sender, receiver) = oneshot::channel();
                        object.waiters.push(sender);
                        Ok(Some(receiver))
                    }
                    State::Failed(error) => Err(error.clone()),
                    _ => Ok(None),
                }
            })?;
            match waiter {
                // A dropped sender says no more than a sent word: look again.
                Some(waiter) => drop(waiter.await),
                None => return Ok(()),
            }
        }
    }

    /// Waits for an object and returns it, held in memory until the returned guard is dropped. An object in memory is not
    /// copied.
    ///
    /// # Errors
    /// What its task failed with; `Corrupt` or `NotFound` when it was lost on disk and cannot be made again.
    pub async fn get(&self, object: &ObjectRef) -> Result<Pinned> {
        let key = object.key();
        loop {
            let pinned = self.kernel().with(|core| {
                // Reading from disk is not for this thread.
                let in_memory = core.objects.is_in_memory(key);
                in_memory.then(|| core.objects.pin(key, &mut core.ledger.memory)).flatten()
            });
            if let Some(Found::Value(value)) = pinned {
                return Ok(Pinned::new(self.kernel(), key, value));
            }
            self.wait(object).await?;
            if self.kernel().look(|core| core.objects.is_in_memory(key)) {
                continue;
            }
            // On disk: a task brings it back, with its turn and its room like any other.
            let options = WorkOptions::new("get").resources(Resources::cpu(0.0));
            let (spec, kernel) = (Arc::new(self.spec(&options)?), Arc::clone(self.kernel()));
            let (sender, receiver) = oneshot::channel();
            let work = Box::new(Get { kernel, key, pinned: None, sender });
            let new = NewTask { spec, inputs: vec![key], output: None, actor: None, work };
            let task = self.kernel().with(|core| core.submit_read(new, Instant::now()));
            let _guard = Withdraw { kernel: self.kernel(), task };
            return receiver.await.unwrap_or_else(|_| Err(Error::internal("a task was lost with its worker")));
        }
    }
}

struct Put(Option<Value>);

impl Work for Put {
    fn run(&mut self, _environment: &mut Environment<'_>) -> Result<Option<Value>> {
        Ok(self.0.take())
    }
}

struct Get {
    kernel: Arc<Kernel>,
    key: Key,
    pinned: Option<Pinned>,
    sender: oneshot::Sender<Result<Pinned>>,
}

impl Work for Get {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let value = environment.inputs.first().cloned();
        self.kernel.with(|core| core.objects.pin(self.key, &mut core.ledger.memory));
        self.pinned = value.map(|value| Pinned::new(&self.kernel, self.key, value));
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        deliver(self.sender, outcome, self.pinned);
    }
}
