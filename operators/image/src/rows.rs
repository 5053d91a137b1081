//! The work common to image operators: walking the rows, keeping nulls null, and turning reasons into row errors.

use std::sync::Arc;

use arrow::array::{Array, LargeBinaryArray, cast::AsArray};
use arrow::datatypes::Field;
use cenote_base::Result;
use cenote_operator::{Operator, Output, RowError, Rows, Worker};

/// Calls `work` with the number and the bytes of each row whose first port is not null. Returns which rows have a
/// value, and the errors of those that `work` refused.
///
/// # Errors
/// `Cancelled` when nobody waits for the output any more.
pub(crate) fn for_each(
    rows: &Rows<'_>,
    mut work: impl FnMut(usize, &[u8]) -> Result<(), String>,
) -> Result<(Vec<bool>, Vec<RowError>)> {
    let images: &LargeBinaryArray = rows.column(0).as_binary();
    let mut valid = vec![false; images.len()];
    let mut errors = Vec::new();
    for (row, bytes) in images.iter().enumerate() {
        rows.check()?;
        match bytes.map(|bytes| work(row, bytes)) {
            Some(Ok(())) => valid[row] = true,
            Some(Err(reason)) => errors.push(RowError { row, reason }),
            None => {}
        }
    }
    Ok((valid, errors))
}

/// Applies `work` to each row of the first port. Returns `None` for null rows and for those that `work` refused, with
/// the errors of the latter.
///
/// # Errors
/// As [`for_each`].
pub(crate) fn map<T>(
    rows: &Rows<'_>,
    mut work: impl FnMut(&[u8]) -> Result<T, String>,
) -> Result<(Vec<Option<T>>, Vec<RowError>)> {
    let mut values: Vec<Option<T>> = Vec::new();
    values.resize_with(rows.len(), || None);
    let (_, errors) = for_each(rows, |row, bytes| {
        values[row] = Some(work(bytes)?);
        Ok(())
    })?;
    Ok((values, errors))
}

/// Makes an operator of `process`, whose workers each own a state made by `start`.
pub(crate) fn with_state<S, I, P>(outputs: Vec<Field>, start: I, process: P) -> Box<dyn Operator>
where
    S: Send + 'static,
    I: Fn() -> Result<S> + Send + Sync + 'static,
    P: Fn(&mut S, &Rows<'_>) -> Result<Output> + Send + Sync + 'static,
{
    Box::new(Stateful { outputs, start, process: Arc::new(process) })
}

struct Stateful<I, P> {
    outputs: Vec<Field>,
    start: I,
    process: Arc<P>,
}

struct StatefulWorker<S, P> {
    state: S,
    process: Arc<P>,
}

impl<S, I, P> Operator for Stateful<I, P>
where
    S: Send + 'static,
    I: Fn() -> Result<S> + Send + Sync,
    P: Fn(&mut S, &Rows<'_>) -> Result<Output> + Send + Sync + 'static,
{
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(StatefulWorker { state: (self.start)()?, process: Arc::clone(&self.process) }))
    }
}

impl<S, P> Worker for StatefulWorker<S, P>
where
    S: Send,
    P: Fn(&mut S, &Rows<'_>) -> Result<Output> + Send + Sync,
{
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        (self.process)(&mut self.state, rows)
    }
}
