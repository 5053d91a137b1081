//! Ray's model in one process: tasks, actors and objects on threads, devices and child processes, beside tokio.
//!
//! A task is a function, an actor is state that a function runs on, and both say what they hold meanwhile: CPU, memory, a share of a
//! device, named units. What they take and make are objects, rows or bytes, named by references (Moritz et al., "Ray: A
//! Distributed Framework for Emerging AI Applications", OSDI 2018). Nothing here runs on the async executor's threads.
//!
//! - [`Scheduler::submit`] runs a task once its inputs are there; [`Scheduler::run`] is the short form for one result.
//!   [`Scheduler::stream`] runs an iterator step by step, never far ahead of its reader.
//! - [`Actor`] calls run on states, as many as the calls need; a [`Batcher`] makes few large calls of many small ones.
//! - [`Processes`], and a [`ChildProcess`] alone, are for code that may crash, hang or eat memory; [`sift()`] finds the rows it does so on.
//! - [`Placed`] work goes to the CPU or to an [`Accelerator`], whichever ends first.
//! - [`Job`]s share by weight and priority. Memory is one budget: objects that do not fit go to disk and come back, and are made
//!   again when they are lost there.
//! - [`Scheduler::status`] says what waits for what, and a stall is reported in the log by itself.
//!
//! This crate knows nothing of tables, operators or media, and nothing of other machines.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use cenote_scheduler::{Scheduler, SchedulerOptions, Value, WorkOptions};
//!
//! let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 2.0, ..SchedulerOptions::default() })?;
//! let hello = scheduler.put(b"hello".to_vec()).await?;
//! let shout = |_: &_, inputs: &[Value]| Ok(Value::from(inputs[0].bytes()?.to_ascii_uppercase()));
//! let loud = scheduler.submit(&WorkOptions::new("shout"), &[hello], shout)?;
//! assert_eq!(scheduler.get(&loud).await?.bytes()?, b"HELLO");
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
mod ending;
mod exchange;
mod fair;
mod frame;
mod kernel;
mod ledger;
mod lineage;
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

pub use accelerator::{Accelerator, DeviceOptions, KernelSet, OpenDevice};
pub use actor::{Actor, Replicas};
pub use batcher::{BatchOptions, Batcher};
pub use cancel::Cancel;
pub use child::serve_calls;
pub use fair::Priority;
pub use metrics::Counters;
pub use object::Value;
pub use options::{Job, JobOptions, SchedulerOptions, WorkOptions};
pub use placement::{Choice, Placed, PlacedOptions};
pub use process::{ChildProcess, ProcessOptions, Processes};
pub use queue::{Held, Receiver, Sender, byte_queue};
pub use reference::{ObjectRef, Pinned};
pub use scheduler::Scheduler;
pub use sift::{BadRow, Sifted, sift};
pub use status::{Activity, Status, Usage, Waiting};
pub use stream::ObjectStream;
pub use task::Context;
