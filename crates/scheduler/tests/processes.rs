//! Child processes that are killed, hang, eat memory and talk nonsense. The child is this test program itself.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use cenote_base::{ByteSize, Error, ErrorKind, Resources};
use cenote_scheduler::{
    Cancel, ChildProcess, ProcessOptions, Processes, Scheduler, SchedulerOptions, Value, WorkOptions, serve_calls,
};

const CHILD: &str = "CENOTE_TEST_CHILD";

/// Numbers that do something to the child; all others are doubled.
const EXIT: i64 = -1;
const HANG: i64 = -2;
const EAT: i64 = -3;
const GARBAGE: i64 = -4;
const REFUSE: i64 = -5;
const LONG_FRAME: i64 = -6;
/// Makes how many calls there were before.
const COUNT: i64 = -7;

#[test]
#[ignore = "the child's main, run by the other tests"]
fn child() {
    if std::env::var(CHILD).as_deref() != Ok("1") {
        return;
    }
    let mut calls = 0;
    serve_calls(|input| {
        calls += 1;
        println!("a child may print");
        let numbers: Vec<i64> = input.batch()?.column(0).as_primitive::<Int64Type>().values().to_vec();
        let mut outputs = Vec::new();
        for number in numbers {
            match number {
                EXIT => std::process::abort(),
                HANG => loop {
                    std::thread::park();
                },
                EAT => {
                    let mut eaten: Vec<Vec<u8>> = Vec::new();
                    loop {
                        eaten.push(vec![1; 1 << 20]);
                        std::thread::yield_now();
                    }
                }
                GARBAGE => say(b"no frame at all, but more than nine bytes of it"),
                LONG_FRAME => say(&[3, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]),
                REFUSE => return Err(Error::invalid_input("this number is refused")),
                COUNT => outputs.push(calls - 1),
                0 => outputs.push(i64::from(std::process::id())),
                number => outputs.push(number * 2),
            }
        }
        Ok(Value::Batch(batch(&outputs)))
    })
    .unwrap();
}

fn say(bytes: &[u8]) {
    let connection = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    std::os::unix::net::UnixStream::from(connection).write_all(bytes).unwrap();
}

fn batch(numbers: &[i64]) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
    RecordBatch::try_from_iter([("number", column)]).unwrap()
}

fn numbers(value: &RecordBatch) -> Vec<i64> {
    value.column(0).as_primitive::<Int64Type>().values().to_vec()
}

fn options() -> ProcessOptions {
    let mut options = ProcessOptions::new(std::env::current_exe().unwrap());
    options.arguments = ["child", "--exact", "--ignored", "--nocapture"].map(Into::into).into();
    options.environment = vec![(CHILD.into(), "1".into())];
    options.memory_max = ByteSize::mib(200);
    options.call_max = Duration::from_secs(120);
    options
}

fn scheduler() -> Scheduler {
    Scheduler::new(SchedulerOptions { cpu_cores: 2.0, memory_max: ByteSize::mib(512), ..Default::default() }).unwrap()
}

fn processes(options: ProcessOptions, retries: u32) -> Processes {
    scheduler().processes(WorkOptions::new("double").retries(retries), options, 1).unwrap()
}

async fn call(processes: &Processes, input: &[i64]) -> cenote_base::Result<Vec<i64>> {
    processes.call(Value::Batch(batch(input))).await.map(|value| numbers(value.batch().unwrap()))
}

#[tokio::test]
async fn a_child_is_started_once_and_used_again() {
    let scheduler = scheduler();
    let processes = scheduler.processes(WorkOptions::new("double"), options(), 1).unwrap();
    let first = call(&processes, &[0]).await.unwrap();
    for number in 1..20 {
        assert_eq!(call(&processes, &[number, 0]).await.unwrap(), [number * 2, first[0]]);
    }
    assert_eq!(scheduler.usage().used.memory_bytes, 200 << 20, "its limit is held while it lives");
    let error = call(&processes, &[REFUSE]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("child of `double`: this number is refused"), "{error}");
    assert_eq!(call(&processes, &[0]).await.unwrap(), first, "a refusal is an answer, and no reason to die");
}

