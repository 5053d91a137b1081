//! Actors with several states, what the states hold and when, and devices.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, ErrorKind, Resources, Share};
use cenote_scheduler::{
    DeviceOptions, KernelSet, PlacedOptions, PlacementChoice, Scheduler, SchedulerOptions, WorkOptions,
};

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

const LONG: Duration = Duration::from_secs(3600);

fn holds_1000() -> WorkOptions {
    WorkOptions::new("model").resources(Resources::cpu(1.0).with_memory_bytes(1000))
}

#[tokio::test]
async fn an_actor_that_cannot_be_built_says_so_and_holds_nothing() {
    let scheduler = scheduler();
    let actor = scheduler.actor(holds_1000(), 1, LONG, || Err::<(), _>(Error::not_found("no such weights"))).unwrap();
    let error = actor.call(|(), _| Ok(())).await.unwrap_err();
    assert_eq!(error.message(), "no such weights");
    while scheduler.usage().used.memory_bytes > 0 {
        tokio::task::yield_now().await;
    }
    let none = scheduler.actor(WorkOptions::new("none"), 0, LONG, || Ok(()));
    assert_eq!(none.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn states_come_with_the_calls_up_to_the_limit_and_go_with_them() {
    let scheduler = scheduler();
    let builds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&builds);
    let build = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let actor = scheduler.actor(holds_1000(), 2, Duration::from_millis(1), build).unwrap();
    assert_eq!((scheduler.status().replicas, scheduler.usage().used.memory_bytes), (0, 0), "none without calls");
    let (most, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls = (0..200).map(|_| {
        let (actor, most, at_once) = (actor.clone(), Arc::clone(&most), Arc::clone(&at_once));
        tokio::spawn(async move {
            let work = move |(): &mut (), _: &_| {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..100 {
                    std::thread::yield_now();
                }
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            actor.call(work).await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 2);
    assert!((1..=2).contains(&builds.load(Ordering::SeqCst)));
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

/// A value that records, when it is dropped, the memory that the scheduler has granted.
struct Heavy(Scheduler, Arc<Mutex<Vec<u64>>>);

impl Drop for Heavy {
    fn drop(&mut self) {
        self.1.lock().push(self.0.usage().used.memory_bytes);
    }
}

#[tokio::test]
async fn what_a_state_or_a_task_holds_is_granted_until_it_is_dropped() {
    let scheduler = scheduler();
    let granted: Arc<Mutex<Vec<u64>>> = Arc::default();
    let heavy = {
        let (scheduler, granted) = (scheduler.clone(), Arc::clone(&granted));
        move || Heavy(scheduler.clone(), Arc::clone(&granted))
    };
    let build = heavy.clone();
    let actor = scheduler.actor(holds_1000(), 1, LONG, move || Ok(build())).unwrap();
    actor.call(|_, _| Ok(())).await.unwrap();
    drop(actor);
    while scheduler.usage().used.memory_bytes > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*granted.lock(), [1000]);
    let held = heavy();
    scheduler
        .run(&holds_1000(), move |_| {
            let _used = &held;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(*granted.lock(), [1000, 1000]);
}

/// A value whose drop panics.
struct Bomb;

impl Drop for Bomb {
    #[expect(clippy::panic, reason = "the test is about panics")]
    fn drop(&mut self) {
        panic!("a bomb was dropped");
    }
}

#[tokio::test]
async fn a_panic_in_a_drop_ends_no_thread_and_frees_what_was_granted() {
    let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 1.0, ..SchedulerOptions::default() }).unwrap();
    // The one thread makes room by dropping the idle state.
    let memory_bytes = scheduler.usage().total.memory_bytes;
    let all = |name: &str| WorkOptions::new(name).resources(Resources::cpu(1.0).with_memory_bytes(memory_bytes));
    let actor = scheduler.actor(all("actor"), 1, LONG, || Ok(Bomb)).unwrap();
    actor.call(|_, _| Ok(())).await.unwrap();
    scheduler.run(&all("other"), |_| Ok(())).await.unwrap();
    // What a task owns is dropped in it.
    let bomb = Bomb;
    let use_bomb = move |_: &_| {
        let _used = &bomb;
        Ok(())
    };
    let failed = scheduler.run(&all("task"), use_bomb).await.unwrap_err();
    assert!(failed.message().contains("a bomb was dropped"), "{failed}");
    scheduler.run(&all("last"), |_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn an_idle_state_makes_room_for_other_work() {
    let memory_max = ByteSize(1500);
    let scheduler =
        Scheduler::new(SchedulerOptions { cpu_cores: 2.0, memory_max, ..SchedulerOptions::default() }).unwrap();
    let actor = |name: &str| {
        let options = WorkOptions::new(name).resources(Resources::cpu(1.0).with_memory_bytes(1000));
        scheduler.actor(options, 2, LONG, || Ok(())).unwrap()
    };
    let actors = [actor("one"), actor("other")];
    for number in 0..20 {
        actors[number % 2].call(|(), _| Ok(())).await.unwrap();
        assert!(scheduler.usage().used.memory_bytes <= 1000);
    }
    // Work that fits beside the idle state leaves it alone.
    scheduler
        .run(&WorkOptions::new("small").resources(Resources::cpu(1.0).with_memory_bytes(500)), |_| Ok(()))
        .await
        .unwrap();
    assert_eq!(scheduler.status().replicas, 1);
}

/// A value that blocks its thread when it is dropped, until a message arrives.
struct Slow(std::sync::mpsc::Receiver<()>);

impl Drop for Slow {
    fn drop(&mut self) {
        assert!(self.0.recv_timeout(Duration::from_secs(60)).is_ok(), "work waited behind a drop");
    }
}

#[tokio::test]
async fn work_begins_while_an_idle_thread_still_drops_what_it_had() {
    let scheduler = scheduler();
    for _ in 0..10 {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        // The task fails, so its function, which holds this, is dropped.
        let slow = Mutex::new(Slow(receiver));
        let failed: Result<(), Error> = scheduler
            .run(&WorkOptions::new("first"), move |_| {
                let _held = &slow;
                Err(Error::invalid_input("on purpose"))
            })
            .await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::InvalidInput);
        let work = move |_: &_| sender.send(()).map_err(|_| Error::internal("nobody waits"));
        scheduler.run(&WorkOptions::new("second"), work).await.unwrap();
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
            "a share of a `fpga` must be above 0 and at most 1, found 0",
        ),
        (
            "fpga",
            Share::Fraction(1.5),
            ErrorKind::InvalidInput,
            "a share of a `fpga` must be above 0 and at most 1, found 1.5",
        ),
    ] {
        let resources = Resources::cpu(0.0).with_device(class, share);
        let refused = scheduler.submit(&WorkOptions::new("work").resources(resources), &[], |_, _| unreachable!());
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.message()), (kind, text));
    }
    // Work that may also run on the CPU does so without a device, but not with a share that is out of range.
    let placed = |class: &str, share| {
        let (work, class, kernel) = (WorkOptions::new("work"), class.to_owned(), "double".to_owned());
        let options = PlacedOptions { work, class, share, kernel, choice: PlacementChoice::Auto };
        scheduler.placed(options, |rows| Ok(rows.clone())).map(drop)
    };
    placed("gpu", Share::Fraction(0.5)).unwrap();
    assert_eq!(placed("fpga", Share::Fraction(1.5)).unwrap_err().kind(), ErrorKind::InvalidInput);
    let broken = DeviceOptions {
        class: "gpu".to_owned(),
        memory_bytes: 1,
        open: Arc::new(|| Err(Error::unavailable("no driver"))),
    };
    let error = Scheduler::new(SchedulerOptions { devices: vec![broken], ..SchedulerOptions::default() }).unwrap_err();
    assert_eq!(error.message(), "open device 0, a `gpu`: no driver");
}
