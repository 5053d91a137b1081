//! A pass: one reading of a table's rows, the steps of a group over them, and the commits of what they made.
//!
//! A pass does not know recipes, nor which rows are stale and why: it is handed a group of planned steps and the rows
//! that each of them must process.

mod children;
pub(crate) mod derive;
pub(crate) mod expand;
mod intake;
mod read;
mod room;
pub(crate) mod stage;
mod worker;
