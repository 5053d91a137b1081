//! The division of an epoch's positions among ranks and workers, in steps that all ranks make together.

use std::ops::Range;
use std::str::FromStr;

use cenote_base::{Error, Result};

/// The treatment of the last step of an epoch, when fewer rows are left than the batches of all ranks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpochTail {
    /// The rows are dealt out evenly: every row comes once. The batches of that step are smaller, or empty where fewer
    /// rows than ranks are left.
    #[default]
    Short,
    /// The rows are left out: every batch is full.
    Drop,
    /// Rows from the start of the epoch's order fill the batches: every batch is full, and counts its repeated rows.
    Pad,
}

impl FromStr for EpochTail {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "short" => Ok(Self::Short),
            "drop" => Ok(Self::Drop),
            "pad" => Ok(Self::Pad),
            _ => Err(Error::invalid_input(format!("`{text}` is not a way to end an epoch: use short, drop or pad"))),
        }
    }
}

/// Rows that all ranks take together in one step, at most: beyond any memory, and far from an overflow.
const STEP_ROWS_MAX: u64 = 1 << 32;

/// One reader among others: a worker of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// Rows in a batch.
    pub(crate) batch_rows: u64,
    /// The number of this process among those that train together.
    pub(crate) rank: u64,
    /// The number of processes that train together.
    pub(crate) world_size: u64,
    /// The number of this worker among those of the rank, which take its batches in turn.
    pub(crate) worker: u64,
    /// The number of workers of the rank.
    pub(crate) workers: u64,
    /// The treatment of the last step.
    pub(crate) tail: EpochTail,
}

/// The positions of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchPositions {
    /// Positions of the epoch's order that come for the first time.
    pub(crate) fresh: Range<u64>,
    /// Positions that came before and fill the batch.
    pub(crate) repeated: Vec<u64>,
}

impl Shard {
    /// Checks the numbers.
    ///
    /// # Errors
    /// `InvalidInput` for a batch without rows, a step of more than [`STEP_ROWS_MAX`] rows, and a rank or worker that
    /// is not below their number.
    pub(crate) fn check(&self) -> Result<()> {
        if self.batch_rows == 0 {
            return Err(Error::invalid_input("a batch has one row or more: batch_size is 0"));
        }
        if self.batch_rows.saturating_mul(self.world_size) > STEP_ROWS_MAX {
            return Err(Error::invalid_input(format!(
                "a step of all ranks has up to {STEP_ROWS_MAX} rows: batch_size is {} and world_size is {}",
                self.batch_rows, self.world_size
            )));
        }
        for (name, number, count) in [("rank", self.rank, self.world_size), ("worker", self.worker, self.workers)] {
            if number >= count {
                let of = if name == "rank" { "world_size" } else { "workers" };
                return Err(Error::invalid_input(format!(
                    "{name} is {number} and {of} is {count}: {name} counts from 0 and is below {of}"
                )));
            }
        }
        Ok(())
    }

    /// Returns the rows that all ranks take together in one step.
    fn stride(&self) -> u64 {
        self.batch_rows * self.world_size
    }

    /// Returns the steps that each rank makes for the positions from `consumed` on in an epoch of `rows`.
    fn steps(&self, rows: u64, consumed: u64) -> u64 {
        let left = rows.saturating_sub(consumed);
        match self.tail {
            EpochTail::Drop => left / self.stride(),
            EpochTail::Short | EpochTail::Pad => left.div_ceil(self.stride()),
        }
    }

    /// Returns the batches that this worker gives for the positions from `consumed` on in an epoch of `rows`.
    pub(crate) fn batches(&self, rows: u64, consumed: u64) -> u64 {
        self.steps(rows, consumed).saturating_sub(self.worker).div_ceil(self.workers)
    }

