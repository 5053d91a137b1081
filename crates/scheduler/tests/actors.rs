//! Actors with many states, calls in batches, and devices.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use cenote_base::{ByteSize, Error, ErrorKind, Resources, Share};
use cenote_scheduler::{
    BatchOptions, DeviceOptions, KernelSet, Replicas, Scheduler, SchedulerOptions, Value, WorkOptions,
};
use parking_lot::Mutex;

fn scheduler() -> Scheduler {
    Scheduler::new(SchedulerOptions { cpu_cores: 2.0, ..SchedulerOptions::default() }).unwrap()
}

fn batch(numbers: &[i64]) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    RecordBatch::try_from_iter([("number", column)]).unwrap()
}

fn numbers(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[tokio::test]
async fn an_actor_that_cannot_be_built_says_so_and_holds_nothing() {
    let scheduler = scheduler();
    let options = WorkOptions::new("model").resources(Resources::cpu(1.0).with_memory_bytes(1000));
    let built = scheduler.actor(options, || Err::<(), _>(Error::not_found("no such weights"))).await;
    assert_eq!(built.unwrap_err().message(), "no such weights");
    assert_eq!(scheduler.usage().used.memory_bytes, 0);
    let none = scheduler.replicated_actor(WorkOptions::new("none"), Replicas::up_to(0), || Ok(()));
    assert_eq!(none.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_plain_thread_can_call_and_an_async_one_is_told_not_to() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let actor = runtime.block_on(scheduler().actor(WorkOptions::new("counter"), || Ok(0))).unwrap();
    for number in 1..100 {
        let count = move |count: &mut i32, _: &cenote_scheduler::Context| {
            *count += 1;
            Ok(*count)
        };
        assert_eq!(actor.call_blocking(count).unwrap(), number);
    }
    let long = actor.call_blocking(|count, _| {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(5) {}
        Ok(*count)
    });
    assert_eq!(long.unwrap(), 99, "also after it has gone to sleep");
    let error = runtime.block_on(async { actor.call_blocking(|_, _| Ok(())) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn states_come_with_the_calls_up_to_the_limit_and_go_with_them() {
    let scheduler = scheduler();
    let options = WorkOptions::new("model").resources(Resources::cpu(1.0).with_memory_bytes(1000));
    let replicas = Replicas { catch_up: Duration::from_nanos(1), idle: Duration::from_millis(1), ..Replicas::up_to(2) };
    let builds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&builds);
    let actor = scheduler
        .replicated_actor(options, replicas, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
    assert_eq!((scheduler.status().replicas, scheduler.usage().used.memory_bytes), (0, 0), "none without calls");
    let (most, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (most, at_once) = (Arc::clone(&most), Arc::clone(&at_once));
            actor.submit(&[], move |(), _, _| {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..100 {
                    std::thread::yield_now();
                }
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok(Value::from(Vec::new()))
            })
        })
        .map(Result::unwrap)
        .collect();
    for call in &calls {
        scheduler.get(call).await.unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 2);
    assert_eq!(builds.load(Ordering::SeqCst), 2);
    while scheduler.status().replicas > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(scheduler.usage().used.memory_bytes, 0);
    actor.call(|(), _| Ok(())).await.unwrap();
    drop(actor);
    while scheduler.status().replicas > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn calls_are_gathered_up_to_the_bounds_and_each_gets_its_own_rows() {
    let scheduler = scheduler();
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&sizes);
    let actor = scheduler.actor(WorkOptions::new("double"), || Ok(())).await.unwrap();
    let options = BatchOptions { rows_max: 10, bytes_max: ByteSize(1 << 20), wait_max: Duration::from_secs(3600) };
    let batcher = actor
        .batched(options, move |(), _, rows| {
            seen.lock().push(rows.num_rows());
            Ok(batch(&numbers(rows).iter().map(|number| number * 2).collect::<Vec<_>>()))
        })
        .unwrap();
    // 1 + 2 + 3 + 4 rows fill a batch; nobody waits for the hour.
    let calls = [vec![1], vec![2, 3], vec![4, 5, 6], vec![7, 8, 9, 10]].map(|input| {
        let batcher = batcher.clone();
        tokio::spawn(async move {
            let output = batcher.call(batch(&input)).await.unwrap();
            assert_eq!(numbers(&output), input.iter().map(|number| number * 2).collect::<Vec<_>>());
        })
    });
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(*sizes.lock(), [10]);
    // More rows than a batch may have are cut up and put together again.
    let many: Vec<i64> = (0..25).collect();
    assert_eq!(numbers(&batcher.call(batch(&many)).await.unwrap()).len(), 25);
    assert_eq!(sizes.lock()[1..], [10, 10, 5]);
}

#[tokio::test]
async fn a_batch_that_waits_for_long_enough_goes_as_it_is() {
    let scheduler = scheduler();
    let actor = scheduler.actor(WorkOptions::new("same"), || Ok(())).await.unwrap();
    let options = BatchOptions { rows_max: 1000, bytes_max: ByteSize(1 << 20), wait_max: Duration::from_millis(1) };
    let batcher = actor.batched(options, |(), _, rows| Ok(rows.clone())).unwrap();
    assert_eq!(numbers(&batcher.call(batch(&[1, 2])).await.unwrap()), [1, 2]);
}

#[tokio::test]
async fn batches_shrink_when_memory_runs_out_and_grow_back() {
    let scheduler = scheduler();
    let room = Arc::new(AtomicUsize::new(30));
    let limit = Arc::clone(&room);
    let actor = scheduler.actor(WorkOptions::new("model"), || Ok(())).await.unwrap();
    let options = BatchOptions { rows_max: 100, bytes_max: ByteSize(1 << 20), wait_max: Duration::ZERO };
    let batcher = actor
        .batched(options, move |(), _, rows| match limit.load(Ordering::SeqCst) {
            room if rows.num_rows() > room => Err(Error::resource_exhausted("out of device memory")),
            _ => Ok(rows.clone()),
        })
        .unwrap();
    let rows: Vec<i64> = (0..100).collect();
    assert_eq!(numbers(&batcher.call(batch(&rows)).await.unwrap()), rows);
    assert_eq!(batcher.batch_rows(), 25);
    room.store(1000, Ordering::SeqCst);
    for _ in 0..40 {
        assert_eq!(numbers(&batcher.call(batch(&rows)).await.unwrap()), rows);
    }
    assert_eq!(batcher.batch_rows(), 100);
    // One row that is too large alone is the caller's to hear of.
    room.store(0, Ordering::SeqCst);
    assert_eq!(batcher.call(batch(&[1, 2])).await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
}

#[tokio::test]
async fn only_the_callers_whose_rows_fail_hear_of_it() {
    let scheduler = scheduler();
    let actor = scheduler.actor(WorkOptions::new("check"), || Ok(())).await.unwrap();
    let options = BatchOptions { rows_max: 32, bytes_max: ByteSize(1 << 20), wait_max: Duration::from_secs(3600) };
    let batcher = actor
        .batched(options, |(), _, rows| match numbers(rows).iter().find(|number| **number < 0) {
            Some(bad) => Err(Error::invalid_input(format!("{bad} is negative"))),
            None => Ok(rows.clone()),
        })
        .unwrap();
    let calls: Vec<_> = (0..32)
        .map(|number| {
            let (batcher, number) = (batcher.clone(), if number % 10 == 3 { -number } else { number });
            tokio::spawn(async move { (number, batcher.call(batch(&[number])).await) })
        })
        .collect();
    for call in calls {
        match call.await.unwrap() {
            (number, Ok(output)) => assert_eq!((numbers(&output), number >= 0), (vec![number], true)),
            (number, Err(error)) => assert_eq!(error.message(), format!("{number} is negative")),
        }
    }
}

fn software(memory_bytes: u64) -> DeviceOptions {
    let open = || {
        let thread = || std::thread::current().name().unwrap().to_owned();
        let opened_on = thread();
        let device = KernelSet::default().with_kernel("double", move |rows| {
            assert_eq!(thread(), opened_on, "a device keeps to its thread");
            Ok(batch(&numbers(rows).iter().map(|number| number * 2).collect::<Vec<_>>()))
        });
        Ok(Box::new(device) as _)
    };
    DeviceOptions { class: "fpga".to_owned(), memory_bytes, open: Arc::new(open) }
}

#[tokio::test]
async fn an_actor_on_a_device_runs_on_that_device_and_holds_its_share() {
    let devices = vec![software(100), software(100)];
    let scheduler = Scheduler::new(SchedulerOptions { devices, ..SchedulerOptions::default() }).unwrap();
    let actor = |share| {
        let resources = Resources::cpu(0.0).with_device("fpga", share);
        scheduler.actor(WorkOptions::new("model").resources(resources), || Ok(()))
    };
    let actors = [actor(Share::Fraction(0.6)).await.unwrap(), actor(Share::MemoryBytes(60)).await.unwrap()];
    assert_eq!(scheduler.status().devices.iter().map(|device| device.1).collect::<Vec<_>>(), [60, 60]);
    for number in 0..50 {
        let output = actors[number % 2].call_on(move |(), _, device| {
            let device = device.ok_or_else(|| Error::internal("there is no device"))?;
            device.run("double", &batch(&[number as i64]))
        });
        assert_eq!(numbers(&output.await.unwrap()), [number as i64 * 2]);
    }
    let error = actors[0].call_on(|(), _, device| device.unwrap().run("halve", &batch(&[1]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // A third has no room until one of them is dropped.
    let third = actor(Share::Fraction(0.5));
    let mut third = Box::pin(third);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut third).await.is_err());
    assert!(scheduler.status().waiting[0].reason.contains("room on a `fpga`"), "{}", scheduler.status());
    drop(actors);
    third.await.unwrap();
}

#[tokio::test]
async fn devices_that_are_not_there_and_shares_that_make_no_sense_are_refused() {
    let scheduler =
        Scheduler::new(SchedulerOptions { devices: vec![software(100)], ..SchedulerOptions::default() }).unwrap();
    for (class, share, kind, text) in [
        ("gpu", Share::Fraction(0.5), ErrorKind::ResourceExhausted, "a `gpu` was asked for; this process has none"),
        (
            "fpga",
            Share::MemoryBytes(101),
            ErrorKind::ResourceExhausted,
            "101 bytes of a `fpga` were asked for; the largest has 100",
        ),
        (
            "fpga",
            Share::Fraction(0.0),
            ErrorKind::InvalidInput,
            "a share of 0 of a `fpga` makes no sense; it is above 0 and at most 1",
        ),
        (
            "fpga",
            Share::Fraction(1.5),
            ErrorKind::InvalidInput,
            "a share of 1.5 of a `fpga` makes no sense; it is above 0 and at most 1",
        ),
    ] {
        let resources = Resources::cpu(0.0).with_device(class, share);
        let refused = scheduler.submit(&WorkOptions::new("work").resources(resources), &[], |_, _| unreachable!());
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.message()), (kind, text));
    }
    let broken = DeviceOptions {
        class: "gpu".to_owned(),
        memory_bytes: 1,
        open: Arc::new(|| Err(Error::unavailable("no driver"))),
    };
    let error = Scheduler::new(SchedulerOptions { devices: vec![broken], ..SchedulerOptions::default() }).unwrap_err();
    assert_eq!(error.message(), "open device 0, a `gpu`: no driver");
}
