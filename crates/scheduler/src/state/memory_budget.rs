//! The process's one byte budget.

/// The byte budget, and the bytes that count against it.
///
/// Granted requests and pinned objects are *held*. Objects in memory that are not pinned are *idle*: they can be
/// evicted to make room, so they do not stand in the way of new work.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    total: u64,
    held: u64,
    idle: u64,
}

impl MemoryBudget {
    pub(super) fn new(total: u64) -> Self {
        Self { total, held: 0, idle: 0 }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn idle(&self) -> u64 {
        self.idle
    }

    /// Returns the bytes that are not held.
    pub(super) fn free(&self) -> u64 {
        self.total.saturating_sub(self.held)
    }

    /// Returns whether `bytes` can be held, if idle objects are evicted for them.
    pub(super) fn can_hold(&self, bytes: u64) -> bool {
        self.held + bytes <= self.total
    }

    /// Returns whether `bytes` fit without an eviction.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.held + self.idle + bytes <= self.total
    }

    pub(super) fn hold(&mut self, bytes: u64) {
        self.held += bytes;
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.held -= bytes;
    }

    pub(super) fn add_idle(&mut self, bytes: u64) {
        self.idle += bytes;
    }

    pub(super) fn remove_idle(&mut self, bytes: u64) {
        self.idle -= bytes;
    }
}
