//! The promises of the store, checked against plain models, other programs, faults and the death of the process. One
//! binary, because each would have to be linked with all of Lance.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod columns;
mod concurrency;
mod damage;
#[cfg(target_os = "linux")]
mod disks;
mod faults;
mod feed;
mod fixtures;
#[cfg(target_os = "linux")]
mod freshness;
mod identity;
mod joins;
#[cfg(target_os = "linux")]
mod kill;
mod long_work;
mod media;
mod model;
#[cfg(target_os = "linux")]
mod power;
mod predicate;
mod readers;
mod s3;
mod staging;
mod stock;
mod support;
mod table;
mod updates;
mod upkeep;
mod widths;