    /// Returns the positions that this rank takes in `step` of those from `consumed` on in an epoch of `rows`.
    pub(crate) fn positions(&self, rows: u64, consumed: u64, step: u64) -> BatchPositions {
        let start = consumed + step * self.stride();
        let left = rows.saturating_sub(start);
        if left >= self.stride() {
            let first = start + self.rank * self.batch_rows;
            return BatchPositions { fresh: first..first + self.batch_rows, repeated: Vec::new() };
        }
        if self.tail == EpochTail::Pad {
            let first = (start + self.rank * self.batch_rows).min(rows);
            let end = (start + (self.rank + 1) * self.batch_rows).min(rows);
            let missing = self.batch_rows - (end - first);
            let beyond = (start + self.rank * self.batch_rows).max(rows) - rows;
            return BatchPositions {
                fresh: first..end,
                repeated: (0..missing).map(|at| (beyond + at) % rows).collect(),
            };
        }
        let share = |rank: u64| start + left * rank / self.world_size;
        BatchPositions { fresh: share(self.rank)..share(self.rank + 1), repeated: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::Random;

    use super::*;

    /// Returns the positions of all ranks, step by step.
    fn all(rows: u64, consumed: u64, batch_rows: u64, world_size: u64, tail: EpochTail) -> Vec<Vec<BatchPositions>> {
        let shard = |rank| Shard { batch_rows, rank, world_size, worker: 0, workers: 1, tail };
        let steps = shard(0).steps(rows, consumed);
        let step = |step| (0..world_size).map(|rank| shard(rank).positions(rows, consumed, step)).collect();
        (0..steps).map(step).collect()
    }

    #[test]
    fn ranks_take_every_position_once_and_as_the_tail_says() {
        let mut random = Random::new(11);
        for _ in 0..3000 {
            let rows = 1 + random.below(200);
            let consumed = random.below(rows + 1);
            let (batch, world) = (1 + random.below(9), 1 + random.below(6));
            for tail in [EpochTail::Short, EpochTail::Drop, EpochTail::Pad] {
                let what = format!("{rows} rows from {consumed}, {world} ranks of {batch}, {tail:?}");
                let steps = all(rows, consumed, batch, world, tail);
                let mut fresh: Vec<u64> =
                    steps.iter().flatten().flat_map(|positions| positions.fresh.clone()).collect();
                fresh.sort_unstable();
                let end = match tail {
                    EpochTail::Drop => consumed + (rows - consumed) / (batch * world) * (batch * world),
                    _ => rows,
                };
                assert_eq!(fresh, (consumed..end).collect::<Vec<_>>(), "{what}");
                for positions in steps.iter().flatten() {
                    let len = positions.fresh.end - positions.fresh.start + positions.repeated.len() as u64;
                    match tail {
                        EpochTail::Short => assert!(len <= batch && positions.repeated.is_empty(), "{what}"),
                        _ => assert_eq!(len, batch, "{what}"),
                    }
                    assert!(positions.repeated.iter().all(|position| *position < rows), "{what}");
                }
            }
        }
    }

    #[test]
    fn what_is_left_is_dealt_evenly() {
        let last = all(11, 0, 4, 2, EpochTail::Short).pop().unwrap();
        assert_eq!(last.iter().map(|positions| positions.fresh.clone()).collect::<Vec<_>>(), [8..9, 9..11]);
    }

    #[test]
    fn a_step_whose_rows_would_overflow_is_refused() {
        let shard =
            Shard { batch_rows: 1 << 63, rank: 0, world_size: 2, worker: 0, workers: 1, tail: EpochTail::Short };
        assert!(shard.check().unwrap_err().message().contains("batch_size is 9223372036854775808 and world_size is 2"));
    }

    #[test]
    fn a_rank_beyond_the_world_is_refused() {
        let shard = Shard { batch_rows: 1, rank: 2, world_size: 2, worker: 0, workers: 1, tail: EpochTail::Short };
        assert!(shard.check().unwrap_err().message().contains("rank is 2 and world_size is 2"));
    }
}
