//! Results one after the other.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Error, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::object::Value;
use crate::options::WorkOptions;
use crate::reference::ObjectRef;
use crate::scheduler::Scheduler;
use crate::task::{Environment, NewTask, Spec, Work};

type Items = Box<dyn Iterator<Item = Result<Value>> + Send>;

/// Objects that a task makes one after the other, never more bytes ahead of the reader than agreed. Dropping it ends the task.
pub struct ObjectStream {
    source: Arc<Source>,
    objects: mpsc::UnboundedReceiver<Result<(ObjectRef, u64)>>,
}

struct Source {
    scheduler: Scheduler,
    spec: Arc<Spec>,
    bytes_max: u64,
    state: Mutex<Progress>,
}

struct Progress {
    /// `None` while a step runs, and at the end.
    items: Option<Items>,
    /// Bytes that were made and not received.
    ahead_bytes: u64,
    sender: Option<mpsc::UnboundedSender<Result<(ObjectRef, u64)>>>,
}

impl Scheduler {
    /// Runs an iterator on CPU threads, one step a task, and streams what it makes as objects. While `ahead_max` bytes of them wait to be
    /// received, no step runs, and no thread is held: this is how one input becomes many outputs in bounded memory.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    #[allow(clippy::disallowed_methods)] // `ahead_max` bounds the channel.
    pub fn stream<I>(&self, options: &WorkOptions, ahead_max: ByteSize, items: I) -> Result<ObjectStream>
    where
        I: Iterator<Item = Result<Value>> + Send + 'static,
    {
        let (sender, objects) = mpsc::unbounded_channel();
        let progress = Progress { items: Some(Box::new(items)), ahead_bytes: 0, sender: Some(sender) };
        let source = Arc::new(Source {
            scheduler: self.clone(),
            // A step that failed halfway cannot be made again.
            spec: Arc::new(self.spec(&options.clone().retries(0))?),
            bytes_max: ahead_max.0.max(1),
            state: Mutex::new(progress),
        });
        source.go_on();
        Ok(ObjectStream { source, objects })
    }
}

impl ObjectStream {
    /// The next object, `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// What the iterator failed with, after which the stream has ended.
    pub async fn next(&mut self) -> Option<Result<ObjectRef>> {
        let (object, bytes) = match self.objects.recv().await? {
            Ok(made) => made,
            Err(error) => return Some(Err(error)),
        };
        self.source.state.lock().ahead_bytes -= bytes;
        self.source.go_on();
        Some(Ok(object))
    }
}

impl fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStream").field("name", &self.source.spec.name).finish_non_exhaustive()
    }
}

impl Drop for ObjectStream {
    fn drop(&mut self) {
        let mut state = self.source.state.lock();
        let dropped = (state.items.take(), state.sender.take());
        drop(state);
        drop(dropped);
    }
}

impl Source {
    /// Has the next step run, unless one does, or too much waits.
    fn go_on(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.ahead_bytes >= self.bytes_max {
            return;
        }
        let Some(items) = state.items.take() else { return };
        drop(state);
        let kernel = self.scheduler.kernel();
        let spec = Arc::clone(&self.spec);
        let step = |output| Box::new(Step { source: Arc::clone(self), items: Some(items), output, at_end: false });
        // A refused step is settled like one that failed, so the reader hears of it.
        let _ = kernel.with(|core| {
            let key = core.objects.create(None);
            let work = step(key);
            core.submit(NewTask { spec, inputs: Vec::new(), output: Some(key), actor: None, work }, Instant::now())
        });
    }
}

struct Step {
    source: Arc<Source>,
    items: Option<Items>,
    output: crate::arena::Key,
    at_end: bool,
}

impl Work for Step {
    fn run(&mut self, _environment: &mut Environment<'_>) -> Result<Option<Value>> {
        // Dropped here on a panic, so that nothing steps on.
        let mut items = self.items.take().ok_or_else(|| Error::internal("a step cannot be made twice"))?;
        let item = items.next().transpose()?;
        self.at_end = item.is_none();
        self.items = Some(items).filter(|_| !self.at_end);
        Ok(item)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        let object = ObjectRef::new(self.source.scheduler.kernel(), self.output);
        let mut state = self.source.state.lock();
        if state.sender.is_none() {
            return;
        }
        match outcome {
            Ok(()) if self.at_end => state.sender = None,
            Ok(()) => {
                let kernel = self.source.scheduler.kernel();
                let bytes = kernel.with(|core| core.objects.arena.get(self.output).map_or(0, |object| object.bytes));
                state.ahead_bytes += bytes;
                state.items = self.items;
                // The reader has not gone, or the sender would be.
                let _ = state.sender.as_ref().map(|sender| sender.send(Ok((object, bytes))));
                drop(state);
                self.source.go_on();
            }
            Err(error) => {
                let _ = state.sender.take().map(|sender| sender.send(Err(error)));
            }
        }
    }
}
