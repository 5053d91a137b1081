//! What the rows of a pass may hold in memory, and whether that is enough.

use std::sync::Arc;

use cenote_base::{ByteSize, Error, Result};

use super::intake::RowBytes;
use super::stage::{fuse, requests};
use crate::plan::PlannedStep;
use crate::run::Engine;

/// Copies of a row's outputs that exist at once at worst: made, committed, joined with others of its file, and written.
const COPIES: u64 = 4;
/// A pass takes at most half of the memory of the scheduler, and leaves the rest to workers.
const PASS_SHARE: u64 = 2;

/// The parts of a pass's memory, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Rows read and not yet at work.
    pub(crate) queue: u64,
    /// Rows at work, with what they make.
    pub(crate) at_work: u64,
    /// What is made and not yet committed.
    pub(crate) pending: u64,
    /// One piece of several rows, and what it makes.
    pub(crate) piece: u64,
    /// Pieces at work.
    pub(crate) at_work_max: usize,
    /// What the largest worker of the pass holds beside it.
    pub(crate) worker: u64,
}

impl Room {
    fn of(bytes: u64, worker: u64, threads: usize) -> Self {
        let sixth = bytes / 6;
        let at_work_max = threads + 1;
        let piece = (3 * sixth / (2 * at_work_max as u64)).max(1);
        Self { queue: sixth, at_work: 3 * sixth, pending: 2 * sixth, piece, at_work_max, worker }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.queue + self.at_work + self.pending
    }
}

impl Engine {
    /// The room of a pass of `steps`.
    ///
    /// # Errors
    /// `ResourceExhausted` when a worker and a row of the pass do not fit the scheduler's memory, with the least budget
    /// that would do.
    pub(crate) fn room(&self, steps: &[Arc<PlannedStep>]) -> Result<Room> {
        let total = self.scheduler.usage().total;
        let requests = requests(steps, self.options.devices.as_ref());
        let largest = fuse(&requests, self.task_bytes_max()).iter().map(|(_, request)| request.memory_bytes).max();
        let worker = largest.unwrap_or(0);
        let row = COPIES * RowBytes::of(steps).least();
        let bytes = (total.memory_bytes / PASS_SHARE).min(total.memory_bytes.saturating_sub(worker));
        // The pass holds at least one row, and 1 MiB.
        let least = row.max(1 << 20);
        if bytes < least {
            let names: Vec<_> = steps.iter().map(|step| step.operator.definition.name).collect();
            let needed = (PASS_SHARE * least).max(worker + least);
            let budget = (u128::from(needed) * u128::from(self.options.budget_bytes.0))
                .div_ceil(u128::from(total.memory_bytes.max(1)));
            let budget = ByteSize(u64::try_from(budget).unwrap_or(u64::MAX).next_multiple_of(1 << 20));
            return Err(Error::resource_exhausted(format!(
                "{} on table `{}`: a worker takes {} and a row {}, which a memory budget of {} has no room for; give {budget} or more",
                names.join(", "),
                steps[0].table,
                ByteSize(worker),
                ByteSize(row),
                self.options.budget_bytes,
            )));
        }
        Ok(Room::of(bytes, worker, total.cpu.ceil() as usize))
    }

    /// What consecutive steps may hold to run as one task.
    pub(crate) fn task_bytes_max(&self) -> u64 {
        self.scheduler.usage().total.memory_bytes / PASS_SHARE
    }
}
