//! The types that every Cenote crate shares: the error, the clock, seeded randomness, locks, resource requests, byte
//! sizes, packing of rows into bounded pieces, messages of panics, and suggestions for unknown names.
//!
//! This crate does no I/O and knows nothing of tables, operators, media or protocols.
//!
//! ```
//! use cenote_base::{Error, ErrorKind};
//!
//! fn parse_port(text: &str) -> cenote_base::Result<u16> {
//!     text.parse().map_err(|source| {
//!         Error::invalid_input(format!("port `{text}` is not a number from 0 to 65535")).with_source(source)
//!     })
//! }
//!
//! assert_eq!(parse_port("http").unwrap_err().kind(), ErrorKind::InvalidInput);
//! ```

mod byte_size;
mod clock;
mod error;
mod memory;
mod names;
mod pack;
mod panic;
mod progress;
mod random;
mod resources;
pub mod sync;

pub use byte_size::ByteSize;
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{Context, Error, ErrorKind, Result, both};
pub use memory::memory_available_bytes;
pub use names::{closest, did_you_mean, unknown};
pub use pack::pack;
pub use panic::panic_message;
pub use progress::{Progress, Silent};
pub use random::Random;
pub use resources::{DeviceShare, Resources, Share};
