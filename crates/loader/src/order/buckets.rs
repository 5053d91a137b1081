//! The grouping of samples by length, so that batches need little padding.

use std::collections::VecDeque;
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use serde::{Deserialize, Serialize};

use super::permutation::Permutation;
use super::sample::{Sample, mix};

/// The grouping of samples by length. The order is still a function of seed, epoch and lengths: batches, ranks and
/// workers cut it as they cut any other order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// The column of lengths: a number is the length itself; a text, bytes or a list counts by its own length. A null
    /// has length 0.
    pub column: String,
    /// Consecutive samples that are sorted by length together; below 2^32.
    pub window_rows: u64,
    /// Samples in a run: the runs of a window are shuffled. Best is the number of samples in one step, or a multiple of
    /// it.
    pub run_rows: u64,
}

impl Buckets {
    /// Checks the sizes.
    ///
    /// # Errors
    /// `InvalidInput` for a run without rows, or one that is longer than the window; for a window of 2^32 rows or more.
    pub(crate) fn check(&self) -> Result<()> {
        if self.window_rows > WINDOW_ROWS_MAX {
            return Err(Error::invalid_input(format!(
                "a window has at most {WINDOW_ROWS_MAX} rows, found {}",
                self.window_rows
            )));
        }
        if self.run_rows > 0 && self.run_rows <= self.window_rows {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "a run has one row or more, and no more than the window: found runs of {} in windows of {}",
            self.run_rows, self.window_rows
        )))
    }
}

/// Rows of a window, at most: their places are 32-bit numbers.
const WINDOW_ROWS_MAX: u64 = u32::MAX as u64;
/// Windows whose order is cached. Threads make batches of only a few windows at a time.
const WINDOWS_KEPT: usize = 4;

/// The order of one window.
#[derive(Debug)]
struct SortedWindow {
    number: u64,
    /// For each place in the window, the place of the same sample in the other order.
    places: Arc<Vec<u32>>,
}

/// An order by length over another order.
#[derive(Debug)]
pub(super) struct ByLength {
    buckets: Buckets,
    /// The lengths of the rows of each source.
    lengths: Vec<Arc<Vec<u32>>>,
    /// The seed of the order of runs; `None` if shorter runs come first.
    seed: Option<u64>,
    /// The windows sorted last, newest first.
    windows: Mutex<VecDeque<SortedWindow>>,
}

impl ByLength {
    pub(super) fn new(buckets: Buckets, lengths: Vec<Arc<Vec<u32>>>, seed: Option<u64>) -> Self {
        Self { buckets, lengths, seed, windows: Mutex::default() }
    }

    /// Returns the position in `other`, an order of `len` samples, of the sample that is at `position` in this one.
    pub(super) fn place(&self, position: u64, len: u64, other: impl Fn(u64) -> Sample) -> u64 {
        let number = position / self.buckets.window_rows;
        let start = number * self.buckets.window_rows;
        let cached = self.windows.lock().iter().find(|window| window.number == number).map(|it| Arc::clone(&it.places));
        let places = cached.unwrap_or_else(|| {
            let rows = self.buckets.window_rows.min(len - start);
            let places = Arc::new(self.sort(number, rows, |at| other(start + at)));
            let mut windows = self.windows.lock();
            windows.truncate(WINDOWS_KEPT - 1);
            windows.push_front(SortedWindow { number, places: Arc::clone(&places) });
            places
        });
        start + u64::from(places[(position - start) as usize])
    }

    /// Sorts window `number`, which has `rows` samples.
    fn sort(&self, number: u64, rows: u64, sample: impl Fn(u64) -> Sample) -> Vec<u32> {
        let length = |at: &u32| {
            let Sample { source, row, .. } = sample(u64::from(*at));
            self.lengths[source][row as usize]
        };
        let mut sorted: Vec<u32> = (0..rows as u32).collect();
        sorted.sort_by_cached_key(length);
        let run = self.buckets.run_rows;
        let Some(seed) = self.seed else { return sorted };
        let runs = Permutation::new(rows / run, mix(&[seed, 3, number]));
        // The rest that is shorter than a run stays at the end.
        let at = |at: u64| if at < rows / run * run { runs.at(at / run) * run + at % run } else { at };
        (0..rows).map(|place| sorted[at(place) as usize]).collect()
    }
}
