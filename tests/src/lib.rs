//! The rules of the house that a program can check, read from the sources of the workspace; `tests/` applies them.
//!
//! [`imports`] finds import cycles between the files of a crate, [`prose`] finds comments that break the rules of
//! English, and [`workspace`] finds the crates and their files. Nothing here knows what the crates do.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! let sources = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "use super::a;")];
//! let sources = BTreeMap::from(sources.map(|(file, text)| (file.to_owned(), text.to_owned())));
//! let cycles = cenote_tests::imports::cycles(&sources, "lib.rs");
//! assert_eq!(cycles[0].len(), 2);
//! ```

// Only tests call it: what cannot be read fails them.
#![allow(clippy::unwrap_used, clippy::panic)]

pub mod imports;
pub mod prose;
pub mod workspace;
