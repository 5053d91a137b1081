//! Tasks whose result goes to one caller, who waits for it.

use std::time::Duration;

use cenote_base::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::driver::Driver;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::task_spec::{Environment, NewTask, TaskBody};

/// Returns a task body that runs `work`, and the receiver of its result.
pub(super) fn replying<T, F>(work: F) -> (Box<dyn TaskBody>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnMut(&mut Environment<'_>) -> Result<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    (Box::new(ReplyBody { work: Some(work), result: None, sender }), receiver)
}

struct ReplyBody<T, F> {
    work: Option<F>,
    result: Option<T>,
    sender: oneshot::Sender<Result<T>>,
}

impl<T, F> TaskBody for ReplyBody<T, F>
where
    T: Send,
    F: FnMut(&mut Environment<'_>) -> Result<T> + Send,
{
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let work = self.work.as_mut().ok_or_else(|| Error::internal("the task has run before"))?;
        self.result = Some(work(environment)?);
        // The resources are given back after this: nothing that the work held may outlive them.
        self.work = None;
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        deliver(self.sender, outcome, self.result);
    }
}

/// Sends the outcome of a task to its caller. The result is dropped if the caller has gone.
pub(super) fn deliver<T>(sender: oneshot::Sender<Result<T>>, outcome: Result<()>, result: Option<T>) {
    let missing = || Error::internal("a task ended well without a result");
    let _ = sender.send(outcome.and_then(|()| result.ok_or_else(missing)));
}

/// Submits a task and waits for its result. Dropping the future withdraws the task.
pub(super) async fn submit_and_wait<T>(
    driver: &Driver,
    new: NewTask,
    reply: oneshot::Receiver<Result<T>>,
) -> Result<T> {
    let task = driver.with(|core| core.submit(new, Instant::now()))?;
    wait_for(driver, task, reply).await
}

/// Waits for the result of a task. Dropping the future withdraws the task.
pub(super) async fn wait_for<T>(driver: &Driver, task: Key, reply: oneshot::Receiver<Result<T>>) -> Result<T> {
    let _withdrawal = Withdrawal { driver, task };
    reply.await.unwrap_or_else(|_| Err(Error::internal("a task was lost with its worker")))
}

/// Withdraws a task when it is dropped; a task that has ended stays as it is.
struct Withdrawal<'a> {
    driver: &'a Driver,
    task: Key,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.driver.with(|core| core.withdraw(self.task, Instant::now()));
    }
}
