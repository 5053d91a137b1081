//! Ray's model in one process: tasks, actors and objects on threads, devices and child processes, beside tokio.
//!
//! A task is a function, an actor is state that a function runs on, and both say what they hold meanwhile: CPU, memory,
//! a share of a device, named units. What they take and make are objects, rows or bytes, named by references (Moritz et
//! al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018). Nothing here runs on the async
//! executor's threads.
//!
//! - [`Scheduler::submit`] runs a task once its inputs are there; [`Scheduler::run`] is the short form for one result.
//! - Calls of an [`Actor`] run on states, as many as the calls need, which hold what they hold between the calls too.
//! - A [`ChildProcess`] is for code that may crash, hang or eat memory; [`sift()`] finds the rows it does so on.
//! - [`Placed`] work goes to the CPU or to an [`Accelerator`], whichever ends first.
//! - [`Job`]s share equally within a priority. Memory is one budget: objects that do not fit go to disk and come back, and are made
//!   again when they are lost there.
//! - [`Scheduler::status`] says what waits for what, and a stall is reported in the log by itself.
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
//! let decoder = scheduler.actor(WorkOptions::new("decode"), 2, Duration::from_secs(30), || Ok(Vec::with_capacity(1024)))?;
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
mod front;
mod kernel;
mod objects;
#[cfg(test)]
mod simulation;
mod state;

pub use accelerator::{Accelerator, DeviceOptions, KernelSet, OpenDevice};
pub use byte_queue::{Held, Receiver, Sender, byte_queue};
pub use cancel::Cancel;
pub use children::process::{ChildProcess, ProcessOptions};
pub use children::serve::serve_calls;
pub use children::sift::{BadRow, Sifted, sift};
pub use crate::core::status::{Activity, Status, Usage, Waiting};
pub use front::actor::Actor;
pub use front::hold::Hold;
pub use front::options::{Job, JobOptions, SchedulerOptions, WorkOptions};
pub use front::placement::{Choice, Placed, PlacedOptions};
pub use front::reference::{ObjectRef, Pinned};
pub use front::scheduler::Scheduler;
pub use objects::value::Value;
pub use state::counters::Counters;
pub use state::fair::Priority;
pub use state::task::Context;
