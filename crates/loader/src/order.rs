//! In which order the rows of an epoch come: a function of seed, epoch and numbers of rows, of which nothing is stored.

use std::sync::Arc;

use cenote_base::{Error, Random, Result};
use serde::{Deserialize, Serialize};

use crate::buckets::{Buckets, ByLength};
use crate::permutation::Permutation;
use crate::selection::Selection;

/// How rows are shuffled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shuffle {
    /// Names the order; another epoch has another one.
    pub seed: u64,
    /// Rows of a window within which neighbours in the order lie; `None`: anywhere. A window reads whole runs of
    /// neighbouring rows, which storage likes, and mixes less.
    pub window_rows: Option<u64>,
}

/// Neighbouring rows that stay in one window.
const RUN_ROWS_MAX: u64 = 1024;
/// A window mixes at least so many runs, where it is large enough.
const RUNS_A_WINDOW: u64 = 64;

/// How many samples each source gives an epoch, and so which.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mixture {
    /// Rows that each source has.
    rows: Vec<u64>,
    /// Samples that each source gives an epoch.
    samples: Vec<u64>,
}

impl Mixture {
    /// Mixes sources of `rows` rows each. Without weights each row comes once an epoch. With them an epoch has
    /// `epoch_rows` samples (default: as many as there are rows), divided by weight, and each source goes on where it
    /// stood in the epoch before: a row comes again when all others of its source came as often.
    ///
    /// # Errors
    /// `InvalidInput` for weights that are not positive numbers, or a source without rows.
    pub(crate) fn new(rows: Vec<u64>, weights: Option<&[f64]>, epoch_rows: Option<u64>) -> Result<Self> {
        let total: u64 = rows.iter().sum();
        if total == 0 {
            return Err(Error::invalid_input(
                "there are no rows to load: the table is empty, or nothing satisfies `where`",
            ));
        }
        let samples = match (weights, epoch_rows) {
            (None, None) => rows.clone(),
            (None, Some(_)) => return Err(Error::invalid_input("the length of an epoch is set with weights only")),
            (Some(weights), epoch_rows) => {
                if weights.iter().any(|weight| !weight.is_finite() || *weight <= 0.0) {
                    return Err(Error::invalid_input("weights are positive numbers"));
                }
                if let Some(empty) = rows.iter().position(|rows| *rows == 0) {
                    return Err(Error::invalid_input(format!(
                        "source {empty} of the mixture has a weight and no rows"
                    )));
                }
                divide(epoch_rows.unwrap_or(total), weights)
            }
        };
        Ok(Self { rows, samples })
    }

    /// Samples an epoch.
    pub(crate) fn epoch_rows(&self) -> u64 {
        self.samples.iter().sum()
    }
}

/// `total` in whole parts as near to `weights` as can be: the largest remainders are rounded up.
fn divide(total: u64, weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| total as f64 * weight / sum).collect();
    let mut parts: Vec<u64> = exact.iter().map(|part| part.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder
        .sort_by(|a, b| (exact[*b] - exact[*b].floor()).total_cmp(&(exact[*a] - exact[*a].floor())).then(a.cmp(b)));
    let missing = total - parts.iter().sum::<u64>().min(total);
    by_remainder.into_iter().cycle().take(missing as usize).for_each(|at| parts[at] += 1);
    parts
}

/// A row: which source it is of, and its number in that source's selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sample {
    pub(crate) source: usize,
    pub(crate) row: u64,
    /// How often all rows of its source came before, where weights have them come again: a row may come several times
    /// an epoch.
    pub(crate) pass: u64,
}

/// The order of one epoch.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    mixture: Mixture,
    /// Which sample, in the order of sources, is at each position; `None`: in that order.
    interleave: Option<Windowed>,
    shuffle: Option<Shuffle>,
    epoch: u64,
    by_length: Option<Arc<ByLength>>,
}

impl Order {
    pub(crate) fn new(mixture: &Mixture, shuffle: Option<&Shuffle>, epoch: u64) -> Self {
        let interleave = shuffle
            .map(|shuffle| Windowed::new(mixture.epoch_rows(), shuffle.window_rows, mix(&[shuffle.seed, epoch])));
        Self { mixture: mixture.clone(), interleave, shuffle: shuffle.cloned(), epoch, by_length: None }
    }

    /// The same with samples of about one length next to each other.
    pub(crate) fn by_length(mut self, buckets: &Buckets, selections: &[Selection]) -> Self {
        let seed = self.shuffle.as_ref().map(|shuffle| mix(&[shuffle.seed, self.epoch]));
        self.by_length = Some(Arc::new(ByLength::new(buckets, selections, seed)));
        self
    }

    /// Positions in the epoch.
    pub(crate) fn len(&self) -> u64 {
        self.mixture.epoch_rows()
    }

    /// The row at `position`, which is below [`len`](Self::len).
    pub(crate) fn at(&self, position: u64) -> Sample {
        match &self.by_length {
            Some(by_length) => self.shuffled(by_length.place(position, self.len(), |place| self.shuffled(place))),
            None => self.shuffled(position),
        }
    }

