//! The types that callers hold: the scheduler, jobs, references, actors, holds and placed work.
//!
//! This part waits and delivers; it decides nothing about order or resources, which is the core's task.

pub(crate) mod actor;
pub(crate) mod exchange;
pub(crate) mod hold;
pub(crate) mod options;
pub(crate) mod placement;
pub(crate) mod reference;
pub(crate) mod scheduler;
