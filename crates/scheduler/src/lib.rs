//! Runs CPU work beside tokio: tasks and stateful actors with resource requests, on threads of their own, with retries,
//! cancellation and byte-bounded queues.
//!
//! The model is Ray's (Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018): a task is a
//! function, an actor is state that a function runs on, and both say what resources they hold. Nothing here runs on the
//! async executor's threads, and nothing here knows tables, operators or media.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use cenote_scheduler::{Scheduler, SchedulerOptions, WorkOptions};
//!
//! let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 2.0, ..SchedulerOptions::default() })?;
//! let sum: u64 = scheduler.run(&WorkOptions::new("sum"), |_context| Ok((1..=100).sum())).await?;
//! assert_eq!(sum, 5050);
//!
//! let counter = scheduler.actor(WorkOptions::new("counter"), || Ok(0u64)).await?;
//! counter.call(|count, _context| { *count += 1; Ok(()) }).await?;
//! assert_eq!(counter.call(|count, _context| Ok(*count)).await?, 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod accelerator;
mod actor;
mod actors;
mod arena;
mod batcher;
mod cancel;
mod child;
mod core;
mod fair;
mod frame;
mod kernel;
mod ledger;
mod metrics;
mod object;
mod objects;
mod options;
mod placement;
mod process;
mod queue;
mod reference;
mod scheduler;
mod sift;
#[cfg(test)]
mod simulation;
mod spill;
mod status;
mod stream;
mod task;
mod timers;
mod trace;

pub use accelerator::{Accelerator, DeviceOptions, OpenDevice, SoftwareDevice};
pub use actor::{Actor, Replicas};
pub use batcher::{BatchOptions, Batcher};
pub use cancel::Cancel;
pub use child::serve_calls;
pub use fair::Priority;
pub use metrics::Counters;
pub use object::Value;
pub use options::{Job, JobOptions, SchedulerOptions, WorkOptions};
pub use placement::{Choice, Placed, PlacedOptions};
pub use process::{ProcessOptions, Processes};
pub use queue::{Held, Receiver, Sender, byte_queue};
pub use reference::{ObjectRef, Pinned};
pub use scheduler::Scheduler;
pub use sift::{BadRow, Sifted, sift};
pub use status::{Activity, Status, Usage, Waiting};
pub use stream::ObjectStream;
pub use task::Context;
