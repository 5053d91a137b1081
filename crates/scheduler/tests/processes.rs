//! Child processes that are killed, hang, use too much memory and break the protocol. The child is this test program.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, ErrorKind};
use cenote_scheduler::{Cancel, ChildProcess, ProcessOptions, SiftedOutput, Value, serve_calls, sift};

const CHILD: &str = "CENOTE_TEST_CHILD";

/// Numbers that make the child misbehave. All other numbers are doubled.
const EXIT: i64 = -1;
const HANG: i64 = -2;
const EAT: i64 = -3;
const GARBAGE: i64 = -4;
const REFUSE: i64 = -5;
const LONG_FRAME: i64 = -6;
/// The child sends its answer a byte at a time, and is never silent for long.
const DRIP: i64 = -8;
/// The child answers with the number of calls before this one.
const COUNT: i64 = -7;
/// The child ends while a process that it forked, or started, holds the connection.
const LEAVE: i64 = -9;
/// The child answers a call that was not made.
const ANSWER_ANOTHER: i64 = -10;
/// A process that the child started uses too much memory.
const EAT_ELSEWHERE: i64 = -11;

#[test]
#[ignore = "the main function of the child, which the other tests run"]
fn child() {
    if std::env::var(CHILD).as_deref() != Ok("1") {
        return;
    }
    let mut calls = 0;
    let connection = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let connection = UnixStream::from(connection);
    let say = |bytes: &[u8]| (&connection).write_all(bytes).unwrap();
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
                GARBAGE => say(b"no frame at all, but longer than a header"),
                LONG_FRAME => say(&frame(2, 1 << 40)),
                ANSWER_ANOTHER => say(&frame(99, 0)),
                LEAVE => {
                    let held = connection.try_clone().unwrap();
                    Command::new("sleep").arg("1000").stdin(OwnedFd::from(held)).spawn().unwrap();
                    std::process::abort();
                }
                EAT_ELSEWHERE => {
                    let eat = "ulimit -v 4000000; exec tail /dev/zero";
                    Command::new("sh").args(["-c", eat]).stdout(Stdio::null()).status().unwrap();
                }
                DRIP => {
                    say(&frame(2, 1 << 24));
                    loop {
                        say(b"x");
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                }
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

/// Returns the header of an answer to `call` with `length` bytes of content.
fn frame(call: u64, length: u64) -> Vec<u8> {
    [&[3][..], &call.to_le_bytes(), &length.to_le_bytes()].concat()
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

fn call(child: &mut ChildProcess, input: &[i64]) -> cenote_base::Result<Vec<i64>> {
    child.call(&Value::Batch(batch(input)), &|| Ok(())).map(|value| numbers(value.batch().unwrap()))
}

#[test]
fn a_child_is_started_once_and_used_again() {
    let mut child = ChildProcess::new("double", options());
    let first = call(&mut child, &[0]).unwrap();
    for number in 1..20 {
        assert_eq!(call(&mut child, &[number, 0]).unwrap(), [number * 2, first[0]]);
    }
    let error = call(&mut child, &[REFUSE]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.message().contains("child of `double`: this number is refused"), "{error}");
    assert_eq!(call(&mut child, &[0]).unwrap(), first, "a refusal is an answer, and does not end the child");
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

#[test]
fn a_killed_child_is_replaced_by_the_next_call() {
    let mut child = ChildProcess::new("double", options());
    for _ in 0..3 {
        let pid = call(&mut child, &[0]).unwrap()[0];
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(killed.success());
        // The child may be gone before the call is sent, or be lost during the call.
        assert!(call(&mut child, &[21]).is_ok_and(|made| made == [42]) || call(&mut child, &[21]).unwrap() == [42]);
        assert_ne!(call(&mut child, &[0]).unwrap()[0], pid);
    }
}

#[test]
fn what_a_child_dies_of_is_said() {
    let mut quick = options();
    quick.call_max = Duration::from_millis(300);
    for (options, number, kind, text) in [
        (options(), EXIT, ErrorKind::Unavailable, "was lost (signal: 6"),
        (quick.clone(), DRIP, ErrorKind::ResourceExhausted, "it took longer than 300ms"),
        (quick, HANG, ErrorKind::ResourceExhausted, "it took longer than 300ms"),
        (options(), EAT, ErrorKind::ResourceExhausted, "of memory, more than 200 MiB"),
        (options(), GARBAGE, ErrorKind::Corrupt, "a frame cannot begin with the bytes"),
        (options(), LONG_FRAME, ErrorKind::Corrupt, "is longer than the limit"),
        (options(), LEAVE, ErrorKind::Unavailable, "was lost (signal: 6"),
        (options(), ANSWER_ANOTHER, ErrorKind::Corrupt, "it answered call 99 instead of call 2"),
        (options(), EAT_ELSEWHERE, ErrorKind::ResourceExhausted, "of memory, more than 200 MiB"),
    ] {
        let mut child = ChildProcess::new("double", options);
        let before = call(&mut child, &[0]).unwrap();
        let error = call(&mut child, &[5, number, 6]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("child of `double`") && error.message().contains(text), "{error}");
        assert!(!std::path::Path::new(&format!("/proc/{}", before[0])).exists(), "it was left behind");
        assert_ne!(call(&mut child, &[0]).unwrap(), before, "a new one goes on");
    }
}

#[tokio::test]
async fn the_rows_that_kill_children_are_found_and_set_aside() {
    let child = Mutex::new(ChildProcess::new("double", options()));
    let work = |rows| {
        let made = child.lock().call(&Value::Batch(rows), &|| Ok(())).and_then(|value| value.batch().cloned());
        std::future::ready(made)
    };
    let mut input: Vec<i64> = (1..=40).collect();
    (input[7], input[8], input[31]) = (EXIT, GARBAGE, REFUSE);
    let sifted = sift(&batch(&input), 3, work).await.unwrap();
    let bad: Vec<_> = sifted.bad.iter().map(|bad| (bad.row, bad.error.kind())).collect();
    assert_eq!(bad, [(7, ErrorKind::Unavailable), (8, ErrorKind::Corrupt), (31, ErrorKind::InvalidInput)]);
    let mut made = vec![None; input.len()];
    for SiftedOutput { rows, output } in &sifted.outputs {
        for (row, number) in rows.clone().zip(numbers(output)) {
            assert_eq!(made[row].replace(number), None, "row {row} came twice");
        }
    }
    for (row, number) in input.iter().enumerate() {
        assert_eq!(made[row], (*number > 0).then_some(number * 2), "row {row}");
    }
    let error = sift(&batch(&input), 2, work).await.unwrap_err();
    assert!(error.message().starts_with("row 31, after 2 bad rows"), "{error}");
}

#[test]
fn cancellation_kills_a_child_at_work() {
    let cancel = Cancel::default();
    let mut child = ChildProcess::new("double", options());
    let pid = call(&mut child, &[0]).unwrap()[0];
    let asked = std::sync::atomic::AtomicBool::new(false);
    // When the check is called for the second time, the child is at work.
    let check = || {
        if asked.swap(true, std::sync::atomic::Ordering::SeqCst) {
            cancel.cancel();
        }
        cancel.check()
    };
    let error = child.call(&Value::Batch(batch(&[HANG])), &check).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_program_that_is_not_a_child_is_noticed_at_the_start() {
    for (program, arguments, kind) in [
        ("/bin/true", vec![], ErrorKind::Unavailable),
        ("/nonexistent", vec![], ErrorKind::NotFound),
        ("/bin/sh", vec!["-c", "echo what is this protocol >&0"], ErrorKind::Corrupt),
    ] {
        let mut options = ProcessOptions::new(program);
        options.arguments = arguments.into_iter().map(Into::into).collect();
        let error = call(&mut ChildProcess::new("double", options), &[1]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("child of `double`"), "{error}");
    }
}
