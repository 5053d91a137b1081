//! A job over ten times the memory budget, in a process of its own, whose peak the kernel measures.
//!
//! The C library's allocator keeps freed blocks up to a threshold that it raises to 32 MiB by itself, and then holds
//! several times what is used. A process that promises a peak fixes the threshold, as this one does.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use cenote_base::{ByteSize, Resources};
use cenote_scheduler::{Scheduler, SchedulerOptions, Value, WorkOptions};

const BUDGET: u64 = 32 << 20;
const ROWS: i64 = 1 << 18;
const BATCH: u64 = ROWS as u64 * 8;
const BATCHES: i64 = (10 * BUDGET / BATCH) as i64;

fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

fn batch(number: i64) -> Value {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row * number)));
    Value::Batch(RecordBatch::try_from_iter([("number", column)]).unwrap())
}

fn sum(value: &Value) -> i64 {
    value.batch().unwrap().column(0).as_primitive::<Int64Type>().values().iter().sum()
}

#[test]
fn ten_times_the_budget_stays_within_the_budget() {
    let job = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["the_job", "--exact", "--ignored", "--nocapture"])
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&job.stdout) + String::from_utf8_lossy(&job.stderr);
    assert!(job.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "the other test runs it, with the allocator set up"]
async fn the_job() {
    let spill = tempfile::tempdir().unwrap();
    let options = SchedulerOptions {
        cpu_cores: 2.0,
        memory_max: ByteSize(BUDGET),
        spill_directory: spill.path().to_owned(),
        ..SchedulerOptions::default()
    };
    let scheduler = Scheduler::new(options).unwrap();
    let before = status_bytes("VmRSS:");
    // All batches are made and kept, then all are read and doubled, then summed up.
    let make = WorkOptions::new("make").resources(Resources::cpu(1.0).with_memory_bytes(BATCH));
    let made: Vec<_> =
        (0..BATCHES).map(|number| scheduler.submit(&make, &[], move |_, _| Ok(batch(number))).unwrap()).collect();
    let double = |_: &cenote_scheduler::TaskContext, inputs: &[Value]| {
        let numbers = inputs[0].batch()?.column(0).as_primitive::<Int64Type>();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.values().iter().map(|number| number * 2)));
        Ok(Value::Batch(RecordBatch::try_from_iter([("number", column)]).unwrap()))
    };
    let doubled: Vec<_> =
        made.iter().map(|object| scheduler.submit(&make, std::slice::from_ref(object), double).unwrap()).collect();
    let mut total = 0;
    for object in &doubled {
        total += sum(&scheduler.get(object).await.unwrap());
    }
    assert_eq!(total, ROWS * (ROWS - 1) / 2 * (BATCHES * (BATCHES - 1) / 2) * 2);
    let status = scheduler.status();
    assert!(status.spilled_bytes > 18 * BUDGET, "{status}");
    let peak = status_bytes("VmHWM:") - before;
    // Beyond the budget: one batch on its way to disk for each thread, and the overhead of code, threads and allocator.
    let bound = BUDGET + 2 * BATCH + (12 << 20);
    assert!(peak <= bound, "the peak was {} over the start, the bound is {}", ByteSize(peak), ByteSize(bound));
}
