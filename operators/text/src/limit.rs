//! The limit on the text that one column of one batch can hold.

use cenote_base::{Error, Result};

/// Bytes of text in a column, at most: Arrow's `Utf8` counts them in signed 32-bit integers.
const COLUMN_BYTES_MAX: usize = i32::MAX as usize;

/// Refuses a column of `bytes` bytes of text that Arrow could not hold.
///
/// # Errors
/// `ResourceExhausted`, to be answered by smaller batches.
pub(crate) fn check_column_bytes(bytes: usize) -> Result<()> {
    if bytes <= COLUMN_BYTES_MAX {
        return Ok(());
    }
    Err(Error::resource_exhausted(format!(
        "a batch would hold more than {COLUMN_BYTES_MAX} bytes of text; use fewer rows"
    )))
}
