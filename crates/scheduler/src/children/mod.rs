//! Child processes, for code that may crash, hang or use too much memory, and the search for the rows that make it do so.
//!
//! This part does not know the scheduler: callers block one of its threads, or any other.

mod frame;
pub(crate) mod process;
pub(crate) mod serve;
pub(crate) mod sift;
