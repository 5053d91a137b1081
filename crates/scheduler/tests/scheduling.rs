//! Tasks, actors and queues under load, failure and cancellation.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cenote_base::{ByteSize, Error, ErrorKind, Resources};
use cenote_scheduler::{Cancel, Scheduler, SchedulerOptions, WorkOptions, byte_queue};

fn scheduler(cores: f32) -> Scheduler {
    let named = BTreeMap::from([("licence".to_owned(), 1)]);
    Scheduler::new(SchedulerOptions { cpu_cores: cores, memory_max: ByteSize::mib(1), named, ..Default::default() })
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
    let actor = scheduler
        .actor(WorkOptions::new("counter"), move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(0u32)
        })
        .await
        .unwrap();
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
    assert!(futures_pending(&mut blocked).await);
    let first = receiver.recv().await.unwrap();
    assert!(futures_pending(&mut blocked).await, "received is not dropped");
    drop(first);
    blocked.await.unwrap();
    assert_eq!(*receiver.recv().await.unwrap(), 2);
    // Larger than the whole queue: passes alone.
    sender.send(3, 1_000_000).await.unwrap();
    assert_eq!(*receiver.recv().await.unwrap(), 3);
    let mut stuck = Box::pin(sender.send(4, 100));
    assert!(!futures_pending(&mut stuck).await);
    drop(receiver);
    assert_eq!(sender.send(5, 1).await.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// Whether `future` is still waiting after one poll.
async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}
