//! The memory that the rows of a pass may hold, and whether it suffices.

use std::sync::Arc;

use cenote_base::{ByteSize, Error, Result};

use super::fusion::{MEMORY_SHARES, fused_steps};
use super::output_row_bytes::OutputRowBytes;
use crate::engine::Engine;
use crate::plan::PlannedStep;

/// Copies of a row's outputs that exist at once at worst: made, committed, joined with others of its file, and written.
const COPIES: u64 = 4;

/// The parts of a pass's memory, in bytes unless stated otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Rows that were read and wait for work.
    pub(super) queue: u64,
    /// Rows at work, with what they make.
    pub(super) at_work: u64,
    /// Outputs that wait for a commit.
    pub(super) pending: u64,
    /// One piece of several rows, with what it makes.
    pub(super) piece: u64,
    /// Pieces at work, at most (a count).
    pub(super) at_work_max: usize,
    /// The largest worker of the pass, which is held beside the rows.
    pub(super) worker: u64,
}

impl Room {
    /// Returns the room of a pass of `steps`: at most half of the scheduler's memory, so that workers have the rest.
    ///
    /// # Errors
    /// `ResourceExhausted` when a worker and a row of the pass do not fit the scheduler's memory, with the least budget
    /// that would suffice.
    pub(crate) fn of(engine: &Engine, steps: &[Arc<PlannedStep>]) -> Result<Self> {
        let total = engine.scheduler().usage().total;
        let worker = fused_steps(engine, steps).iter().map(|fused| fused.resources.memory_bytes).max().unwrap_or(0);
        let row = COPIES * OutputRowBytes::of(steps).least();
        let bytes = (total.memory_bytes / MEMORY_SHARES).min(total.memory_bytes.saturating_sub(worker));
        // The pass holds at least one row, and 1 MiB.
        let least = row.max(1 << 20);
        if bytes < least {
            let names: Vec<_> = steps.iter().map(|step| step.operator.definition.name).collect();
            let needed = (MEMORY_SHARES * least).max(worker + least);
            let configured = engine.options().budget_bytes;
            let budget =
                (u128::from(needed) * u128::from(configured.0)).div_ceil(u128::from(total.memory_bytes.max(1)));
            let budget = ByteSize(u64::try_from(budget).unwrap_or(u64::MAX).next_multiple_of(1 << 20));
            return Err(Error::resource_exhausted(format!(
                "{} on table `{}`: a worker takes {} and a row {}, which a memory budget of {configured} has no room \
                 for; give {budget} or more",
                names.join(", "),
                steps[0].table,
                ByteSize(worker),
                ByteSize(row),
            )));
        }
        Ok(Self::divide(bytes, worker, total.cpu.ceil() as usize))
    }

    fn divide(bytes: u64, worker: u64, threads: usize) -> Self {
        let sixth = bytes / 6;
        let at_work_max = threads + 1;
        let piece = (3 * sixth / (2 * at_work_max as u64)).max(1);
        Self { queue: sixth, at_work: 3 * sixth, pending: 2 * sixth, piece, at_work_max, worker }
    }

    /// Returns the memory of all rows of the pass, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.queue + self.at_work + self.pending
    }
}
