//! The promises of indexes, checked against brute force and plain models while rows are written, changed and deleted.
//! One binary, because each would link all of Lance.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod building;
mod cutting;
mod kinds;
mod model;
mod proportional;
mod recreated;
mod regressions;
mod resident;
mod search;

use std::sync::LazyLock;

use cenote_index::Indexes;

/// The indexes of all tests but those of caches.
static INDEXES: LazyLock<Indexes> = LazyLock::new(Indexes::default);
