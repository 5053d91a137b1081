//! The suite every operator passes: determinism, row alignment, batch independence, null and corrupt input.

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::concat;
use cenote_base::{Error, Result};

use crate::definition::Shape;
use crate::operator::{BoundOperator, Output, Rows};

/// Runs the suite on `operator`.
///
/// `good` holds rows (one array a port) that all succeed; `bad` holds rows that must all fail, each with its own reason,
/// without failing the batch; `bad` may be empty for an operator that no input can upset.
///
/// # Errors
/// `Internal` with the promise that was broken.
pub fn check(operator: &BoundOperator, good: &[ArrayRef], bad: &[ArrayRef]) -> Result<()> {
    let whole = run(operator, good)?;
    ensure(whole.errors.is_empty(), || format!("good rows failed: {:?}", whole.errors))?;
    deterministic(operator, good, &whole)?;
    in_halves(operator, good, &whole)?;
    batch_independent(operator, good, &whole)?;
    empty(operator, good)?;
    nulls(operator, good)?;
    if bad.first().is_some_and(|column| !column.is_empty()) {
        corrupt(operator, good, bad)?;
    }
    Ok(())
}

fn run(operator: &BoundOperator, columns: &[ArrayRef]) -> Result<Output> {
    operator.worker()?.process(&Rows::new(columns))
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::internal(broken())) }
}

fn same(a: &Output, b: &Output) -> bool {
    a.columns == b.columns && a.parents == b.parents && a.errors == b.errors
}

/// The same rows give the same output, on the same worker and on another.
fn deterministic(operator: &BoundOperator, good: &[ArrayRef], whole: &Output) -> Result<()> {
    let mut worker = operator.worker()?;
    for _ in 0..2 {
        let again = worker.process(&Rows::new(good))?;
        ensure(same(whole, &again), || "a second run gave another output".to_owned())?;
    }
    Ok(())
}

/// Preparing rows for the kernel and running it gives what a worker gives that does all of it.
fn in_halves(operator: &BoundOperator, good: &[ArrayRef], whole: &Output) -> Result<()> {
    let Some(kernel) = operator.kernel() else { return Ok(()) };
    let halves = kernel.worker()?.process(&Rows::new(good))?;
    ensure(same(whole, &halves), || format!("kernel `{}` gave another output than a worker", kernel.name))
}

/// A row's output does not depend on the rows beside it.
fn batch_independent(operator: &BoundOperator, good: &[ArrayRef], whole: &Output) -> Result<()> {
    let mut worker = operator.worker()?;
    let mut singles = Vec::new();
    for row in 0..Rows::new(good).len() {
        let slice: Vec<ArrayRef> = good.iter().map(|column| column.slice(row, 1)).collect();
        singles.push(worker.process(&Rows::new(&slice))?);
    }
    for (index, column) in whole.columns.iter().enumerate() {
        let parts: Vec<&dyn Array> = singles.iter().map(|single| single.columns[index].as_ref()).collect();
        let joined = concat(&parts).map_err(|source| Error::internal("concatenate outputs").with_source(source))?;
        ensure(&joined == column, || format!("column {index} differs when rows are processed one by one"))?;
    }
    Ok(())
}

fn empty(operator: &BoundOperator, good: &[ArrayRef]) -> Result<()> {
    let none: Vec<ArrayRef> = good.iter().map(|column| column.slice(0, 0)).collect();
    let output = run(operator, &none)?;
    ensure(output.columns.iter().all(|column| column.is_empty()), || "no rows gave rows".to_owned())
}

/// Null in, null out, and no complaint: a missing input is not an error.
fn nulls(operator: &BoundOperator, good: &[ArrayRef]) -> Result<()> {
    let nulls: Vec<ArrayRef> = good.iter().map(|column| new_null_array(column.data_type(), 2)).collect();
    let output = run(operator, &nulls)?;
    ensure(output.errors.is_empty(), || format!("null input was reported as an error: {:?}", output.errors))?;
    match operator.definition.shape {
        Shape::OneToMany => ensure(output.columns.iter().all(|c| c.is_empty()), || "null input gave rows".to_owned()),
        Shape::RowWise | Shape::Filter => {
            ensure(output.columns.iter().all(|c| c.null_count() == 2), || "null input gave a value".to_owned())
        }
    }
}

/// Bad rows between good ones become nulls with reasons, and the good ones are as if the bad were not there.
fn corrupt(operator: &BoundOperator, good: &[ArrayRef], bad: &[ArrayRef]) -> Result<()> {
    let bad_rows = bad[0].len();
    let mixed = good
        .iter()
        .zip(bad)
        .map(|(good, bad)| concat(&[bad.as_ref(), good.as_ref()]))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::internal("mix good and bad rows").with_source(source))?;
    let output = run(operator, &mixed)?;
    let failed: Vec<usize> = output.errors.iter().map(|error| error.row).collect();
    ensure(failed == (0..bad_rows).collect::<Vec<_>>(), || format!("of {bad_rows} bad rows these failed: {failed:?}"))?;
    ensure(output.errors.iter().all(|error| !error.reason.is_empty()), || "an error has no reason".to_owned())?;
    let alone = run(operator, good)?;
    let skip = match &output.parents {
        Some(parents) => leading(parents, bad_rows),
        None => bad_rows,
    };
    for (mixed, alone) in output.columns.iter().zip(&alone.columns) {
        ensure(&mixed.slice(skip, mixed.len() - skip) == alone, || "a bad row changed a good one".to_owned())?;
    }
    Ok(())
}

/// How many output rows have a parent below `rows`.
fn leading(parents: &UInt32Array, rows: usize) -> usize {
    parents.values().partition_point(|&parent| (parent as usize) < rows)
}
