//! How much text one column of one batch can hold.

use cenote_base::{Error, Result};

/// Arrow's `Utf8` counts its bytes with 32 signed bits.
const COLUMN_BYTES_MAX: usize = i32::MAX as usize;

/// Refuses a column of `bytes` bytes of text when Arrow could not hold it.
///
/// # Errors
/// `ResourceExhausted`: use smaller batches.
pub(crate) fn check_column_bytes(bytes: usize) -> Result<()> {
    if bytes <= COLUMN_BYTES_MAX {
        return Ok(());
    }
    Err(Error::resource_exhausted(format!(
        "a batch would hold more than {COLUMN_BYTES_MAX} bytes of text; use fewer rows"
    )))
}
