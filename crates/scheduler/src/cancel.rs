//! Cancellation that reaches waiting and running work alike.

use std::sync::Arc;

use cenote_base::{Error, Result};
use tokio::sync::watch;

/// A flag that is raised once and never lowered. Clones share it.
#[derive(Debug, Clone)]
pub struct Cancel {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Cancel {
    fn default() -> Self {
        Self { sender: Arc::new(watch::Sender::new(false)) }
    }
}

impl Cancel {
    /// Raises the flag.
    pub fn cancel(&self) {
        self.sender.send_replace(true);
    }

    /// Whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        *self.sender.borrow()
    }

    /// `Cancelled` once the flag is raised: for long loops of running work.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled("the work was cancelled")) } else { Ok(()) }
    }

    /// Waits until the flag is raised. Cancel safe.
    pub async fn cancelled(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|raised| *raised).await;
    }
}
