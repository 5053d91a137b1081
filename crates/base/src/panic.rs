//! The messages of panics.

use std::any::Any;

/// Returns the message of a caught panic.
///
/// ```
/// use cenote_base::panic_message;
///
/// let panic = std::panic::catch_unwind(|| -> () { panic!("row {}", 7) }).unwrap_err();
/// assert_eq!(panic_message(panic.as_ref()), "row 7");
/// ```
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
