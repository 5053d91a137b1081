//! What indexes promise, against brute force and plain models, while rows come, change and go. One binary, because each
//! would be linked with all of Lance.
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

/// What tests search by, unless what is kept between searches is their subject.
static INDEXES: LazyLock<Indexes> = LazyLock::new(Indexes::default);
