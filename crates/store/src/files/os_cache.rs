//! File operations of the operating system beyond plain reads.

use std::fs::File;
use std::io;

/// Fills `bytes` from an offset of a file if the operating system has all of them in memory. Returns false if it would
/// have to wait.
#[cfg(target_os = "linux")]
pub(crate) fn read_cached(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    use rustix::io::{ReadWriteFlags, preadv2};
    // A file system that does not support the flag returns an error; the caller then reads and waits.
    let wanted = bytes.len();
    Ok(preadv2(file, &mut [io::IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == wanted))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn read_cached(_: &File, _: &mut [u8], _: u64) -> io::Result<bool> {
    Ok(false)
}

/// Announces that these bytes will be read. A system that ignores this reads them on demand.
#[cfg(target_os = "linux")]
pub(crate) fn announce(file: &File, at: u64, bytes: u64) {
    let length = std::num::NonZeroU64::new(bytes);
    let _ = rustix::fs::fadvise(file, at, length, rustix::fs::Advice::WillNeed);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn announce(_: &File, _: u64, _: u64) {}
