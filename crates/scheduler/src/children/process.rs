//! Work in child processes, for code that may crash, hang or eat memory.

use std::ffi::OsString;
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cenote_base::{ByteSize, Context as _, Error, Result};

use crate::children::frame::{FrameKind, GREETING, HEADER_BYTES, content_of, outcome, parse_header, write_frame};
use crate::objects::value::Value;

/// How often a busy child is looked after.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// A program that runs as a child, and its limits. It answers with [`serve_calls`](crate::serve_calls) or speaks the
/// same.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables added to its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Resident memory that it may have. It is looked at every 10 ms, so a child may have more for as long.
    pub memory_max: ByteSize,
    /// How long one call may take.
    pub call_max: Duration,
    /// How long it may take to start, the first call included.
    pub start_max: Duration,
    /// What every child is called with first, to set itself up; its answer is dropped.
    pub first: Option<Value>,
}

impl ProcessOptions {
    /// `program` without arguments, with 512 MiB, a minute for a call and 30 s to start.
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

/// One child process of a program: started when it is first needed, killed at its limits or when this is dropped, and
/// started anew.
#[derive(Debug)]
pub struct ChildProcess {
    name: String,
    options: ProcessOptions,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    connection: UnixStream,
}

/// Asked again and again during a call: an error ends it, and the child.
type Check<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// What ends waiting for a child.
struct Limits<'a> {
    check: Check<'a>,
    memory_max: ByteSize,
    time_max: Duration,
    until: Instant,
}

impl ChildProcess {
    /// A child of the program that `options` name, not started yet; `name` is whose it is, for errors.
    pub fn new(name: impl Into<String>, options: ProcessOptions) -> Self {
        Self { name: name.into(), options, running: None }
    }

    /// Starts the child, unless it runs. Blocks the thread, asking `check` every 10 ms whether to wait on.
    ///
    /// # Errors
    /// When it cannot be started, those of [`call`](Self::call) for its first call, and that of `check`.
    pub fn start(&mut self, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        let alive = |mut running: Running| matches!(running.child.try_wait(), Ok(None)).then_some(running);
        self.running = match self.running.take().and_then(alive) {
            Some(running) => Some(running),
            None => Some(Running::start(&self.name, &self.options, check)?),
        };
        Ok(())
    }

    /// What the child makes of `input`; it is started if it does not run. Blocks the thread, asking `check` every 10 ms
    /// whether to wait on; if not, the child is killed.
    ///
    /// # Errors
    /// What the child says; `Unavailable` when it was lost during the call; `ResourceExhausted` when it was killed at a
    /// limit; `Corrupt` when it does not keep to the protocol; and that of `check`.
    pub fn call(&mut self, input: &Value, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<Value> {
        let content = content_of(input)?;
        self.start(check)?;
        let running = self.running.take().ok_or_else(|| Error::internal("the child that was started is gone"))?;
        let limits = Limits::new(check, &self.options, self.options.call_max);
        let (running, outcome) = running.call(&self.name, &content, &limits)?;
        self.running = Some(running);
        outcome
    }
}

impl Running {
    fn start(name: &str, options: &ProcessOptions, check: Check<'_>) -> Result<Self> {
        let doing = || format!("start a child of `{name}`, {}", options.program.display());
        let (ours, theirs) = UnixStream::pair().context(doing)?;
        let child = Command::new(&options.program)
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::from(io::stderr()))
            .spawn()
            .context(doing)?;
        let mut running = Self { child, connection: ours };
        let limits = Limits::new(check, options, options.start_max);
        let greet = |running: &mut Self| -> Result<()> {
            running.connection.set_read_timeout(Some(LOOK_AFTER))?;
            running.connection.set_write_timeout(Some(LOOK_AFTER))?;
            match running.receive(&limits)? {
                (FrameKind::Greeting, content) if content == GREETING => Ok(()),
                (kind, _) => Err(Error::corrupt(format!("its first word was {kind:?} and should be its greeting"))),
            }
        };
        if let Err(error) = greet(&mut running) {
            return Err(running.blame(error, name));
        }
        let Some(first) = &options.first else { return Ok(running) };
        let (running, outcome) = running.call(name, &content_of(first)?, &limits)?;
        outcome.map(|_| running)
    }

