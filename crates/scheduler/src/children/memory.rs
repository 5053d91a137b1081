//! The memory of a process and of those that it started.

use std::fs;

/// Returns the resident memory of process `pid`; `None` when it is gone.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    kib_field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Returns the memory of process `pid` and of its descendants, where that is more than `bytes_max` without pages that
/// several of them share; otherwise such pages may count several times.
pub(super) fn tree_bytes(pid: u32, bytes_max: u64) -> u64 {
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        tree.extend(started_by(pid));
        next += 1;
    }
    let resident: u64 = tree.iter().filter_map(|pid| resident_bytes(*pid)).sum();
    if tree.len() == 1 || resident <= bytes_max {
        return resident;
    }
    // A forked process shares most pages with its parent. What each has of them is known, but takes long to find out.
    let share = |pid: &u32| kib_field(&format!("/proc/{pid}/smaps_rollup"), "Pss:").or_else(|| resident_bytes(*pid));
    tree.iter().filter_map(share).sum()
}

/// Returns the processes that the threads of process `pid` started and that have not ended.
fn started_by(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let started = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    started.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Returns the bytes of the line `field` of a file of the kernel, which gives them in KiB.
fn kib_field(path: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
