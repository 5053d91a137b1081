//! Errors as exceptions: each kind has a class in `cenote.errors`.

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

/// Turns `error` into the exception of its kind. A Python exception among its causes becomes the `__cause__`.
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
        // `Internal`, and kinds that have no class.
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

/// Makes the exception for a wrong argument.
pub(crate) fn invalid(message: impl Into<String>) -> PyErr {
    raise(Error::invalid_input(message))
}

/// Makes the exception for Arrow data that cannot be converted.
pub(crate) fn arrow(error: impl std::fmt::Display) -> PyErr {
    invalid(format!("the Arrow data cannot be read: {error}"))
}
