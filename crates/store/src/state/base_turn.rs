//! The turn to change the base: one holder at a time in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The turn to change the base, and whether the base may have a version that was not logged.
#[derive(Debug)]
pub(crate) struct BaseTurn {
    turn: Arc<Mutex<()>>,
    /// Whether the base may have a version that was not logged, because the process that committed it died or failed.
    suspect: AtomicBool,
}

impl BaseTurn {
    pub(super) fn new() -> Self {
        Self { turn: Arc::default(), suspect: AtomicBool::new(true) }
    }

    /// Waits for the turn.
    pub(crate) async fn take(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Takes the turn if it is free.
    pub(crate) fn try_take(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.turn).try_lock_owned().ok()
    }

    /// Returns whether the base may have a version that was not logged.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Records whether the base may have a version that was not logged.
    pub(crate) fn set_suspect(&self, is_suspect: bool) {
        self.suspect.store(is_suspect, Ordering::Release);
    }
}
