//! The share that each job gets, and the time that work waits.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Random, Resources};
use tokio::time::Instant;

use super::{SimulatedThreads, for_seeds};
use crate::state::fair::PASSED_OVER_MAX;
use crate::{JobOptions, Priority, SchedulerOptions, Value, WorkOptions};

const LASTS_MAX: Duration = Duration::from_millis(20);

/// Checks the bound of start-time fair queueing on m threads: while two jobs both have work, what they got differs by
/// less than m + 1 of the longest tasks of each (Goyal et al. 1997, for one server; each thread adds the task it runs).
#[test]
fn jobs_share_equally_however_much_they_hand_in() {
    for_seeds(100, 3000, |seed| async move {
        let mut random = Random::new(seed);
        let cores = 1 + random.below(4);
        let options = SchedulerOptions { cpu_cores: cores as f32, ..SchedulerOptions::default() };
        let mut threads = SimulatedThreads::new(options);
        let had: Arc<Mutex<[u64; 3]>> = Arc::default();
        let mut objects = Vec::new();
        for number in 0..3 {
            let job = threads.scheduler.job(JobOptions::new("job"));
            for _ in 0..(200 << random.below(3)) {
                let had = Arc::clone(&had);
                let work = move |_: &crate::TaskContext, _: &[Value]| {
                    had.lock()[number] += 1;
                    Ok(Value::from(Vec::new()))
                };
                objects.push(threads.scheduler.submit(&WorkOptions::new("task").job(&job), &[], work).unwrap());
            }
        }
        // Every task takes the same time, so counts are service.
        while had.lock().iter().all(|count| *count < 200) {
            if !threads.begin(&mut random, |_| LASTS_MAX).await {
                assert!(threads.advance().await);
            }
            let had = *had.lock();
            for (a, b) in [(0, 1), (1, 2), (0, 2)] {
                assert!(had[a].abs_diff(had[b]) <= 2 * (cores + 1), "{had:?} on {cores} cores");
            }
        }
    });
}

#[test]
fn work_that_is_waited_for_goes_before_a_backfill() {
    for_seeds(20, 200, |seed| async move {
        let mut random = Random::new(seed);
        let mut threads = SimulatedThreads::new(SchedulerOptions { cpu_cores: 2.0, ..SchedulerOptions::default() });
        let order: Arc<Mutex<Vec<usize>>> = Arc::default();
        let mut objects = Vec::new();
        for (number, priority) in [Priority::Backfill, Priority::Interactive, Priority::Normal].into_iter().enumerate()
        {
            let job = threads.scheduler.job(JobOptions::new("job").priority(priority));
            for _ in 0..20 {
                let order = Arc::clone(&order);
                let work = move |_: &crate::TaskContext, _: &[Value]| {
                    order.lock().push(number);
                    Ok(Value::from(Vec::new()))
                };
                objects.push(threads.scheduler.submit(&WorkOptions::new("task").job(&job), &[], work).unwrap());
            }
        }
        while threads.begin(&mut random, |_| LASTS_MAX).await || threads.advance().await {}
        let expected: Vec<usize> = [1, 2, 0].into_iter().flat_map(|number| [number; 20]).collect();
        assert_eq!(*order.lock(), expected);
    });
}

/// Submits a request for the whole machine among small ones that keep coming.
#[test]
fn a_large_request_is_passed_over_a_bounded_number_of_times() {
    for_seeds(50, 500, |seed| async move {
        let mut random = Random::new(seed);
        let mut threads = SimulatedThreads::new(SchedulerOptions { cpu_cores: 4.0, ..SchedulerOptions::default() });
        let scheduler = threads.scheduler.clone();
        let small = || scheduler.submit(&WorkOptions::new("small"), &[], |_, _| Ok(Value::from(Vec::new()))).unwrap();
        let mut objects: Vec<_> = (0..8).map(|_| small()).collect();
        let lasts = |random: &mut Random| LASTS_MAX.mul_f64(0.1 + 0.9 * random.unit());
        while threads.begin(&mut random, lasts).await {}
        let began: Arc<Mutex<Option<Instant>>> = Arc::default();
        let noted = Arc::clone(&began);
        let large = WorkOptions::new("large").resources(Resources::cpu(4.0));
        objects.push(
            scheduler
                .submit(&large, &[], move |_, _| {
                    *noted.lock() = Some(Instant::now());
                    Ok(Value::from(Vec::new()))
                })
                .unwrap(),
        );
        let mut passed = 0;
        while began.lock().is_none() {
            objects.push(small());
            if threads.begin(&mut random, lasts).await {
                passed += 1;
            } else {
                assert!(threads.advance().await);
            }
            // Four of the small ones were older.
            assert!(passed <= PASSED_OVER_MAX + 5, "{passed} went before");
        }
    });
}

/// Submits many kinds of work that do not fit, each with a queue of its own, before work that does.
#[test]
fn work_that_fits_is_found_behind_any_amount_that_does_not() {
    for_seeds(1, 1, |seed| async move {
        let mut random = Random::new(seed);
        let options = SchedulerOptions { cpu_cores: 2.0, memory_max: ByteSize(1000), ..SchedulerOptions::default() };
        let mut threads = SimulatedThreads::new(options);
        let scheduler = threads.scheduler.clone();
        let submit = |name: &str, memory: u64| {
            let options = WorkOptions::new(name).resources(Resources::cpu(1.0).with_memory_bytes(memory));
            scheduler.submit(&options, &[], |_, _| Ok(Value::from(Vec::new()))).unwrap()
        };
        let mut objects = vec![submit("holder", 600)];
        assert!(threads.begin(&mut random, |_| LASTS_MAX).await);
        objects.extend((0..300).map(|number| submit("large", 500 + number)));
        objects.push(submit("small", 10));
        assert!(threads.begin(&mut random, |_| LASTS_MAX).await, "{}", scheduler.status());
        assert!(scheduler.status().running.iter().any(|running| running.name == "small"));
        while threads.begin(&mut random, |_| LASTS_MAX).await || threads.advance().await {}
        assert_eq!(scheduler.status().live, 0);
    });
}
