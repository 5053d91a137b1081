//! The parent's side: a child process that is started, called and killed at its limits.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cenote_base::{ByteSize, Context as _, Error, Result};

use super::frame::{
    FrameHeader, FrameKind, GREETING, HEADER_BYTES, ReceivedFrame, frame_header, object_content, parse_answer,
    parse_header,
};
use super::memory::{resident_bytes, tree_bytes};
use super::os;
use crate::objects::value::Value;

/// Interval at which the limits of a busy child are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Interval at which the memory of processes that a busy child started is counted, too.
const TREE_INTERVAL: Duration = Duration::from_millis(100);

/// A program that runs as a child, and the limits of the child. The program answers with
/// [`serve_calls`](crate::serve_calls), or speaks the same protocol.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// The program.
    pub program: PathBuf,
    /// The program's arguments.
    pub arguments: Vec<OsString>,
    /// Variables that are added to the child's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Resident memory of the child and of the processes that it starts. The child's is checked every 10 ms and the sum
    /// every 100 ms, so it may be exceeded for that long.
    pub memory_max: ByteSize,
    /// Time limit of one call.
    pub call_max: Duration,
    /// Time limit of the start, including the call with `first`.
    pub start_max: Duration,
    /// The input of a first call that sets every child up. The answer is dropped.
    pub first: Option<Value>,
}

impl ProcessOptions {
    /// Returns the settings for `program` without arguments, with 512 MiB, one minute for a call and 30 s to start.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            memory_max: ByteSize::mib(512),
            call_max: Duration::from_secs(60),
            start_max: Duration::from_secs(30),
            first: None,
        }
    }
}

/// A child process of a program. It is started when it is first needed, killed when it reaches a limit or when this is
/// dropped, and started anew by the next call. Processes that it starts are killed with it, unless they leave its
/// process group.
#[derive(Debug)]
pub struct ChildProcess {
    name: String,
    options: ProcessOptions,
    running: Option<RunningChild>,
}

#[derive(Debug)]
struct RunningChild {
    child: Child,
    connection: UnixStream,
    /// The number of calls so far.
    calls: u64,
    /// Whether it has been killed and waited for.
    is_over: bool,
}

/// A function that is called every [`CHECK_INTERVAL`] while a child is busy. An error ends the call, and the child.
type Check<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// The limits of one wait for a child.
struct CallLimits<'a> {
    check: Check<'a>,
    memory_max: ByteSize,
    time_max: Duration,
    until: Instant,
    checked: Cell<Instant>,
    counted: Cell<Instant>,
}

impl ChildProcess {
    /// Returns a child of the program in `options` that is not started yet. `name` names the child in errors.
    pub fn new(name: impl Into<String>, options: ProcessOptions) -> Self {
        Self { name: name.into(), options, running: None }
    }

    /// Starts the child, unless it runs. Blocks the thread and calls `check` every 10 ms; if `check` fails, the child
    /// is killed.
    ///
    /// # Errors
    /// The error of starting the program; those of [`call`](Self::call) for the first call; the error of `check`.
    pub fn start(&mut self, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        self.running = Some(self.take_running(check)?);
        Ok(())
    }

    /// Calls the child with `input` and returns its answer; starts the child first if it does not run. Blocks the
    /// thread and calls `check` every 10 ms; if `check` fails, the child is killed.
    ///
    /// # Errors
    /// The error that the child answers with; `Unavailable` when the child was lost during the call;
    /// `ResourceExhausted` when it was killed at a limit; `Corrupt` when it breaks the protocol; the error of `check`.
    pub fn call(&mut self, input: &Value, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<Value> {
        let content = object_content(input)?;
        let running = self.take_running(check)?;
        let limits = CallLimits::new(check, &self.options, self.options.call_max);
        let Answered { child, answer } = running.call(&self.name, &content, &limits)?;
        self.running = Some(child);
        answer
    }

    /// Takes the child out if it is alive, else starts one.
    fn take_running(&mut self, check: Check<'_>) -> Result<RunningChild> {
        if let Some(running) = self.running.take()
            && !os::has_ended(running.child.id())
        {
            return Ok(running);
        }
        RunningChild::start(&self.name, &self.options, check)
    }
}

/// A child that has answered a call, and its answer.
struct Answered {
    child: RunningChild,
    answer: Result<Value>,
}

impl RunningChild {
    fn start(name: &str, options: &ProcessOptions, check: Check<'_>) -> Result<Self> {
        let doing = || format!("start a child of `{name}`, {}", options.program.display());
        let (ours, theirs) = UnixStream::pair().context(doing)?;
        let child = Command::new(&options.program)
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::from(io::stderr()))
            .process_group(0)
            .spawn()
            .context(doing)?;
        let mut running = Self { child, connection: ours, calls: 0, is_over: false };
        let limits = CallLimits::new(check, options, options.start_max);
        let greet = |running: &mut Self| -> Result<()> {
            running.connection.set_read_timeout(Some(CHECK_INTERVAL))?;
            running.connection.set_write_timeout(Some(CHECK_INTERVAL))?;
            match running.receive(&limits)? {
                ReceivedFrame { kind: FrameKind::Greeting, content, .. } if content == GREETING => Ok(()),
                _ => Err(Error::corrupt("its first frame is not the greeting of this protocol")),
            }
        };
        if let Err(error) = greet(&mut running) {
            return Err(running.blame(error, name));
        }
        let Some(first) = &options.first else { return Ok(running) };
        let Answered { child, answer } = running.call(name, &object_content(first)?, &limits)?;
        answer.map(|_| child)
    }