    fn shuffled(&self, position: u64) -> Sample {
        let mut slot = self.interleave.as_ref().map_or(position, |interleave| interleave.at(position));
        for (source, (rows, samples)) in self.mixture.rows.iter().zip(&self.mixture.samples).enumerate() {
            if slot >= *samples {
                slot -= samples;
                continue;
            }
            if rows == samples {
                // Every row comes once, and the epoch's order has shuffled already.
                return Sample { source, row: slot, pass: 0 };
            }
            let place = self.epoch * samples + slot;
            let (pass, row) = (place / rows, place % rows);
            let row = match &self.shuffle {
                Some(shuffle) => Permutation::new(*rows, mix(&[shuffle.seed, u64::MAX - source as u64, pass])).at(row),
                None => row,
            };
            return Sample { source, row, pass };
        }
        // Not reached: positions are below the sum of the samples.
        Sample { source: 0, row: 0, pass: 0 }
    }
}

/// A seed from several.
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x5851_f42d_4c95_7f2d, |seed, part| Random::new(seed ^ part).next_u64())
}

/// A permutation that mixes within windows: runs of neighbouring rows are shuffled over the whole, and the rows of so
/// many runs as make a window among themselves.
#[derive(Debug, Clone)]
struct Windowed {
    len: u64,
    run: u64,
    window: u64,
    runs: Permutation,
    seed: u64,
}

impl Windowed {
    fn new(len: u64, window_rows: Option<u64>, seed: u64) -> Self {
        let window = window_rows.unwrap_or(len).clamp(1, len.max(1));
        if window == len {
            return Self { len, run: 1, window: len, runs: Permutation::new(0, 0), seed };
        }
        let run = (window / RUNS_A_WINDOW).clamp(1, RUN_ROWS_MAX);
        Self { len, run, window: window / run * run, runs: Permutation::new(len / run, mix(&[seed, 1])), seed }
    }

    fn at(&self, position: u64) -> u64 {
        let number = position / self.window;
        let start = number * self.window;
        let rows = self.window.min(self.len - start);
        let place = start + Permutation::new(rows, mix(&[self.seed, 2, number])).at(position - start);
        let whole = self.len / self.run * self.run;
        if self.window == self.len || place >= whole {
            // One window holds all, or this is the rest that makes no whole run.
            return place;
        }
        self.runs.at(place / self.run) * self.run + place % self.run
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    fn shuffle(seed: u64, window_rows: Option<u64>) -> Shuffle {
        Shuffle { seed, window_rows }
    }

    #[test]
    fn each_row_comes_once_an_epoch_in_any_window() {
        for rows in [1, 2, 7, 64, 100, 1000, 1027] {
            for window in [None, Some(1), Some(10), Some(64), Some(500), Some(5000)] {
                let mixture = Mixture::new(vec![rows, 3], None, None).unwrap();
                let order = Order::new(&mixture, Some(&shuffle(7, window)), 3);
                let mut seen: Vec<Sample> = (0..order.len()).map(|position| order.at(position)).collect();
                seen.sort();
                let all = [(0, rows), (1, 3)]
                    .into_iter()
                    .flat_map(|(source, n)| (0..n).map(move |row| Sample { source, row, pass: 0 }));
                assert_eq!(seen, all.collect::<Vec<_>>(), "{rows} rows, window {window:?}");
            }
        }
    }

    #[test]
    fn a_window_holds_few_runs() {
        let mixture = Mixture::new(vec![100_000], None, None).unwrap();
        let order = Order::new(&mixture, Some(&shuffle(1, Some(6400))), 0);
        let runs: std::collections::BTreeSet<u64> = (0..6400).map(|position| order.at(position).row / 100).collect();
        assert_eq!(runs.len(), 64);
    }

    #[test]
    fn weights_divide_an_epoch_and_passes_go_on_over_epochs() {
        let mixture = Mixture::new(vec![10, 100], Some(&[3.0, 1.0]), Some(40)).unwrap();
        assert_eq!(mixture.samples, [30, 10]);
        let mut seen: BTreeMap<(usize, u64), Vec<u64>> = BTreeMap::new();
        for epoch in 0..10 {
            let order = Order::new(&mixture, Some(&shuffle(5, None)), epoch);
            for Sample { source, row, pass } in (0..order.len()).map(|position| order.at(position)) {
                seen.entry((source, row)).or_default().push(pass);
            }
        }
        // 300 samples of 10 rows, and 100 of 100 rows: whole passes, so each row came equally often, once in each.
        assert_eq!(seen.len(), 110);
        for ((source, row), mut passes) in seen {
            passes.sort_unstable();
            assert_eq!(passes, (0..if source == 0 { 30 } else { 1 }).collect::<Vec<_>>(), "row {row}");
        }
    }

    #[test]
    fn parts_add_up() {
        for total in [0, 1, 10, 999] {
            for weights in [&[1.0][..], &[1.0, 1.0, 1.0], &[0.1, 0.2, 0.7], &[1e-9, 1.0]] {
                assert_eq!(divide(total, weights).iter().sum::<u64>(), total);
            }
        }
        assert_eq!(divide(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
    }
}
