//! What upkeep does now in this process.

use std::sync::atomic::{AtomicBool, Ordering};

use cenote_base::sync::Mutex;
use tokio::sync::MutexGuard;

use crate::base::file_bytes::FileBytes;

/// The progress of a table's upkeep in this process. Folds are quick and writers may wait for them; nobody waits for
/// other work.
#[derive(Debug, Default)]
pub(crate) struct UpkeepProgress {
    is_folding: AtomicBool,
    is_waiting: AtomicBool,
    /// The turn to do what takes long, and whether somebody waits for it.
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
    /// Begins a fold in the background; false when one runs.
    pub(crate) fn begin_fold(&self) -> bool {
        !self.is_folding.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_fold(&self) {
        self.is_folding.store(false, Ordering::Release);
    }

    /// Begins to wait until the oldest write is due; false when somebody waits.
    pub(crate) fn begin_wait(&self) -> bool {
        !self.is_waiting.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_wait(&self) {
        self.is_waiting.store(false, Ordering::Release);
    }

    /// Says that what takes long is due; false when somebody waits to do it.
    pub(crate) fn is_newly_due(&self) -> bool {
        !self.is_tending_due.swap(true, Ordering::AcqRel)
    }

    /// Waits for the turn to do what takes long, which is not due any more then.
    pub(crate) async fn tend(&self) -> MutexGuard<'_, ()> {
        let turn = self.tending.lock().await;
        self.is_tending_due.store(false, Ordering::Release);
        turn
    }

    /// Waits for the turn to join files.
    pub(crate) async fn join_files(&self) -> MutexGuard<'_, ()> {
        self.joining.lock().await
    }

    /// Takes the turn to join files, unless somebody has it.
    pub(crate) fn try_join_files(&self) -> Option<MutexGuard<'_, ()>> {
        self.joining.try_lock().ok()
    }

    pub(crate) fn file_bytes(&self) -> &FileBytes {
        &self.file_bytes
    }

    /// Says why a fold runs, or that none does.
    pub(crate) fn say_folding(&self, what: Option<String>) {
        *self.folding.lock() = what;
    }

    /// Says what is done now that takes long.
    pub(crate) fn say(&self, what: impl Into<String>) {
        *self.doing.lock() = Some(what.into());
    }

    /// Says that it is done.
    pub(crate) fn done(&self) {
        *self.doing.lock() = None;
    }

    /// Returns what is done now, a fold first.
    pub(crate) fn doing(&self) -> Option<String> {
        self.folding.lock().clone().or_else(|| self.doing.lock().clone())
    }

    /// Remembers why the last upkeep failed, or that it did not.
    pub(crate) fn set_failure(&self, failure: Option<String>) {
        *self.failure.lock() = failure;
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}
