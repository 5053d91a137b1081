//! Child processes, for code that may crash, hang or use too much memory, and the search for the rows that make it
//! fail.
//!
//! This part does not know the scheduler. Calls block the thread that makes them.

mod frame;
mod memory;
mod os;
pub(crate) mod process;
pub(crate) mod serve;
pub(crate) mod sift;
