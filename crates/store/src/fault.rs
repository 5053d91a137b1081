//! What Lance's and Arrow's errors mean for a caller.

use std::error::Error as _;

use cenote_base::{Error, ErrorKind};

/// The [`Error`] for one of Lance's. Takes it by value so that it fits `map_err`.
pub fn lance_error(source: lance::Error) -> Error {
    use lance::Error as Lance;
    let kind = match &source {
        Lance::InvalidInput { .. } | Lance::SchemaMismatch { .. } | Lance::Schema { .. } => ErrorKind::InvalidInput,
        Lance::DatasetAlreadyExists { .. } => ErrorKind::AlreadyExists,
        Lance::DatasetNotFound { .. } | Lance::NotFound { .. } | Lance::IndexNotFound { .. } => ErrorKind::NotFound,
        Lance::RefNotFound { .. } | Lance::VersionNotFound { .. } => ErrorKind::NotFound,
        Lance::CorruptFile { .. } => ErrorKind::Corrupt,
        Lance::NotSupported { .. } => ErrorKind::Unsupported,
        Lance::CommitConflict { .. } | Lance::RetryableCommitConflict { .. } | Lance::TooMuchWriteContention { .. } => {
            ErrorKind::Conflict
        }
        Lance::Timeout { .. } => ErrorKind::Unavailable,
        Lance::IO { .. } if is_full_disk(&source) => ErrorKind::ResourceExhausted,
        Lance::IO { .. } => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    // Lance ends its messages with the source position that raised them, which helps nobody who uses a table.
    let text = source.to_string();
    let message = match text.rfind(", ").map(|at| text.split_at(at)) {
        Some((message, position)) if position.contains(".rs:") => message,
        _ => &text,
    };
    let message = match kind {
        ErrorKind::ResourceExhausted => "the disk is full: make room and try again; what was acknowledged is safe",
        _ => message,
    };
    Error::new(kind, message.to_owned()).with_source(source)
}

/// The [`Error`] for one of Arrow's.
pub fn arrow_error(source: arrow::error::ArrowError) -> Error {
    use arrow::error::ArrowError as Arrow;
    let kind = match &source {
        Arrow::SchemaError(_) | Arrow::CastError(_) | Arrow::ParseError(_) | Arrow::InvalidArgumentError(_) => {
            ErrorKind::InvalidInput
        }
        Arrow::MemoryError(_) => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, source.to_string()).with_source(source)
}

fn is_full_disk(error: &lance::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        }
        source = cause.source();
    }
    false
}
