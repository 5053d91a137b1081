//! Faults of the engine itself: an Arrow kernel that refuses what the engine built is a bug, not a bad row.

use arrow::error::ArrowError;
use cenote_base::Error;

/// Returns a function that wraps Arrow's error as `Internal`, with `doing` (a bare verb phrase) as its message.
pub(crate) fn internal(doing: &'static str) -> impl Fn(ArrowError) -> Error {
    move |source| Error::internal(doing).with_source(source)
}
