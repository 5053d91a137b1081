//! The types that callers hold: the scheduler, jobs, references, actors, holds and placed work.
//!
//! This part submits, waits and delivers. It does not know in which order tasks run, or who holds which resources: that
//! is up to the core.

pub(crate) mod actor;
mod exchange;
pub(crate) mod hold;
pub(crate) mod job;
pub(crate) mod options;
pub(crate) mod placement;
pub(crate) mod reference;
mod reply;
pub(crate) mod scheduler;
