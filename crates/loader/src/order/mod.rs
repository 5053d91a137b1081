//! The order of the samples of an epoch: a function of the seed, the epoch and the numbers of rows, computed rather
//! than stored.
//!
//! This part does not know ranks or batches, and of a source only the number and the lengths of its rows.

pub(crate) mod buckets;
pub(crate) mod mixture;
mod permutation;
pub(crate) mod sample;
mod windows;

use std::sync::Arc;

use buckets::{Buckets, ByLength};
use mixture::{Mixture, SourceShare};
use permutation::Permutation;
use sample::{Sample, mix};
use serde::{Deserialize, Serialize};
use windows::Windowed;

/// The settings of a shuffle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shuffle {
    /// The seed of the order; every epoch has an order of its own.
    pub seed: u64,
    /// Rows of a window, within which rows are mixed; `None` mixes all rows. A window consists of runs of neighbouring
    /// rows, which are cheap to read together, at the price of less mixing.
    pub window_rows: Option<u64>,
}

/// The order of one epoch.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    mixture: Mixture,
    /// The permutation of the samples, which are numbered source by source; `None` if they are not shuffled.
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

    /// Groups samples of similar length. `lengths` holds the length of each row, by source.
    pub(crate) fn by_length(mut self, buckets: &Buckets, lengths: Vec<Arc<Vec<u32>>>) -> Self {
        let seed = self.shuffle.as_ref().map(|shuffle| mix(&[shuffle.seed, self.epoch]));
        self.by_length = Some(Arc::new(ByLength::new(buckets.clone(), lengths, seed)));
        self
    }

    /// Returns the number of positions in the epoch.
    pub(crate) fn len(&self) -> u64 {
        self.mixture.epoch_rows()
    }

    /// Returns the sample at `position`, which is below [`len`](Self::len).
    pub(crate) fn at(&self, position: u64) -> Sample {
        match &self.by_length {
            Some(by_length) => self.shuffled(by_length.place(position, self.len(), |place| self.shuffled(place))),
            None => self.shuffled(position),
        }
    }

    /// Returns the sample at `position` before grouping by length.
    fn shuffled(&self, position: u64) -> Sample {
        let mut slot = self.interleave.as_ref().map_or(position, |interleave| interleave.at(position));
        for (source, &SourceShare { rows, samples }) in self.mixture.sources().iter().enumerate() {
            if slot >= samples {
                slot -= samples;
                continue;
            }
            if rows == samples {
                // Each row comes once an epoch, and `interleave` has shuffled the rows already.
                return Sample { source, row: slot, pass: 0 };
            }
            // Samples of this source since the first epoch; the epoch is any number that a caller sets.
            let place = u128::from(self.epoch) * u128::from(samples) + u128::from(slot);
            let (pass, row) = ((place / u128::from(rows)) as u64, (place % u128::from(rows)) as u64);
            let row = match &self.shuffle {
                Some(shuffle) => Permutation::new(rows, mix(&[shuffle.seed, u64::MAX - source as u64, pass])).at(row),
                None => row,
            };
            return Sample { source, row, pass };
        }
        // Unreachable: a position is below the total of all samples.
        Sample { source: 0, row: 0, pass: 0 }
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
    fn a_window_holds_a_bounded_number_of_runs() {
        let mixture = Mixture::new(vec![100_000], None, None).unwrap();
        let order = Order::new(&mixture, Some(&shuffle(1, Some(6400))), 0);
        let runs: std::collections::BTreeSet<u64> = (0..6400).map(|position| order.at(position).row / 100).collect();
        assert_eq!(runs.len(), 64);
    }

    #[test]
    fn weights_divide_an_epoch_and_passes_go_on_over_epochs() {
        let mixture = Mixture::new(vec![10, 100], Some(&[3.0, 1.0]), Some(40)).unwrap();
        assert_eq!(mixture.sources().iter().map(|source| source.samples).collect::<Vec<_>>(), [30, 10]);
        let mut seen: BTreeMap<(usize, u64), Vec<u64>> = BTreeMap::new();
        for epoch in 0..10 {
            let order = Order::new(&mixture, Some(&shuffle(5, None)), epoch);
            for Sample { source, row, pass } in (0..order.len()).map(|position| order.at(position)) {
                seen.entry((source, row)).or_default().push(pass);
            }
        }
        // 300 samples of 10 rows and 100 samples of 100 rows are whole passes, in each of which a row comes once.
        assert_eq!(seen.len(), 110);
        for ((source, row), mut passes) in seen {
            passes.sort_unstable();
            assert_eq!(passes, (0..if source == 0 { 30 } else { 1 }).collect::<Vec<_>>(), "row {row}");
        }
    }
}
