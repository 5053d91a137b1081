//! Placed work goes where it ends first, also after that has changed.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use cenote_base::sync::Mutex;
use cenote_base::{Random, Share};
use tokio::time::Instant;

use super::{SimulatedThreads, for_seeds, settle};
use crate::accelerator::{DeviceOptions, KernelSet};
use crate::{Placed, PlacedOptions, PlacementChoice, SchedulerOptions, WorkOptions};

const CORES: u32 = 4;
const ROWS: usize = 10;

/// The run time of a batch on each side, and the number of batches that came there.
#[derive(Debug, Default, Clone, Copy)]
struct Sides {
    takes: [Duration; 2],
    came: [u32; 2],
    last: usize,
}

struct Fixture {
    threads: SimulatedThreads,
    sides: Arc<Mutex<Sides>>,
    placed: Placed,
    random: Random,
}

fn rows() -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1; ROWS]));
    RecordBatch::try_from_iter([("number", column)]).unwrap()
}

impl Fixture {
    fn new(seed: u64, choice: PlacementChoice, takes_ms: [u64; 2]) -> Self {
        let takes = takes_ms.map(Duration::from_millis);
        let sides = Arc::new(Mutex::new(Sides { takes, ..Sides::default() }));
        let come = |side: usize| {
            let sides = Arc::clone(&sides);
            move |rows: &RecordBatch| {
                let mut sides = sides.lock();
                sides.came[side] += 1;
                sides.last = side;
                Ok(rows.clone())
            }
        };
        let on_device = come(1);
        let open = move || Ok(Box::new(KernelSet::default().with_kernel("copy", on_device.clone())) as _);
        let device = DeviceOptions { class: "fpga".to_owned(), memory_bytes: 100, open: Arc::new(open) };
        let options =
            SchedulerOptions { cpu_cores: CORES as f32, devices: vec![device], ..SchedulerOptions::default() };
        let threads = SimulatedThreads::new(options);
        let options = PlacedOptions {
            work: WorkOptions::new("copy"),
            class: "fpga".to_owned(),
            share: Share::Fraction(1.0),
            kernel: "copy".to_owned(),
            choice,
        };
        let placed = threads.scheduler.placed(options, come(0)).unwrap();
        Self { threads, sides, placed, random: Random::new(seed) }
    }

    /// Runs `count` batches, `at_once` of them at any time. Returns how many came to each side, and the time it took.
    async fn run(&mut self, count: usize, at_once: usize) -> ([u32; 2], Duration) {
        let (before, began) = (self.sides.lock().came, Instant::now());
        let mut runs: Vec<tokio::task::JoinHandle<_>> = Vec::new();
        let mut started = 0;
        loop {
            runs.retain(|run| !run.is_finished());
            while runs.len() < at_once && started < count {
                let (placed, scheduler) = (self.placed.clone(), self.threads.scheduler.clone());
                runs.push(tokio::spawn(async move {
                    let batch = scheduler.put(rows()).await.unwrap();
                    placed.run(&batch, ROWS).await.unwrap()
                }));
                started += 1;
            }
            settle().await;
            let sides = Arc::clone(&self.sides);
            let lasts = move |_: &mut Random| {
                let sides = sides.lock();
                sides.takes[sides.last]
            };
            let moved = self.threads.begin(&mut self.random, lasts).await || self.threads.advance().await;
            if !moved && started == count {
                break;
            }
        }
        let after = self.sides.lock().came;
        ([after[0] - before[0], after[1] - before[1]], began.elapsed())
    }
}

#[test]
fn one_batch_at_a_time_goes_to_the_faster_side_and_follows_when_that_changes() {
    for_seeds(10, 100, |seed| async move {
        let mut fixture = Fixture::new(seed, PlacementChoice::Auto, [40, 10]);
        let (came, _) = fixture.run(200, 1).await;
        assert!(came[0] <= 6 && came[0] >= 3, "{came:?}: one to measure, and one in fifty to look again");
        fixture.sides.lock().takes = [5, 10].map(Duration::from_millis);
        // The change is noticed when the CPU is tried again.
        fixture.run(51, 1).await;
        let (came, _) = fixture.run(200, 1).await;
        assert!(came[1] <= 6, "{came:?}");
    });
}

#[test]
fn many_batches_use_both_sides_and_end_together() {
    for_seeds(10, 100, |seed| async move {
        for takes_ms in [[40, 10], [30, 30], [20, 60], [100, 5]] {
            let mut fixture = Fixture::new(seed, PlacementChoice::Auto, takes_ms);
            fixture.run(20, 2).await;
            let (came, took) = fixture.run(400, 400).await;
            let rate = f64::from(CORES) / takes_ms[0] as f64 + 1.0 / takes_ms[1] as f64;
            let ideal_ms = 400.0 / rate;
            let bound_ms = ideal_ms * 1.1 + takes_ms[0].max(takes_ms[1]) as f64;
            assert!(took.as_millis() as f64 <= bound_ms, "{took:?} for {came:?} at {takes_ms:?}, ideal {ideal_ms} ms");
        }
    });
}

#[test]
fn an_order_beats_the_measurements() {
    for_seeds(1, 1, |seed| async move {
        for (choice, expected) in [(PlacementChoice::Cpu, [30, 0]), (PlacementChoice::Device, [0, 30])] {
            let mut fixture = Fixture::new(seed, choice, [40, 40]);
            assert_eq!(fixture.run(30, 3).await.0, expected);
        }
    });
}
