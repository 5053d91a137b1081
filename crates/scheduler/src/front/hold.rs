//! Memory that is held by work which runs elsewhere, so that all of it is one account.

use std::fmt;
use std::sync::Arc;

use cenote_base::{Error, Resources, Result};
use tokio::time::Instant;

use crate::core::Core;
use crate::front::options::WorkOptions;
use crate::front::scheduler::{Scheduler, Withdraw, typed};
use crate::kernel::Kernel;
use crate::state::arena::Key;
use crate::state::ledger::Grant;
use crate::state::task::NewTask;

/// A part of the memory budget, until it is dropped.
pub struct Hold {
    kernel: Arc<Kernel>,
    key: Key,
}

impl Scheduler {
    /// Holds `bytes` of the memory budget for work that runs elsewhere, which `options` name; waits for them as a task
    /// would. If that work waits for tasks, the largest holds `beside` bytes: what is held in this way leaves room for
    /// it, whoever else holds some.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn hold(&self, options: &WorkOptions, bytes: u64, beside: u64) -> Result<Hold> {
        let whole = Resources::cpu(0.0).with_memory_bytes(bytes.saturating_add(beside));
        let mut spec = self.spec(&options.clone().resources(whole))?;
        (spec.request.memory_bytes, spec.request.beside_bytes) = (bytes, Some(beside));
        let key = self.kernel().with(|core| core.holds.insert(Grant::default()));
        let hold = Hold { kernel: Arc::clone(self.kernel()), key };
        spec.hold = Some(key);
        let (work, receiver) = typed(|_: &_| Ok(()));
        let new = NewTask { spec: Arc::new(spec), inputs: Vec::new(), output: None, actor: None, work };
        let task = self.kernel().with(|core| core.submit(new, Instant::now()))?;
        let _guard = Withdraw { kernel: self.kernel(), task };
        receiver.await.unwrap_or_else(|_| Err(Error::internal("a task was lost with its worker")))?;
        Ok(hold)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.key).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.kernel.with(|core| core.release_hold(self.key));
    }
}

impl Core {
    /// Has `hold` keep `grant`, unless it was dropped meanwhile.
    pub(crate) fn keep_in(&mut self, hold: Key, grant: Grant) {
        match self.holds.get_mut(hold) {
            Some(held) => *held = grant,
            None => self.ledger.give(&grant),
        }
    }

    fn release_hold(&mut self, hold: Key) {
        if let Some(grant) = self.holds.remove(hold) {
            self.ledger.give(&grant);
        }
    }
}