#[test]
fn every_child_is_called_with_what_comes_first() {
    let cancel = Cancel::default();
    let mut with_first = options();
    with_first.first = Some(Value::Batch(batch(&[21])));
    let mut child = ChildProcess::new("double", with_first);
    let mut ask = |input: &[i64]| {
        let answer = child.call(&Value::Batch(batch(input)), &|| cancel.check())?;
        Ok::<_, Error>(numbers(answer.batch().unwrap()))
    };
    for _ in 0..2 {
        assert_eq!(ask(&[COUNT]).unwrap(), [1]);
        assert_eq!(ask(&[COUNT]).unwrap(), [2]);
        assert_eq!(ask(&[EXIT]).unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let mut refusing = options();
    refusing.first = Some(Value::Batch(batch(&[REFUSE])));
    let error = ChildProcess::new("double", refusing).start(&|| cancel.check()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("child of `double`: this number is refused"), "{error}");
}

#[tokio::test]
async fn a_killed_child_is_replaced_and_the_call_tried_again() {
    let processes = processes(options(), 2);
    for _ in 0..3 {
        let pid = call(&processes, &[0]).await.unwrap()[0];
        let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(call(&processes, &[21]).await.unwrap(), [42]);
        assert_ne!(call(&processes, &[0]).await.unwrap()[0], pid);
    }
}

#[tokio::test]
async fn what_a_child_dies_of_is_said() {
    let mut quick = options();
    quick.call_max = Duration::from_millis(300);
    for (options, number, kind, text) in [
        (options(), EXIT, ErrorKind::Unavailable, "was lost (signal: 6"),
        (quick, HANG, ErrorKind::ResourceExhausted, "it took longer than 300ms"),
        (options(), EAT, ErrorKind::ResourceExhausted, "of memory, more than 200 MiB"),
        (options(), GARBAGE, ErrorKind::Corrupt, "a frame cannot begin with the bytes"),
        (options(), LONG_FRAME, ErrorKind::Corrupt, "is longer than the limit"),
    ] {
        let processes = processes(options, 0);
        let before = call(&processes, &[0]).await.unwrap();
        let error = call(&processes, &[5, number, 6]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("child of `double`") && error.message().contains(text), "{error}");
        assert!(!std::path::Path::new(&format!("/proc/{}", before[0])).exists(), "it was left behind");
        assert_ne!(call(&processes, &[0]).await.unwrap(), before, "a new one goes on");
    }
}

#[tokio::test]
async fn the_rows_that_kill_children_are_found_and_set_aside() {
    let processes = processes(options(), 0);
    let mut input: Vec<i64> = (1..=40).collect();
    (input[7], input[8], input[31]) = (EXIT, GARBAGE, REFUSE);
    let sifted = processes.sift(&batch(&input), 3).await.unwrap();
    let bad: Vec<_> = sifted.bad.iter().map(|bad| (bad.row, bad.error.kind())).collect();
    assert_eq!(bad, [(7, ErrorKind::Unavailable), (8, ErrorKind::Corrupt), (31, ErrorKind::InvalidInput)]);
    let mut made = vec![None; input.len()];
    for (rows, output) in &sifted.outputs {
        for (row, number) in rows.clone().zip(numbers(output)) {
            assert_eq!(made[row].replace(number), None, "row {row} came twice");
        }
    }
    for (row, number) in input.iter().enumerate() {
        assert_eq!(made[row], (*number > 0).then_some(number * 2), "row {row}");
    }
    let error = processes.sift(&batch(&input), 2).await.unwrap_err();
    assert!(error.message().starts_with("row 31, after 2 bad rows"), "{error}");
}

#[tokio::test]
async fn cancellation_kills_a_child_at_work() {
    let (scheduler, cancel) = (scheduler(), Cancel::default());
    let work = WorkOptions::new("double").cancel(&cancel);
    let processes = scheduler.processes(work, options(), 1).unwrap();
    let pid = call(&processes, &[0]).await.unwrap()[0];
    let hanging = tokio::spawn(async move { call(&processes, &[HANG]).await });
    while scheduler.status().running.is_empty() {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert_eq!(hanging.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_program_that_is_no_child_is_noticed_at_the_start() {
    for (program, arguments, kind) in [
        ("/bin/true", vec![], ErrorKind::Unavailable),
        ("/nonexistent", vec![], ErrorKind::NotFound),
        ("/bin/sh", vec!["-c", "echo what is this protocol >&0"], ErrorKind::Corrupt),
    ] {
        let mut options = ProcessOptions::new(program);
        options.arguments = arguments.into_iter().map(Into::into).collect();
        let error = call(&processes(options, 0), &[1]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("child of `double`"), "{error}");
    }
    let resources = Resources::cpu(1.0);
    let mut large = options();
    large.memory_max = ByteSize::mib(1024);
    let refused = scheduler().processes(WorkOptions::new("double").resources(resources), large, 1);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ResourceExhausted);
}
