//! A single-process scheduler in the style of Ray: tasks, actors and objects on threads, devices and child processes,
//! beside tokio.
//!
//! A task is a function, and an actor is state that functions run on. Both declare the resources that they hold: CPU,
//! memory, a share of a device, named units. Their inputs and outputs are objects, rows or bytes, which references name
//! (Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018). Nothing here runs on the
//! threads of the async executor.
//!
//! - [`Scheduler::submit`] runs a task once its inputs are there; [`Scheduler::run`] is the short form for one result.
//! - Calls of an [`Actor`] run on states that are built when calls need them, and that hold resources between calls.
//! - A [`ChildProcess`] runs code that may crash, hang or use too much memory; [`sift()`] finds the rows that make it
//!   fail.
//! - [`Placed`] work goes to the CPU or to an [`Accelerator`], whichever is expected to end first.
//! - [`Job`]s share equally within a priority. Memory is one budget: objects that do not fit are evicted to disk, and
//!   are made again if they are lost there.
//! - [`Scheduler::status`] reports what waits for what, and a stall is logged.
//!
//! This crate knows nothing of tables, operators or media, and nothing of other machines.
//!
//! ```
//! # async fn example() -> cenote_base::Result<()> {
//! use std::time::Duration;
//!
//! use cenote_scheduler::{Scheduler, SchedulerOptions, Value, WorkOptions};
//!
//! let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 2.0, ..SchedulerOptions::default() })?;
//! let hello = scheduler.put(b"hello".to_vec()).await?;
//! let shout = |_: &_, inputs: &[Value]| Ok(Value::from(inputs[0].bytes()?.to_ascii_uppercase()));
//! let loud = scheduler.submit(&WorkOptions::new("shout"), &[hello], shout)?;
//! assert_eq!(scheduler.get(&loud).await?.bytes()?, b"HELLO");
//!
//! let build = || Ok(Vec::with_capacity(1024));
//! let decoder = scheduler.actor(WorkOptions::new("decode"), 2, Duration::from_secs(30), build)?;
//! let decode = |scratch: &mut Vec<u8>, _: &_| { scratch.clear(); Ok(scratch.capacity()) };
//! assert!(decoder.call(decode).await? >= 1024);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod accelerator;
mod byte_queue;
mod cancel;
mod children;
mod core;
mod driver;
mod front;
mod objects;
#[cfg(test)]
mod simulation;
mod state;

pub use crate::core::status::{Activity, DeviceMemory, SchedulerStatus, Usage, Waiting};
pub use accelerator::{Accelerator, DeviceOptions, KernelSet, OpenDevice};
pub use byte_queue::{Received, Receiver, Sender, byte_queue};
pub use cancel::Cancel;
pub use children::process::{ChildProcess, ProcessOptions};
pub use children::serve::serve_calls;
pub use children::sift::{BadRow, Sifted, SiftedOutput, sift};
pub use front::actor::Actor;
pub use front::hold::Hold;
pub use front::job::{Job, JobOptions};
pub use front::options::{SchedulerOptions, WorkOptions};
pub use front::placement::{Placed, PlacedOptions, PlacementChoice};
pub use front::reference::{ObjectRef, PinnedValue};
pub use front::scheduler::Scheduler;
pub use objects::value::Value;
pub use state::counters::Counters;
pub use state::fair::Priority;
pub use state::task_spec::TaskContext;
