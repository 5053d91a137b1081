//! A permutation that mixes within windows.

use super::permutation::Permutation;
use super::sample::mix;

/// Longest run of neighbouring rows that stays in one window, in rows.
const RUN_ROWS_MAX: u64 = 1024;
/// Runs in a window, at least, if the window is large enough.
const RUNS_PER_WINDOW: u64 = 64;

/// A permutation that mixes within windows: runs of neighbouring rows are shuffled over the whole, then the rows of
/// each window of consecutive runs among themselves.
#[derive(Debug, Clone)]
pub(super) struct Windowed {
    len: u64,
    run: u64,
    window: u64,
    runs: Permutation,
    seed: u64,
}

impl Windowed {
    /// Permutes `len` rows in windows of `window_rows`; `None` for a single window.
    pub(super) fn new(len: u64, window_rows: Option<u64>, seed: u64) -> Self {
        let window = window_rows.unwrap_or(len).clamp(1, len.max(1));
        if window == len {
            return Self { len, run: 1, window: len, runs: Permutation::new(0, 0), seed };
        }
        let run = (window / RUNS_PER_WINDOW).clamp(1, RUN_ROWS_MAX);
        Self { len, run, window: window / run * run, runs: Permutation::new(len / run, mix(&[seed, 1])), seed }
    }

    /// Returns the row at `position`.
    pub(super) fn at(&self, position: u64) -> u64 {
        let number = position / self.window;
        let start = number * self.window;
        let rows = self.window.min(self.len - start);
        let place = start + Permutation::new(rows, mix(&[self.seed, 2, number])).at(position - start);
        let whole = self.len / self.run * self.run;
        if self.window == self.len || place >= whole {
            // A single window holds all rows, or this is the rest that is shorter than a run.
            return place;
        }
        self.runs.at(place / self.run) * self.run + place % self.run
    }
}