    /// One call. The outer error is the child's end, the inner one its answer.
    fn call(mut self, name: &str, content: &[u8], limits: &Limits<'_>) -> Result<(Self, Result<Value>)> {
        match self.exchange(content, limits) {
            Ok(outcome) => Ok((self, outcome.map_err(|error| error.context(format!("child of `{name}`"))))),
            // Dropping it kills it: nobody knows what it would say next.
            Err(error) => Err(self.blame(error, name)),
        }
    }

    /// Sends and receives. The outer error is the child's end, the inner one its answer.
    fn exchange(&mut self, content: &[u8], limits: &Limits<'_>) -> Result<Result<Value>> {
        let (pid, mut sent) = (self.child.id(), Vec::with_capacity(HEADER_BYTES));
        write_frame(&mut sent, FrameKind::Call, &[])?;
        sent[1..].copy_from_slice(&(content.len() as u64).to_le_bytes());
        for part in [&sent, content] {
            let mut left = part;
            while !left.is_empty() {
                match self.connection.write(left) {
                    Ok(written) => left = &left[written..],
                    Err(error) => limits.go_on_after(error, pid)?,
                }
            }
        }
        let (kind, content) = self.receive(limits)?;
        outcome(kind, &content)
    }

    fn receive(&mut self, limits: &Limits<'_>) -> Result<(FrameKind, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header, limits)?;
        let (kind, length) = parse_header(&header, limits.memory_max.0)?;
        // Grown as it arrives, so that a false length costs nothing.
        let mut content = Vec::new();
        while (content.len() as u64) < length {
            let (have, piece) = (content.len(), (length - content.len() as u64).min(1 << 20) as usize);
            content.resize(have + piece, 0);
            self.fill(&mut content[have..], limits)?;
        }
        Ok((kind, content))
    }

    fn fill(&mut self, mut to: &mut [u8], limits: &Limits<'_>) -> Result<()> {
        while !to.is_empty() {
            match self.connection.read(to) {
                Ok(0) => return Err(Error::unavailable("it ended")),
                Ok(count) => to = &mut to[count..],
                Err(error) => limits.go_on_after(error, self.child.id())?,
            }
        }
        Ok(())
    }

    /// Kills the child and says how it ended.
    fn blame(mut self, error: Error, name: &str) -> Error {
        // A child that breaks off by itself is about to end: its own status says more than ours would.
        let by_itself = error.kind() == cenote_base::ErrorKind::Unavailable;
        let until = Instant::now() + LOOK_AFTER * 10;
        let mut ended = self.child.try_wait();
        while by_itself && matches!(ended, Ok(None)) && Instant::now() < until {
            std::thread::yield_now();
            ended = self.child.try_wait();
        }
        let how = |status: ExitStatus| format!("child of `{name}` was lost ({status})");
        match ended {
            Ok(Some(status)) if by_itself => error.context(how(status)),
            _ => error.context(format!("child of `{name}` was killed")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; either way it is reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Limits<'a> {
    fn new(check: Check<'a>, options: &ProcessOptions, time_max: Duration) -> Self {
        Self { check, memory_max: options.memory_max, time_max, until: Instant::now() + time_max }
    }

    /// Whether to wait on after `error`, which may be no more than the time to look after the child.
    fn go_on_after(&self, error: io::Error, pid: u32) -> Result<()> {
        match error.kind() {
            Io::WouldBlock | Io::TimedOut | Io::Interrupted => {}
            Io::BrokenPipe | Io::ConnectionReset => return Err(Error::unavailable("it ended")),
            _ => return Err(Error::from(error).context("talk to it")),
        }
        (self.check)()?;
        if Instant::now() > self.until {
            return Err(Error::resource_exhausted(format!("it took longer than {:?}", self.time_max)));
        }
        match resident_bytes(pid) {
            Some(bytes) if bytes > self.memory_max.0 => {
                let text = format!("it had {} of memory, more than {}", ByteSize(bytes), self.memory_max);
                Err(Error::resource_exhausted(text))
            }
            _ => Ok(()),
        }
    }
}

/// Resident memory of a process, `None` when it is gone.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
