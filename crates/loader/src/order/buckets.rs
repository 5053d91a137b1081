//! Samples of about one length next to each other, so that batches need little padding.

use std::collections::VecDeque;
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use super::permutation::Permutation;
use super::sample::{Sample, mix};

/// How samples are put together by length. The order stays a function of seed, epoch and lengths: batches, ranks and
/// workers cut it as they cut any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// What is long: a number is the length itself; of a text, bytes or a list it is that of the value. A null is 0
    /// long.
    pub column: String,
    /// So many samples that follow each other are sorted by length.
    pub window_rows: u64,
    /// And cut into runs of so many, which come in any order: the samples of one step, or several, are best.
    pub run_rows: u64,
}

impl Buckets {
    /// # Errors
    /// `InvalidInput` for a run without rows, or one that is longer than the window.
    pub(crate) fn check(&self) -> Result<()> {
        if self.run_rows > 0 && self.run_rows <= self.window_rows {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "a run has one row or more, and no more than the window: found runs of {} in windows of {}",
            self.run_rows, self.window_rows
        )))
    }
}

/// Windows whose order is kept: threads make batches of few at a time.
const WINDOWS_KEPT: usize = 4;

/// An order by length over another order.
#[derive(Debug)]
pub(super) struct ByLength {
    buckets: Buckets,
    /// Of each source's rows.
    lengths: Vec<Arc<Vec<u32>>>,
    /// Of the order of runs; `None`: shorter ones come first.
    seed: Option<u64>,
    /// The newest windows: where in the window the other order has what this one has there.
    windows: Mutex<VecDeque<(u64, Arc<Vec<u32>>)>>,
}

impl ByLength {
    pub(super) fn new(buckets: Buckets, lengths: Vec<Arc<Vec<u32>>>, seed: Option<u64>) -> Self {
        Self { buckets, lengths, seed, windows: Mutex::default() }
    }

    /// Where `other`, an order of `len` samples, has what this one has at `position`.
    pub(super) fn place(&self, position: u64, len: u64, other: impl Fn(u64) -> Sample) -> u64 {
        let number = position / self.buckets.window_rows;
        let start = number * self.buckets.window_rows;
        let known =
            self.windows.lock().iter().find(|(known, _)| *known == number).map(|(_, window)| Arc::clone(window));
        let window = known.unwrap_or_else(|| {
            let window =
                Arc::new(self.window(number, self.buckets.window_rows.min(len - start), |at| other(start + at)));
            let mut windows = self.windows.lock();
            windows.truncate(WINDOWS_KEPT - 1);
            windows.push_front((number, Arc::clone(&window)));
            window
        });
        start + u64::from(window[(position - start) as usize])
    }

    fn window(&self, number: u64, rows: u64, sample: impl Fn(u64) -> Sample) -> Vec<u32> {
        let length = |at: &u32| {
            let Sample { source, row, .. } = sample(u64::from(*at));
            self.lengths[source][row as usize]
        };
        let mut sorted: Vec<u32> = (0..rows as u32).collect();
        sorted.sort_by_cached_key(length);
        let run = self.buckets.run_rows;
        let Some(seed) = self.seed else { return sorted };
        let runs = Permutation::new(rows / run, mix(&[seed, 3, number]));
        // What makes no whole run stays at the end.
        let at = |at: u64| if at < rows / run * run { runs.at(at / run) * run + at % run } else { at };
        (0..rows).map(|place| sorted[at(place) as usize]).collect()
    }
}
