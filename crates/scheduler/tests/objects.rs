//! Objects in memory, on disk and lost.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use cenote_base::{ByteSize, ErrorKind};
use cenote_scheduler::{Scheduler, SchedulerOptions, Value, WorkOptions};

fn scheduler(memory_max: u64, spill: &Path) -> Scheduler {
    let options = SchedulerOptions {
        cpu_cores: 2.0,
        memory_max: ByteSize(memory_max),
        spill_directory: spill.to_owned(),
        ..SchedulerOptions::default()
    };
    Scheduler::new(options).unwrap()
}

fn numbers(first: i64, count: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + count));
    RecordBatch::try_from_iter([("number", column)]).unwrap()
}

fn address(batch: &RecordBatch) -> *const u8 {
    batch.column(0).to_data().buffers()[0].as_ptr()
}

#[tokio::test]
async fn objects_within_a_process_are_not_copied() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(1 << 20, spill.path());
    let batch = numbers(0, 1000);
    let put = scheduler.put(batch.clone()).await.unwrap();
    assert_eq!(address(scheduler.get(&put).await.unwrap().batch().unwrap()), address(&batch));
    let same = scheduler.submit(&WorkOptions::new("same"), &[put], |_, inputs| Ok(inputs[0].clone())).unwrap();
    assert_eq!(address(scheduler.get(&same).await.unwrap().batch().unwrap()), address(&batch));
}

#[tokio::test]
async fn a_graph_resolves_itself_and_inputs_come_in_their_order() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(1 << 20, spill.path());
    let text = |text: &'static str| {
        scheduler.submit(&WorkOptions::new("text"), &[], move |_, _| Ok(Value::from(text.as_bytes()))).unwrap()
    };
    let join = |_: &cenote_scheduler::TaskContext, inputs: &[Value]| {
        Ok(Value::from(inputs.iter().flat_map(|input| input.bytes().unwrap().to_vec()).collect::<Vec<_>>()))
    };
    let (a, b) = (text("a"), text("b"));
    let options = WorkOptions::new("join");
    let left = scheduler.submit(&options, &[b.clone(), a.clone(), b], join).unwrap();
    let right = scheduler.submit(&options, &[a, left.clone()], join).unwrap();
    let both = scheduler.submit(&options, &[right, left], join).unwrap();
    assert_eq!(scheduler.get(&both).await.unwrap().bytes().unwrap(), b"ababbab");
}

#[tokio::test]
async fn what_memory_has_no_room_for_goes_to_disk_and_comes_back() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(40_000, spill.path());
    let mut objects = Vec::new();
    for number in 0..20 {
        objects.push(scheduler.put(numbers(number, 1000)).await.unwrap());
        let status = scheduler.status();
        assert!(status.idle_bytes + status.usage.used.memory_bytes <= 40_000, "{status}");
    }
    assert!(scheduler.status().spilled_bytes >= 15 * 8000);
    // Objects that have been made remain readable after a drain.
    scheduler.drain().await;
    for (number, object) in objects.iter().enumerate() {
        assert_eq!(scheduler.get(object).await.unwrap().batch().unwrap(), &numbers(number as i64, 1000));
    }
    drop(objects);
    let status = scheduler.status();
    assert_eq!((status.spilled_bytes, status.idle_bytes, status.usage.used.memory_bytes), (0, 0, 0));
}

#[tokio::test]
async fn what_is_held_is_not_spilled_and_a_put_waits_for_room() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(20_000, spill.path());
    let mut held = Vec::new();
    for number in 0..2 {
        let object = scheduler.put(numbers(number, 1000)).await.unwrap();
        held.push(scheduler.get(&object).await.unwrap());
    }
    let waiting = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.put(numbers(7, 1000)).await }
    });
    while scheduler.status().waiting.is_empty() {
        tokio::task::yield_now().await;
    }
    let status = scheduler.status();
    assert_eq!(status.waiting[0].reason, "8000 bytes of memory (4000 free)", "{status}");
    assert!(!waiting.is_finished());
    held.pop();
    waiting.await.unwrap().unwrap();
    assert_eq!(scheduler.status().counters.spilled, 0, "the released object was dropped, not written");
}

