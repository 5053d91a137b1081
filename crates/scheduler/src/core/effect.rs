//! Actions that the core leaves to be done without its lock.

use std::time::Duration;

use cenote_base::Result;
use tokio::sync::oneshot;

use crate::state::actor_table::RetiredState;
use crate::state::task_spec::TaskBody;

/// An action that runs or drops code of the caller's, and is therefore done without the lock.
pub(crate) enum Effect {
    /// Wakes a caller.
    Wake(oneshot::Sender<()>),
    /// Delivers the outcome of a task.
    Settle { body: Box<dyn TaskBody>, outcome: Result<()>, service: Duration },
    /// Drops a state of an actor, and reports it with [`Core::state_dropped`](super::Core::state_dropped).
    DropState(RetiredState),
}
