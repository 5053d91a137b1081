//! A timeline of *tries*, the attempts at running tasks, for `chrome://tracing` and Perfetto.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Result};
use tokio::time::Instant;

/// The newest tries, up to a limit on their bytes.
#[derive(Debug)]
pub(crate) struct Trace {
    since: Instant,
    bytes_max: u64,
    bytes: u64,
    tries: VecDeque<Try>,
}

/// One try of a task: where it ran, when, and how it ended.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    /// The name of the task. A try keeps nothing else of it alive.
    pub(crate) name: Arc<str>,
    pub(crate) thread: usize,
    pub(crate) began: Instant,
    pub(crate) service: Duration,
    pub(crate) attempt: u32,
    pub(crate) ended_well: bool,
}

/// A copy of the trace, which is written without holding the lock of the scheduler.
pub(crate) struct TraceSnapshot {
    since: Instant,
    tries: Vec<Try>,
}

impl Try {
    /// Returns the bytes that the try counts. A name that several tries share counts for each of them.
    fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.name.len()) as u64
    }
}

impl Trace {
    /// Creates a trace that keeps as many tries as fit into `bytes_max`.
    pub(crate) fn new(bytes_max: ByteSize, now: Instant) -> Self {
        Self { since: now, bytes_max: bytes_max.0, bytes: 0, tries: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, newest: Try) {
        if newest.bytes() > self.bytes_max {
            return;
        }
        self.bytes += newest.bytes();
        self.tries.push_back(newest);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.tries.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    pub(crate) fn snapshot(&self) -> TraceSnapshot {
        TraceSnapshot { since: self.since, tries: self.tries.iter().cloned().collect() }
    }
}

impl TraceSnapshot {
    /// Writes the tries as a JSON array in the Trace Event Format (Google, 2016), one complete event per try, with
    /// times in microseconds. `threads` holds the names of the threads by their index.
    pub(crate) fn write(&self, threads: &[String], to: &mut dyn Write) -> Result<()> {
        let names = threads.iter().enumerate().map(|(number, name)| {
            let name = quoted(name);
            format!(r#"{{"ph":"M","pid":1,"tid":{number},"name":"thread_name","args":{{"name":{name}}}}}"#)
        });
        let tries = self.tries.iter().map(|Try { name, thread, began, service, attempt, ended_well }| {
            let (name, start, micros) = (quoted(name), (*began - self.since).as_micros(), service.as_micros());
            let arguments = format!(r#"{{"attempt":{attempt},"ended_well":{ended_well}}}"#);
            let times = format!(r#""ts":{start},"dur":{micros}"#);
            format!(r#"{{"ph":"X","pid":1,"tid":{thread},{times},"name":{name},"args":{arguments}}}"#)
        });
        write!(to, "[")?;
        for (at, event) in names.chain(tries).enumerate() {
            write!(to, "{}\n{event}", if at == 0 { "" } else { "," })?;
        }
        writeln!(to, "\n]")?;
        Ok(())
    }
}

/// Returns `text` as a JSON string, with quotes, backslashes and control characters escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            // Writing to a string cannot fail.
            control if control < ' ' => drop(write!(quoted, "\\u{:04x}", control as u32)),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
