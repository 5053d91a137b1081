//! A table that is open in this process: where its parts are, and how its state follows the log.
//!
//! Knows how to take in what any process wrote. Must not know what is written, or when upkeep is due.

pub(crate) mod base_turn;
mod catch_up;
pub(crate) mod install;
pub(crate) mod location;
mod presence;
pub(crate) mod progress;
pub(crate) mod table_state;
pub(crate) mod writer;
