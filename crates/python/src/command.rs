//! The command `cenote`, as the wheel installs it.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command line with `arguments`, of which the first is the program's name; its exit code.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| cenote_cli::run(arguments))
}
