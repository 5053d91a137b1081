//! The amount of memory that this process may use.

/// Returns the bytes of memory that this process may use: the smaller of the container's limit and the machine's
/// memory, from the texts of cgroup v2's `memory.max` and of `/proc/meminfo`. `None` when neither names a number.
pub fn memory_available_bytes(cgroup_max: Option<&str>, meminfo: Option<&str>) -> Option<u64> {
    let cgroup = cgroup_max.and_then(|text| text.trim().parse::<u64>().ok());
    let total = meminfo.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    });
    match (cgroup, total) {
        (Some(limit), Some(total)) => Some(limit.min(total)),
        (limit, total) => limit.or(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_memory_limit_wins() {
        let meminfo = "MemTotal:       1024 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_available_bytes(Some("max\n"), Some(meminfo)), Some(1 << 20));
        assert_eq!(memory_available_bytes(Some("4096\n"), Some(meminfo)), Some(4096));
        assert_eq!(memory_available_bytes(None, None), None);
    }
}
