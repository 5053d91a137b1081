//! What a process does to files, as `strace` sees it: the system calls of all its code, including Lance.

use std::collections::HashMap;
use std::io::BufRead;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The calls that change files or sync them. A call that the trace cannot interpret fails the test.
const CALLS: &str = "?creat,openat,?openat2,write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,\
    copy_file_range,sendfile,splice,?rename,renameat,renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?mkdir,\
    mkdirat,?rmdir,fsync,fdatasync,sync,syncfs,sync_file_range,msync";

/// A change to a file, or a mark.
#[derive(Debug)]
pub enum Event {
    /// A file is opened, which may exist already.
    Create {
        path: PathBuf,
        truncate: bool,
    },
    Directory(PathBuf),
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Resize {
        path: PathBuf,
        length: usize,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    /// A file or an empty directory is removed.
    Unlink(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// A thread begins to sync a file or a directory.
    SyncStart {
        thread: u32,
        path: PathBuf,
    },
    SyncEnd {
        thread: u32,
    },
    /// The process looked for a file called `mark-` and this number.
    Mark(usize),
}

impl Event {
    /// Describes the event, for messages.
    pub fn summary(&self) -> String {
        match self {
            Self::Write { path, at, bytes } => format!("write of {} bytes at {at} of {}", bytes.len(), path.display()),
            other => format!("{other:?}"),
        }
    }
}

/// Marks in the trace of this process that something is done. `root` is the directory that is traced.
pub fn mark(root: &Path, number: usize) {
    drop(std::fs::File::open(root.join(format!("mark-{number}"))));
}

/// Returns whether processes can be traced here.
pub fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "true"]).output();
    traced.is_ok_and(|output| output.status.success())
}

/// Runs `test` of this binary, with `variable` set, and records what it does to files below `root` until it ends or
/// aborts.
pub fn record(test: &str, variable: (&str, &str), root: &Path) -> Vec<Event> {
    let output = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("strace")
        .args(["-f", "-qq", "-y", "-x", "--seccomp-bpf", "-s", "1000000000", "-e", "signal=none"])
        .args(["-e", &format!("trace={CALLS}"), "-o"])
        .arg(output.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable.0, variable.1)
        .status()
        .unwrap();
    assert!(status.success() || status.signal() == Some(libc::SIGABRT), "the recorded process failed: {status}");
    let mut trace = Trace { root: root.to_owned(), ..Trace::default() };
    for line in std::io::BufReader::new(output.as_file()).lines() {
        trace.read(&line.unwrap());
    }
    trace.events
}

#[derive(Default)]
struct Trace {
    root: PathBuf,
    events: Vec<Event>,
    /// The calls that threads have begun and not ended, as printed so far.
    unfinished: HashMap<u32, String>,
    /// The position of the next write to each open file.
    positions: HashMap<u32, usize>,
}

impl Trace {
    /// Parses a line, which is a call, the beginning of a call, or the rest of one.
    fn read(&mut self, line: &str) {
        let (thread, line) = line.trim_start().split_once(' ').unwrap();
        let (thread, line) = (thread.parse().unwrap(), line.trim_start());
        if line.starts_with("+++") || line.starts_with("---") {
            return;
        }
        if let Some(begun) = line.strip_suffix("<unfinished ...>") {
            self.begin(thread, begun);
            self.unfinished.insert(thread, begun.trim_end().to_owned());
        } else if line.starts_with("<... ") {
            let rest = line.split_once(" resumed>").unwrap().1;
            let whole = self.unfinished.remove(&thread).unwrap() + rest;
            self.end(thread, &whole);
        } else {
            self.begin(thread, line);
            self.end(thread, line);
        }
    }

    /// Records that a sync began: it makes durable what exists at that time.
    fn begin(&mut self, thread: u32, call: &str) {
        if let Some(arguments) = call.strip_prefix("fsync(").or_else(|| call.strip_prefix("fdatasync(")) {
            let (_, path) = descriptor(arguments);
            self.events.push(Event::SyncStart { thread, path });
        }
    }

