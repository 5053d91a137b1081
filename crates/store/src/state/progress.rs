//! The state of a table's upkeep in this process.

use std::sync::atomic::{AtomicBool, Ordering};

use cenote_base::sync::Mutex;
use tokio::sync::MutexGuard;

use crate::base::file_bytes::FileBytes;

/// The state of upkeep in this process. Folds are short, and writers wait for them; other work is long, and they do
/// not.
#[derive(Debug, Default)]
pub(crate) struct UpkeepProgress {
    is_folding: AtomicBool,
    is_waiting: AtomicBool,
    /// The turn to do long work, and whether somebody waits for it.
    tending: tokio::sync::Mutex<()>,
    is_tending_due: AtomicBool,
    /// The turn to join files.
    joining: tokio::sync::Mutex<()>,
    file_bytes: FileBytes,
    folding: Mutex<Option<String>>,
    doing: Mutex<Option<String>>,
    failure: Mutex<Option<String>>,
}

impl UpkeepProgress {
    /// Marks a fold in the background as begun. Returns false if one is running already.
    pub(crate) fn begin_fold(&self) -> bool {
        !self.is_folding.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_fold(&self) {
        self.is_folding.store(false, Ordering::Release);
    }

    /// Marks the wait for the oldest write's age as begun. Returns false if a task waits already.
    pub(crate) fn begin_wait(&self) -> bool {
        !self.is_waiting.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_wait(&self) {
        self.is_waiting.store(false, Ordering::Release);
    }

    /// Marks long work as due. Returns false if a task already waits to do it.
    pub(crate) fn is_newly_due(&self) -> bool {
        !self.is_tending_due.swap(true, Ordering::AcqRel)
    }

    /// Waits for the turn to do long work, which is not due any more once the turn is taken.
    pub(crate) async fn tend(&self) -> MutexGuard<'_, ()> {
        let turn = self.tending.lock().await;
        self.is_tending_due.store(false, Ordering::Release);
        turn
    }

    /// Waits for the turn to join files.
    pub(crate) async fn join_files(&self) -> MutexGuard<'_, ()> {
        self.joining.lock().await
    }

    /// Takes the turn to join files if it is free.
    pub(crate) fn try_join_files(&self) -> Option<MutexGuard<'_, ()>> {
        self.joining.try_lock().ok()
    }

    pub(crate) fn file_bytes(&self) -> &FileBytes {
        &self.file_bytes
    }

    /// Records why a fold is running; `None` when none is.
    pub(crate) fn say_folding(&self, what: Option<String>) {
        *self.folding.lock() = what;
    }

    /// Records the long work that has begun.
    pub(crate) fn say(&self, what: impl Into<String>) {
        *self.doing.lock() = Some(what.into());
    }

    /// Records that it has ended.
    pub(crate) fn done(&self) {
        *self.doing.lock() = None;
    }

    /// Returns what is being done; short work takes precedence.
    pub(crate) fn doing(&self) -> Option<String> {
        self.folding.lock().clone().or_else(|| self.doing.lock().clone())
    }

    /// Records why the last upkeep failed; `None` when it succeeded.
    pub(crate) fn set_failure(&self, failure: Option<String>) {
        *self.failure.lock() = failure;
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}
