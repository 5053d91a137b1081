//! Operators in Python.
use cenote_runtime::operator::Definition;
use pyo3::prelude::*;
pub(crate) fn registered() -> Vec<Definition> {
    Vec::new()
}
#[pyfunction]
pub(crate) fn register() {}
