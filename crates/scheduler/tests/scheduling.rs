//! Tasks, actors and queues under load, failure and cancellation.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, ErrorKind, Resources};
use cenote_scheduler::{Cancel, Scheduler, SchedulerOptions, Value, WorkOptions, byte_queue};

fn scheduler(cores: f32) -> Scheduler {
    let named = BTreeMap::from([("licence".to_owned(), 1)]);
    // The watchdog must not hide a lost wake-up: it comes too late here.
    let stall_after = Duration::from_secs(3600);
    Scheduler::new(SchedulerOptions {
        cpu_cores: cores,
        memory_max: ByteSize::mib(1),
        named,
        stall_after,
        ..Default::default()
    })
    .unwrap()
}

#[tokio::test]
async fn no_more_work_runs_at_once_than_cores_allow() {
    let scheduler = scheduler(2.0);
    let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = (0..40).map(|_| {
        let (scheduler, running, peak) = (scheduler.clone(), Arc::clone(&running), Arc::clone(&peak));
        tokio::spawn(async move {
            scheduler
                .run(&WorkOptions::new("step"), move |_| {
                    peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    assert!(std::thread::current().name().unwrap().starts_with("cenote-cpu-"));
                    Ok(())
                })
                .await
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    assert!((1..=2).contains(&peak.load(Ordering::SeqCst)));
    assert_eq!(scheduler.usage().used.cpu, 0.0);
}

#[tokio::test]
async fn a_request_that_can_never_be_met_is_refused_at_once() {
    let scheduler = scheduler(1.0);
    let mut fpga = Resources::cpu(0.1);
    fpga.named.insert("fpga".into(), 1);
    for (resources, text) in [
        (Resources::cpu(2.0), "2 CPU cores were asked for; this process schedules 1"),
        (
            Resources::cpu(1.0).with_memory_bytes(2 << 20),
            "2097152 bytes of memory were asked for; the budget is 1048576",
        ),
        (fpga, "1 of resource `fpga` were asked for; this process has 0"),
    ] {
        let error = scheduler.run(&WorkOptions::new("big").resources(resources), |_| Ok(())).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::ResourceExhausted, text));
    }
}

#[tokio::test]
async fn only_errors_that_may_pass_are_retried() {
    let scheduler = scheduler(1.0);
    let tries = Arc::new(AtomicUsize::new(0));
    for (kind, retries, expected) in [(ErrorKind::Unavailable, 3, 4), (ErrorKind::InvalidInput, 3, 1)] {
        tries.store(0, Ordering::SeqCst);
        let counted = Arc::clone(&tries);
        let options = WorkOptions::new("flaky").retries(retries);
        let failed: Result<(), Error> = scheduler
            .run(&options, move |context| {
                assert_eq!(counted.fetch_add(1, Ordering::SeqCst), context.attempt as usize);
                Err(Error::new(kind, "no"))
            })
            .await;
        assert_eq!(failed.unwrap_err().kind(), kind);
        assert_eq!(tries.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn an_actor_runs_calls_in_turn_and_is_rebuilt_after_a_panic() {
    let scheduler = scheduler(2.0);
    let builds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&builds);
    let build = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(0u32)
    };
    let actor = scheduler.actor(WorkOptions::new("counter"), 1, Duration::from_secs(3600), build).unwrap();
    let calls = (0..50).map(|_| {
        let actor = actor.clone();
        tokio::spawn(async move {
            actor
                .call(|count, _| {
                    *count += 1;
                    Ok(())
                })
                .await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(actor.call(|count, _| Ok(*count)).await.unwrap(), 50);
    let error = actor.call::<(), _>(|_, _| panic!("boom")).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Internal, "`counter` panicked: boom"));
    assert_eq!(actor.call(|count, _| Ok(*count)).await.unwrap(), 0);
    assert_eq!(builds.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn cancellation_reaches_waiting_and_running_work() {
    let scheduler = scheduler(1.0);
    let cancel = Cancel::default();
    let (started, begun) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let running = tokio::spawn({
        let (scheduler, options) = (scheduler.clone(), WorkOptions::new("loop").cancel(&cancel));
        async move {
            scheduler
                .run(&options, move |context| -> cenote_base::Result<()> {
                    started.take().map(|started| started.send(()));
                    loop {
                        context.cancel.check()?;
                        std::thread::yield_now();
                    }
                })
                .await
        }
    });
    begun.await.unwrap();
    let waiting = tokio::spawn({
        let (scheduler, options) = (scheduler.clone(), WorkOptions::new("never").cancel(&cancel));
        async move { scheduler.run(&options, |_| Ok(())).await }
    });
    tokio::task::yield_now().await;
    cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    scheduler.run(&WorkOptions::new("after"), |_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_queue_holds_its_bytes_until_items_are_dropped() {
    let (sender, mut receiver) = byte_queue::<u64>(100);
    sender.send(1, 60).await.unwrap();
    let mut blocked = Box::pin(sender.send(2, 60));
    assert!(is_pending(&mut blocked).await);
    let first = receiver.recv().await.unwrap();
    assert!(is_pending(&mut blocked).await, "the received item is not dropped");
    drop(first);
    blocked.await.unwrap();
    assert_eq!(*receiver.recv().await.unwrap(), 2);
    // An item larger than the whole queue passes alone.
    sender.send(3, 1_000_000).await.unwrap();
    assert_eq!(*receiver.recv().await.unwrap(), 3);
    let mut stuck = Box::pin(sender.send(4, 100));
    assert!(!is_pending(&mut stuck).await);
    drop(receiver);
    assert_eq!(sender.send(5, 1).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// Returns whether `future` is pending after one poll.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_request_that_must_wait_shows_what_for() {
    let scheduler = scheduler(2.0);
    let licence = |name: &str| WorkOptions::new(name).resources(Resources::cpu(0.5).with_named("licence", 1));
    let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
    let released = Mutex::new(released);
    let holder = scheduler.submit(&licence("holder"), &[], move |_, _| {
        released.lock().recv().unwrap();
        Ok(Value::from(Vec::new()))
    });
    let waiting: Vec<_> =
        (0..3).map(|_| scheduler.submit(&licence("next"), &[], |_, _| Ok(Value::from(Vec::new()))).unwrap()).collect();
    let behind = scheduler.submit(&WorkOptions::new("behind"), &waiting, |_, inputs| Ok(inputs[0].clone())).unwrap();
    while scheduler.status().running.is_empty() {
        tokio::task::yield_now().await;
    }
    let status = scheduler.status();
    assert_eq!(status.running[0].name, "holder");
    let waits: Vec<_> = status.waiting.iter().map(|w| (w.name.as_str(), w.count, w.reason.as_str())).collect();
    assert_eq!(waits, [("next", 3, "1 `licence` (0 free)"), ("behind", 1, "3 inputs that are still to be made")]);
    release.send(()).unwrap();
    scheduler.get(&behind).await.unwrap();
    scheduler.wait(&holder.unwrap()).await.unwrap();
    assert!(scheduler.status().waiting.is_empty());
}

#[tokio::test]
async fn drain_lets_work_end_and_takes_no_more() {
    let scheduler = scheduler(1.0);
    let done = Arc::new(AtomicUsize::new(0));
    let objects: Vec<_> = (0..100)
        .map(|_| {
            let done = Arc::clone(&done);
            scheduler.submit(&WorkOptions::new("work"), &[], move |_, _| {
                done.fetch_add(1, Ordering::SeqCst);
                Ok(Value::from(Vec::new()))
            })
        })
        .collect();
    scheduler.drain().await;
    assert_eq!(done.load(Ordering::SeqCst), 100);
    let refused = scheduler.run(&WorkOptions::new("late"), |_| Ok(())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Cancelled);
    drop(objects);
}

#[tokio::test]
async fn too_many_waiting_tasks_are_refused() {
    let options = SchedulerOptions { cpu_cores: 1.0, tasks_max: 2, ..SchedulerOptions::default() };
    let scheduler = Scheduler::new(options).unwrap();
    let never = scheduler.put(vec![1]).await.unwrap();
    let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
    let released = Mutex::new(released);
    let options = WorkOptions::new("work");
    let first = scheduler.submit(&options, &[never], move |_, _| {
        released.lock().recv().unwrap();
        Ok(Value::from(Vec::new()))
    });
    let second = scheduler.submit(&options, &[], |_, _| Ok(Value::from(Vec::new()))).unwrap();
    let error = scheduler.submit(&options, &[], |_, _| Ok(Value::from(Vec::new()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    release.send(()).unwrap();
    scheduler.get(&second).await.unwrap();
    drop(first);
}

#[tokio::test]
async fn dropping_the_scheduler_cancels_what_waits_and_ends_its_threads() {
    let scheduler = scheduler(1.0);
    let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
    let (ended, has_ended) = tokio::sync::oneshot::channel();
    let mut ended = Some(ended);
    let (started, begun) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let running = tokio::spawn({
        let scheduler = scheduler.clone();
        async move {
            let work = move |_: &cenote_scheduler::TaskContext| {
                started.take().unwrap().send(()).unwrap();
                released.recv().unwrap();
                ended.take().unwrap().send(()).unwrap();
                Ok(())
            };
            scheduler.run(&WorkOptions::new("running"), work).await
        }
    });
    begun.await.unwrap();
    let held = Arc::new(());
    let kept = Arc::clone(&held);
    let waiting = scheduler.submit(&WorkOptions::new("waiting"), &[], move |_, _| {
        let _ = &kept;
        Ok(Value::from(Vec::new()))
    });
    running.abort();
    let _ = running.await;
    drop(scheduler);
    release.send(()).unwrap();
    has_ended.await.unwrap();
    drop(waiting);
    assert_eq!(Arc::strong_count(&held), 1, "the function of the cancelled task is gone");
}

#[tokio::test]
async fn numbers_and_timeline_say_what_ran() {
    let options = SchedulerOptions { cpu_cores: 1.0, trace_max: ByteSize(1 << 16), ..SchedulerOptions::default() };
    let scheduler = Scheduler::new(options).unwrap();
    for _ in 0..3 {
        scheduler.run(&WorkOptions::new("a \"quoted\"\nname"), |_| Ok(())).await.unwrap();
    }
    scheduler.run(&WorkOptions::new("bad"), |_| Err::<(), _>(Error::invalid_input("no"))).await.unwrap_err();
    let text = scheduler.status().to_prometheus();
    for line in [
        "cenote_scheduler_tasks_completed_total 3",
        "cenote_scheduler_tasks_failed_total 1",
        "cenote_scheduler_resource_total{resource=\"cpu\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let mut trace = Vec::new();
    scheduler.write_trace(&mut trace).unwrap();
    let events: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = events.as_array().unwrap();
    assert_eq!(events[0]["args"]["name"], "cenote-cpu-0");
    let ran: Vec<_> = events[1..].iter().map(|event| (&event["name"], &event["args"]["ended_well"])).collect();
    assert_eq!(ran.len(), 4);
    assert!(ran[..3].iter().all(|(name, well)| *name == "a \"quoted\"\nname" && **well == true));
    assert!(*ran[3].0 == "bad" && *ran[3].1 == false);
    let times: Vec<u64> = events[1..].iter().map(|event| event["ts"].as_u64().unwrap()).collect();
    assert!(times.is_sorted());
}

#[tokio::test]
async fn a_timeline_stays_within_its_bytes_however_long_the_names_are() {
    let trace_max = ByteSize(1 << 16);
    let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 1.0, trace_max, ..Default::default() }).unwrap();
    for number in 0..20 {
        let name = format!("{}{number}", "x".repeat(10_000));
        scheduler.run(&WorkOptions::new(name), |_| Ok(())).await.unwrap();
    }
    let mut trace = Vec::new();
    scheduler.write_trace(&mut trace).unwrap();
    assert!(trace.len() as u64 <= trace_max.0, "{} bytes", trace.len());
    assert!(String::from_utf8(trace).unwrap().contains("x19\""), "the newest try is kept");
}

/// Runs tasks, calls, timers and reads from several threads at once. A lost wake-up would hang the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_wake_up_is_lost() {
    let scheduler = scheduler(2.0);
    let actor = scheduler.actor(WorkOptions::new("counter"), 1, Duration::from_secs(3600), || Ok(0)).unwrap();
    let streams = (0..3).map(|stream| {
        let (scheduler, actor) = (scheduler.clone(), actor.clone());
        tokio::spawn(async move {
            let licence = Resources::cpu(0.5).with_named("licence", 1);
            for number in 0..300 {
                match (number + stream) % 4 {
                    0 => {
                        let count = |count: &mut i32, _: &cenote_scheduler::TaskContext| {
                            *count += 1;
                            Ok(())
                        };
                        actor.call(count).await.unwrap();
                    }
                    1 => {
                        let options = WorkOptions::new("licensed").resources(licence.clone());
                        scheduler.run(&options, |_| Ok(())).await.unwrap();
                    }
                    2 if number % 10 == 2 => {
                        let flaky = WorkOptions::new("flaky").retries(1);
                        let again = |context: &cenote_scheduler::TaskContext| match context.attempt {
                            0 => Err(Error::unavailable("not yet")),
                            _ => Ok(()),
                        };
                        scheduler.run(&flaky, again).await.unwrap();
                    }
                    _ => {
                        let large = scheduler.put(vec![1; 300_000]).await.unwrap();
                        let same = |_: &cenote_scheduler::TaskContext, inputs: &[Value]| Ok(inputs[0].clone());
                        let copied = scheduler.submit(&WorkOptions::new("same"), &[large], same).unwrap();
                        assert_eq!(scheduler.get(&copied).await.unwrap().size_bytes(), 300_000);
                    }
                }
            }
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_held_for_work_elsewhere_leaves_room_for_the_tasks_it_waits_for() {
    let memory_max = ByteSize(1000);
    let scheduler = Scheduler::new(SchedulerOptions { cpu_cores: 2.0, memory_max, ..Default::default() }).unwrap();
    let pass = WorkOptions::new("pass");
    let first = scheduler.hold(&pass, 400, 500).await.unwrap();
    assert_eq!(scheduler.usage().used.memory_bytes, 400);
    let second = tokio::spawn({
        let (scheduler, pass) = (scheduler.clone(), pass.clone());
        async move { scheduler.hold(&pass, 400, 100).await }
    });
    while scheduler.status().ready == 0 {
        tokio::task::yield_now().await;
    }
    let task = WorkOptions::new("task").resources(Resources::cpu(1.0).with_memory_bytes(500));
    scheduler.run(&task, |_| Ok(())).await.unwrap();
    assert!(!second.is_finished());
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(scheduler.usage().used.memory_bytes, 400);
    // A future that is dropped while it waits leaves nothing held.
    let waiting = tokio::spawn({
        let (scheduler, pass) = (scheduler.clone(), pass.clone());
        async move { scheduler.hold(&pass, 900, 0).await }
    });
    while scheduler.status().ready == 0 {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    drop(second);
    assert_eq!((scheduler.usage().used.memory_bytes, scheduler.status().live), (0, 0));
    let error = scheduler.hold(&pass, 600, 500).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}
