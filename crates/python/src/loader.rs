//! .
use pyo3::prelude::*;
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct Loader {}
