//! What a system can do with files beyond reading them.

use std::fs::File;
use std::io;

/// Fills `bytes` from a place in a file, if the system has all of them in memory; false when it would have to wait.
#[cfg(target_os = "linux")]
pub(crate) fn read_cached(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    use rustix::io::{ReadWriteFlags, preadv2};
    // A file system that does not know the flag says so by an error: then whoever waits reads.
    let wanted = bytes.len();
    Ok(preadv2(file, &mut [io::IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == wanted))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn read_cached(_: &File, _: &mut [u8], _: u64) -> io::Result<bool> {
    Ok(false)
}

/// Tells the system that so many bytes will be read. One that does not listen reads them when they are waited for.
#[cfg(target_os = "linux")]
pub(crate) fn announce(file: &File, at: u64, bytes: u64) {
    let length = std::num::NonZeroU64::new(bytes);
    let _ = rustix::fs::fadvise(file, at, length, rustix::fs::Advice::WillNeed);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn announce(_: &File, _: u64, _: u64) {}
