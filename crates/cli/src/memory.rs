//! The memory of this process, as the kernel counts it.

use cenote_runtime::ByteSize;

/// Returns the resident memory; `None` where the kernel does not tell.
pub fn resident() -> Option<ByteSize> {
    status("VmRSS:")
}

/// Returns the largest resident memory so far; `None` where the kernel does not tell.
pub fn peak() -> Option<ByteSize> {
    status("VmHWM:")
}

fn status(field: &str) -> Option<ByteSize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| ByteSize(kib << 10))
}
