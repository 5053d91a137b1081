//! A pass: one reading of a table's rows, the steps of a group over them, and the commits of what they made.
//!
//! A pass does not know recipes, nor how stale rows are found: it is handed a group of planned steps and the rows that
//! each of them must process.

mod children;
mod clear;
pub(crate) mod derive;
mod drive;
pub(crate) mod expand;
pub(crate) mod fusion;
mod intake;
mod output_row_bytes;
mod read;
pub(crate) mod room;
mod set_aside;
mod stage;
mod staged_piece;
mod worker;