    /// Records a call that ended. Everything except a sync takes effect then.
    fn end(&mut self, thread: u32, call: &str) {
        let (name, rest) = call.split_once('(').unwrap();
        let (arguments, result) = rest.rsplit_once(" = ").unwrap();
        let arguments = arguments.trim_end().strip_suffix(')').unwrap();
        let result = result.split(['<', ' ']).next().unwrap();
        let Ok(result) = result.parse::<usize>() else {
            let missed = strings(arguments).into_iter().next().map(PathBuf::from);
            let number =
                missed.as_ref().and_then(|path| path.file_name()?.to_str()?.strip_prefix("mark-")?.parse().ok());
            if name == "openat"
                && let Some(number) = number
            {
                self.events.push(Event::Mark(number));
            }
            return;
        };
        // Paths are parsed separately, so that they are not taken for bytes.
        let paths = || paths(arguments);
        let mut add = |event: Event| self.events.push(event);
        match name {
            "openat" | "creat" => {
                let path = paths().remove(0);
                self.positions.insert(u32::try_from(result).unwrap(), 0);
                assert!(!arguments.contains("O_TMPFILE") || !path.starts_with(&self.root), "{call}");
                assert!(!arguments.contains("O_APPEND") || !path.starts_with(&self.root), "{call}");
                if name == "creat" || arguments.contains("O_CREAT") || arguments.contains("O_TRUNC") {
                    add(Event::Create { path, truncate: name == "creat" || arguments.contains("O_TRUNC") });
                }
            }
            "lseek" => drop(self.positions.insert(descriptor(arguments).0, result)),
            "write" | "writev" | "pwrite64" => {
                let (number, path) = descriptor(arguments);
                let at = match name {
                    "pwrite64" => arguments.rsplit_once(", ").unwrap().1.parse().unwrap(),
                    _ => *self.positions.get(&number).unwrap_or(&0),
                };
                if name != "pwrite64" {
                    self.positions.insert(number, at + result);
                }
                if path.starts_with(&self.root) {
                    let mut bytes: Vec<u8> = byte_strings(arguments).concat();
                    bytes.truncate(result);
                    assert_eq!(bytes.len(), result, "{}", &call[..call.len().min(200)]);
                    self.events.push(Event::Write { path, at, bytes });
                }
            }
            "ftruncate" => {
                let length = arguments.rsplit_once(", ").unwrap().1.parse().unwrap();
                add(Event::Resize { path: descriptor(arguments).1, length });
            }
            "mkdir" | "mkdirat" => add(Event::Directory(paths().remove(0))),
            "unlink" | "unlinkat" | "rmdir" => add(Event::Unlink(paths().remove(0))),
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let [from, to] = <[PathBuf; 2]>::try_from(paths()).unwrap();
                add(if name.starts_with("rename") { Event::Rename { from, to } } else { Event::Link { from, to } });
            }
            "fsync" | "fdatasync" => add(Event::SyncEnd { thread }),
            _ => assert!(!arguments.contains(self.root.to_str().unwrap()), "not modelled: {call}"),
        }
    }
}

/// Returns the number and the path of the open file that `arguments` begin with; an empty path if it was removed.
fn descriptor(arguments: &str) -> (u32, PathBuf) {
    let (number, rest) = arguments.split_once('<').unwrap_or((arguments, ""));
    let number = number.split([',', ')']).next().unwrap().parse().unwrap_or(u32::MAX);
    let (path, rest) = rest.split_once('>').unwrap_or(("", ""));
    let path = if rest.starts_with("(deleted)") { "" } else { path };
    (number, String::from_utf8(unescape(path)).unwrap().into())
}

/// Returns the paths among `arguments`, with those relative to an open directory made absolute.
fn paths(arguments: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directory = PathBuf::new();
    let mut rest = arguments;
    while let Some(at) = rest.find(['<', '"']) {
        let close = if rest[at..].starts_with('<') { '>' } else { '"' };
        let text = &rest[at + 1..];
        let end = text.find(close).unwrap();
        let path = PathBuf::from(String::from_utf8(unescape(&text[..end])).unwrap());
        match close {
            '>' => directory = path,
            _ => found.push(directory.join(path)),
        }
        rest = &text[end + 1..];
    }
    found
}

fn strings(arguments: &str) -> Vec<String> {
    byte_strings(arguments).into_iter().filter_map(|bytes| String::from_utf8(bytes).ok()).collect()
}

/// Returns the strings among `arguments`.
fn byte_strings(arguments: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = arguments;
    while let Some(start) = rest.find('"') {
        let text = &rest[start + 1..];
        let mut end = 0;
        while text.as_bytes()[end] != b'"' {
            end += if text.as_bytes()[end] == b'\\' { 2 } else { 1 };
        }
        found.push(unescape(&text[..end]));
        rest = &text[end + 1..];
    }
    found
}

/// Returns the bytes that `text`, which is escaped as in C, stands for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'\\' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = |count: usize, radix: u32| {
            let digits = std::str::from_utf8(&tail[..count]).unwrap();
            u8::from_str_radix(digits, radix).unwrap()
        };
        let (byte, length) = match tail[0] {
            b'x' => (u8::from_str_radix(std::str::from_utf8(&tail[1..3]).unwrap(), 16).unwrap(), 3),
            b'n' => (b'\n', 1),
            b't' => (b'\t', 1),
            b'r' => (b'\r', 1),
            b'v' => (0x0b, 1),
            b'f' => (0x0c, 1),
            b'0'..=b'7' => {
                let count = tail.iter().take(3).take_while(|digit| (b'0'..=b'7').contains(digit)).count();
                (digits(count, 8), count)
            }
            other => (other, 1),
        };
        bytes.push(byte);
        rest = &tail[length..];
    }
    bytes
}