    /// Makes one call.
    ///
    /// # Errors
    /// The error that the child was killed for.
    fn call(mut self, name: &str, content: &[u8], limits: &CallLimits<'_>) -> Result<Answered> {
        match self.exchange(content, limits) {
            Ok(answer) => {
                let answer = answer.map_err(|error| error.context(format!("child of `{name}`")));
                Ok(Answered { child: self, answer })
            }
            // What a child says after a failed exchange belongs to no call, so the child is killed.
            Err(error) => Err(self.blame(error, name)),
        }
    }

    /// Sends a call and receives the answer. The outer error is the end of the child, the inner one its answer.
    fn exchange(&mut self, content: &[u8], limits: &CallLimits<'_>) -> Result<Result<Value>> {
        self.calls += 1;
        let pid = self.child.id();
        for part in [&frame_header(FrameKind::Call, self.calls, content.len()), content] {
            let mut left = part;
            while !left.is_empty() {
                match self.connection.write(left) {
                    Ok(0) => return Err(ended()),
                    Ok(written) => left = &left[written..],
                    Err(error) => {
                        limits.expect_timeout(error)?;
                        // The connection stays open as long as a process that the child started holds it.
                        if os::has_ended(pid) {
                            return Err(ended());
                        }
                    }
                }
                limits.check_if_due(pid)?;
            }
        }
        parse_answer(&self.receive(limits)?, self.calls)
    }

    fn receive(&mut self, limits: &CallLimits<'_>) -> Result<ReceivedFrame> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header, limits)?;
        let FrameHeader { kind, call, length } = parse_header(&header, limits.memory_max.0)?;
        // The buffer grows as the content arrives, so that a wrong length costs nothing.
        let mut content = Vec::new();
        while (content.len() as u64) < length {
            let (received, next) = (content.len(), (length - content.len() as u64).min(1 << 20) as usize);
            content.resize(received + next, 0);
            self.fill(&mut content[received..], limits)?;
        }
        Ok(ReceivedFrame { kind, call, content })
    }

    fn fill(&mut self, mut to: &mut [u8], limits: &CallLimits<'_>) -> Result<()> {
        let pid = self.child.id();
        let mut has_ended = false;
        while !to.is_empty() {
            match self.connection.read(to) {
                Ok(0) => return Err(ended()),
                Ok(count) => to = &mut to[count..],
                Err(error) => {
                    limits.expect_timeout(error)?;
                    // It may have answered before it ended, so one more read follows.
                    if has_ended {
                        return Err(ended());
                    }
                    has_ended = os::has_ended(pid);
                }
            }
            limits.check_if_due(pid)?;
        }
        Ok(())
    }

    /// Kills the child and what it started, and returns how the child ended, which it may have done before.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if !self.is_over {
            // Once the child has been waited for, its number may be given to another process.
            self.is_over = true;
            os::kill_group(self.child.id());
        }
        self.child.wait()
    }

    /// Kills the child, and adds to `error` how the child ended.
    fn blame(mut self, error: Error, name: &str) -> Error {
        // A child that closes the connection is about to end, and its exit status says more than a kill would.
        let by_itself = error.kind() == cenote_base::ErrorKind::Unavailable;
        let until = Instant::now() + CHECK_INTERVAL * 10;
        let pid = self.child.id();
        while by_itself && !os::has_ended(pid) && Instant::now() < until {
            std::thread::yield_now();
        }
        let has_ended = os::has_ended(pid);
        match self.end() {
            Ok(status) if by_itself && has_ended => error.context(format!("child of `{name}` was lost ({status})")),
            _ => error.context(format!("child of `{name}` was killed")),
        }
    }
}

impl Drop for RunningChild {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl<'a> CallLimits<'a> {
    fn new(check: Check<'a>, options: &ProcessOptions, time_max: Duration) -> Self {
        let now = Instant::now();
        let (checked, counted) = (Cell::new(now), Cell::new(now));
        Self { check, memory_max: options.memory_max, time_max, until: now + time_max, checked, counted }
    }

    /// Passes over `error`, of a read or write, if it says only that the child is busy.
    ///
    /// # Errors
    /// The end of the child; an error of the connection.
    fn expect_timeout(&self, error: io::Error) -> Result<()> {
        match error.kind() {
            Io::WouldBlock | Io::TimedOut | Io::Interrupted => Ok(()),
            Io::BrokenPipe | Io::ConnectionReset => Err(ended()),
            _ => Err(Error::from(error).context("talk to the child")),
        }
    }

    /// Checks the limits, unless that was done less than [`CHECK_INTERVAL`] ago: a child that goes on sending is under
    /// them too.
    ///
    /// # Errors
    /// The reason to stop waiting.
    fn check_if_due(&self, pid: u32) -> Result<()> {
        if self.checked.get().elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        self.checked.set(Instant::now());
        (self.check)()?;
        if Instant::now() > self.until {
            return Err(Error::resource_exhausted(format!("it took longer than {:?}", self.time_max)));
        }
        let bytes = match self.counted.get().elapsed() < TREE_INTERVAL {
            true => resident_bytes(pid).unwrap_or(0),
            false => {
                self.counted.set(Instant::now());
                tree_bytes(pid, self.memory_max.0)
            }
        };
        if bytes > self.memory_max.0 {
            let text = format!("it had {} of memory, more than {}", ByteSize(bytes), self.memory_max);
            return Err(Error::resource_exhausted(text));
        }
        Ok(())
    }
}

/// Makes the error for a child that has ended.
fn ended() -> Error {
    Error::unavailable("it ended")
}
