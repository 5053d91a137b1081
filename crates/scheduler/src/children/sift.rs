//! Finding the rows that break a batch.

use std::ops::Range;

use arrow::array::RecordBatch;
use cenote_base::{Error, ErrorKind, Result};

/// What came of a batch, all rows accounted for.
#[derive(Debug)]
pub struct Sifted {
    /// Outputs, each with the rows it was made from, in order.
    pub outputs: Vec<(Range<usize>, RecordBatch)>,
    /// The rows that fail by themselves, in order.
    pub bad: Vec<BadRow>,
}

/// A row that fails even alone.
#[derive(Debug)]
pub struct BadRow {
    /// Its place in the batch.
    pub row: usize,
    /// What it fails with.
    pub error: Error,
}

/// Runs `work` on `batch`, and where that fails on halves, down to the rows that fail alone, which are set aside. One bad row
/// among n costs some 2 log₂ n more runs.
///
/// # Errors
/// `Cancelled`, which says nothing about rows; the error itself when more than `bad_max` rows fail.
pub async fn sift<F, Fut>(batch: &RecordBatch, bad_max: usize, work: F) -> Result<Sifted>
where
    F: Fn(RecordBatch) -> Fut,
    Fut: Future<Output = Result<RecordBatch>>,
{
    let mut sifted = Sifted { outputs: Vec::new(), bad: Vec::new() };
    let all = 0..batch.num_rows();
    let mut left = vec![all];
    while let Some(rows) = left.pop() {
        match work(batch.slice(rows.start, rows.len())).await {
            Ok(output) => sifted.outputs.push((rows, output)),
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) if rows.len() <= 1 => {
                if sifted.bad.len() >= bad_max {
                    let doing = format!("row {}, after {bad_max} bad rows, which is the limit", rows.start);
                    return Err(error.context(doing));
                }
                sifted.bad.push(BadRow { row: rows.start, error });
            }
            Err(_) => {
                let middle = rows.start + rows.len() / 2;
                left.push(middle..rows.end);
                left.push(rows.start..middle);
            }
        }
    }
    Ok(sifted)
}
