//! Errors as exceptions: one class for each kind, in `cenote.errors`.

use std::error::Error as _;

use cenote_runtime::{Error, ErrorKind};
use pyo3::PyErr;
use pyo3::prelude::*;

mod classes {
    use pyo3::import_exception;

    import_exception!(cenote.errors, NotFoundError);
    import_exception!(cenote.errors, AlreadyExistsError);
    import_exception!(cenote.errors, InvalidInputError);
    import_exception!(cenote.errors, ConflictError);
    import_exception!(cenote.errors, CorruptError);
    import_exception!(cenote.errors, ResourceExhaustedError);
    import_exception!(cenote.errors, UnavailableError);
    import_exception!(cenote.errors, CancelledError);
    import_exception!(cenote.errors, UnsupportedError);
    import_exception!(cenote.errors, InternalError);
}

/// `error` as the exception of its kind. A Python exception that caused it is its `__cause__`.
pub(crate) fn raise(error: Error) -> PyErr {
    let message = error.message().to_owned();
    let exception = match error.kind() {
        ErrorKind::NotFound => classes::NotFoundError::new_err(message),
        ErrorKind::AlreadyExists => classes::AlreadyExistsError::new_err(message),
        ErrorKind::InvalidInput => classes::InvalidInputError::new_err(message),
        ErrorKind::Conflict => classes::ConflictError::new_err(message),
        ErrorKind::Corrupt => classes::CorruptError::new_err(message),
        ErrorKind::ResourceExhausted => classes::ResourceExhaustedError::new_err(message),
        ErrorKind::Unavailable => classes::UnavailableError::new_err(message),
        ErrorKind::Cancelled => classes::CancelledError::new_err(message),
        ErrorKind::Unsupported => classes::UnsupportedError::new_err(message),
        // `Internal`, and kinds that are newer than this page.
        _ => classes::InternalError::new_err(message),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<PyErr>() {
            Python::attach(|py| exception.set_cause(py, Some(raised.clone_ref(py))));
            break;
        }
        source = cause.source();
    }
    exception
}

/// What is wrong with an argument.
pub(crate) fn invalid(message: impl Into<String>) -> PyErr {
    raise(Error::invalid_input(message))
}

/// An error of Arrow's at the border.
pub(crate) fn arrow(error: impl std::fmt::Display) -> PyErr {
    invalid(format!("this is no Arrow data that can be read: {error}"))
}
