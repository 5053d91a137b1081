//! The suite that every operator passes: determinism, row alignment, batch independence, null and corrupt input.

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::concat;
use cenote_base::{Error, Result};

use crate::bound::BoundOperator;
use crate::definition::Shape;
use crate::worker::{Output, Rows};

/// Runs the suite on `operator`.
///
/// `good` holds rows that all succeed, `bad` rows that must all fail, each with a reason of its own and without failing
/// the batch. Both have one array for each port. `bad` may be empty for an operator that accepts any input.
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

/// Requires the same output for the same rows, on the same worker and on another.
fn deterministic(operator: &BoundOperator, good: &[ArrayRef], whole: &Output) -> Result<()> {
    let mut worker = operator.worker()?;
    for _ in 0..2 {
        let again = worker.process(&Rows::new(good))?;
        ensure(same(whole, &again), || "a second run gave another output".to_owned())?;
    }
    Ok(())
}

/// Requires that preparing rows and running the kernel gives what a worker gives that does both.
fn in_halves(operator: &BoundOperator, good: &[ArrayRef], whole: &Output) -> Result<()> {
    let Some(kernel) = operator.kernel() else { return Ok(()) };
    let halves = kernel.worker()?.process(&Rows::new(good))?;
    ensure(same(whole, &halves), || format!("kernel `{}` gave another output than a worker", kernel.name))
}

/// Requires that a row's output does not depend on the rows beside it.
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

/// Requires null for null and no error: a missing input is not a bad row.
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

/// Requires that bad rows before good ones become nulls with reasons, and that the good ones come out as if alone.
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

/// Counts the output rows whose parent is below `rows`.
fn leading(parents: &UInt32Array, rows: usize) -> usize {
    parents.values().partition_point(|&parent| (parent as usize) < rows)
}
