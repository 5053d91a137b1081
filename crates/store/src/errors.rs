//! Conversions of Lance's and Arrow's errors.

use std::io::ErrorKind as Io;

use cenote_base::{Error, ErrorKind};

/// Converts an error of Lance. Takes it by value so that it fits `map_err`.
pub fn lance_error(source: lance::Error) -> Error {
    use lance::Error as Lance;
    // An error of ours from below Lance says it better.
    if let Some(ours) = causes(&source).find_map(|cause| cause.downcast_ref::<Error>()) {
        return ours.clone();
    }
    let io = causes(&source).find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let is_full = is_full_disk(&source);
    let is_closed = io.is_some_and(|io| matches!(io.kind(), Io::ReadOnlyFilesystem | Io::PermissionDenied));
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
        Lance::IO { .. } if is_full => ErrorKind::ResourceExhausted,
        Lance::IO { .. } => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    // Lance ends its messages with the source position that raised them, which does not help users of a table.
    let text = source.to_string();
    let message = match text.rfind(", ").map(|at| text.split_at(at)) {
        Some((message, position)) if position.contains(".rs:") => message,
        _ => &text,
    };
    let message = match kind {
        ErrorKind::ResourceExhausted => {
            "the disk is full: make room and try again; what was acknowledged is safe".to_owned()
        }
        _ if is_closed => {
            format!("a file of the table cannot be opened or created: allow it and try again; {message}")
        }
        _ => message.to_owned(),
    };
    Error::new(kind, message).with_source(source)
}

/// Returns whether `error` was caused by a full disk.
pub(crate) fn is_full_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), Io::StorageFull | Io::QuotaExceeded))
}

/// Converts an error of Arrow.
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

/// Returns the causes of `error`, nearest first.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}
