//! The search for the rows that make a batch fail.

use std::ops::Range;

use arrow::array::RecordBatch;
use cenote_base::{Error, ErrorKind, Result};

/// The outcome of a batch, in which every row is accounted for.
#[derive(Debug)]
pub struct Sifted {
    /// The outputs, in the order of their rows.
    pub outputs: Vec<SiftedOutput>,
    /// The rows that fail even alone, in order.
    pub bad: Vec<BadRow>,
}

/// The output for some rows of the batch that succeeded together.
#[derive(Debug)]
pub struct SiftedOutput {
    /// The numbers of the rows in the batch.
    pub rows: Range<usize>,
    /// What the work made of them.
    pub output: RecordBatch,
}

/// A row that fails even alone.
#[derive(Debug)]
pub struct BadRow {
    /// The number of the row in the batch.
    pub row: usize,
    /// The error that the row fails with.
    pub error: Error,
}

/// Runs `work` on `batch`. Where it fails, it runs again on both halves, down to the rows that fail alone, which are
/// set aside. One bad row among n costs about 2 · log₂ n more runs.
///
/// # Errors
/// `Cancelled`, because it says nothing about rows; the error of the first row beyond `bad_max` that fails alone.
pub async fn sift<F, Fut>(batch: &RecordBatch, bad_max: usize, work: F) -> Result<Sifted>
where
    F: Fn(RecordBatch) -> Fut,
    Fut: Future<Output = Result<RecordBatch>>,
{
    let mut sifted = Sifted { outputs: Vec::new(), bad: Vec::new() };
    let all = 0..batch.num_rows();
    // A stack, with the first rows on top.
    let mut left = vec![all];
    while let Some(rows) = left.pop() {
        match work(batch.slice(rows.start, rows.len())).await {
            Ok(output) => sifted.outputs.push(SiftedOutput { rows, output }),
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