#[tokio::test]
async fn an_object_larger_than_the_budget_is_refused_with_the_numbers() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(4000, spill.path());
    let error = scheduler.put(numbers(0, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert_eq!(error.message(), "8000 bytes of memory were asked for; the budget is 4000");
    // An output has already been made when it turns out to be too large: it is evicted, and getting it fails.
    let made = scheduler.submit(&WorkOptions::new("large"), &[], |_, _| Ok(numbers(0, 1000).into())).unwrap();
    scheduler.wait(&made).await.unwrap();
    let error = scheduler.get(&made).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("needs 8000 bytes"), "{error}");
}

#[tokio::test]
async fn a_full_spill_directory_fails_the_work_that_needs_room_and_nothing_else() {
    let spill = tempfile::tempdir().unwrap();
    let options = SchedulerOptions {
        cpu_cores: 1.0,
        memory_max: ByteSize(20_000),
        spill_directory: spill.path().to_owned(),
        spill_max: ByteSize(10_000),
        ..SchedulerOptions::default()
    };
    let scheduler = Scheduler::new(options).unwrap();
    let mut objects = Vec::new();
    for number in 0..3 {
        objects.push(scheduler.put(numbers(number, 1000)).await.unwrap());
    }
    let error = scheduler.put(numbers(3, 1000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("of 10000 bytes of the spill directory are used"), "{error}");
    for (number, object) in objects.iter().enumerate().rev().take(2) {
        assert_eq!(scheduler.get(object).await.unwrap().batch().unwrap(), &numbers(number as i64, 1000));
    }
    drop(objects);
    scheduler.put(numbers(4, 1000)).await.unwrap();
}

#[tokio::test]
async fn a_lost_object_is_made_again_from_what_it_was_made_of() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(20_000, spill.path());
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = |add: i64| {
        let runs = Arc::clone(&runs);
        move |_: &cenote_scheduler::TaskContext, inputs: &[Value]| {
            runs.fetch_add(1, Ordering::SeqCst);
            let before = inputs.first().map_or(0, |input| input.batch().unwrap().num_rows() as i64);
            Ok(numbers(add + before, 1000).into())
        }
    };
    let first = scheduler.submit(&WorkOptions::new("first"), &[], counted(1)).unwrap();
    let second = scheduler.submit(&WorkOptions::new("second"), std::slice::from_ref(&first), counted(2)).unwrap();
    scheduler.wait(&second).await.unwrap();
    // The first object is dropped; the second is evicted to disk, and is lost there.
    drop(first);
    let fill = [scheduler.put(numbers(0, 1000)).await.unwrap(), scheduler.put(numbers(0, 1000)).await.unwrap()];
    let lose_all = || {
        for directory in std::fs::read_dir(spill.path()).unwrap() {
            for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
                std::fs::remove_file(file.unwrap().path()).unwrap();
            }
        }
    };
    lose_all();
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(scheduler.get(&second).await.unwrap().batch().unwrap(), &numbers(1002, 1000));
    assert_eq!((runs.load(Ordering::SeqCst), scheduler.status().counters.made_again), (4, 2));
    // An object that was put cannot be made again, and says so.
    let last = scheduler.put(numbers(9, 1000)).await.unwrap();
    lose_all();
    let mut lost = 0;
    for object in &fill {
        if let Err(error) = scheduler.get(object).await {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.message().contains("nothing is known to make it again"), "{error}");
            lost += 1;
        }
    }
    assert!(lost > 0);
    drop(last);
}

#[tokio::test]
async fn a_failure_reaches_all_that_was_to_be_made_of_it() {
    let spill = tempfile::tempdir().unwrap();
    let scheduler = scheduler(1 << 20, spill.path());
    let bad = scheduler.submit(&WorkOptions::new("bad"), &[], |_, _| panic!("broken")).unwrap();
    let good = scheduler.put(vec![1]).await.unwrap();
    // Thousands of generations: the failure must not recurse.
    let mut last = bad;
    for _ in 0..5000 {
        let options = WorkOptions::new("next");
        last = scheduler.submit(&options, &[last, good.clone()], |_, inputs| Ok(inputs[1].clone())).unwrap();
    }
    let error = scheduler.get(&last).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.message(), "an input failed: `bad` panicked: broken");
    assert_eq!(scheduler.get(&good).await.unwrap().bytes().unwrap(), [1], "others go on");
}
