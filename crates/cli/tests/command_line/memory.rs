//! The memory of a run and of a query, as the system counts it.
#![cfg(target_os = "linux")]

use std::process::{Child, Stdio};
use std::time::Duration;

use super::{TestLake, jpeg};

/// Memory on top of the budget: the program's code, its threads, and free memory that the allocator keeps. Unoptimised
/// code alone takes 170 MiB.
const BESIDE_BUDGET: u64 = if cfg!(debug_assertions) { 336 << 20 } else { 256 << 20 };

/// Samples the memory of `child` every few milliseconds until it ends, and returns the most bytes it held.
fn peak(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        peak = kib.map_or(peak, |kib| kib << 10);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    peak
}

#[test]
fn a_run_and_a_query_keep_to_their_budget_whatever_they_make() {
    const PICTURES: u32 = 300;
    const SIDE: u32 = 768;
    let lake = TestLake::new();
    for number in 0..PICTURES {
        lake.write(&format!("pictures/{number}.jpg"), jpeg(600 + number, 800));
    }
    lake.ok(&["ingest", "pictures", "pictures"]);
    let step =
        format!("operator: resize_image, input: data, output: frame, params: {{ width: {SIDE}, height: {SIDE} }}");
    lake.write("recipe.yaml", format!("name: frames\nsteps:\n  - {{ table: pictures, {step} }}\n"));
    let mut command = lake.command(&["--memory", "256MiB", "run", "recipe.yaml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let peak = peak(&mut child);
    assert!(child.wait().unwrap().success());
    // All frames together are 506 MiB.
    let limit = (256 << 20) + BESIDE_BUDGET;
    assert!(peak <= limit, "{} MiB", peak >> 20);
    for filter in ["", "WHERE size > 0", "WHERE abs(size) > 0"] {
        let made = lake.json(&format!("SELECT count(frame) AS frames FROM pictures {filter}"));
        assert_eq!(made[0]["frames"], PICTURES);
        let count = format!("SELECT count(frame) FROM pictures {filter}");
        let mut command = lake.command(&["--memory", "256MiB", "sql", &count]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let peak = self::peak(&mut child);
        assert!(child.wait().unwrap().success());
        assert!(peak <= limit, "{} MiB by {filter}", peak >> 20);
    }
}
