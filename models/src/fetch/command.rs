//! Running programs of the system, with errors that tell a missing program from a failing one.

use std::io::{ErrorKind, Read};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use cenote_base::{Context, Error, Result};

/// Lines of a failed program's output that its error quotes, at most: the last ones, which state the reason.
const STDERR_LINES_MAX: usize = 8;

/// The longest time that a program may take: more than any download or conversion needs, so that a program that hangs
/// does not hang its caller for ever.
const RUN_MAX: Duration = Duration::from_secs(3600);

/// Returns the Python that fetches wheels and runs converters: `$CENOTE_PYTHON`, else `python3`.
pub(crate) fn python() -> Command {
    let program = std::env::var_os("CENOTE_PYTHON").filter(|value| !value.is_empty());
    Command::new(program.unwrap_or_else(|| "python3".into()))
}

/// Runs `command` to its end and returns its standard output.
///
/// `hint` says in the error what to do when the program is missing or fails.
///
/// # Errors
/// `Unsupported` when the program is not installed, `Unavailable` when it fails or takes longer than an hour.
pub(crate) fn run(command: &mut Command, hint: &str) -> Result<String> {
    run_within(command, RUN_MAX, hint)
}

fn run_within(command: &mut Command, time_max: Duration, hint: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match output(command, time_max) {
        Err(source) if source.kind() == ErrorKind::NotFound => {
            let what = format!("`{program}` cannot be run ({source}): install it, or {hint}");
            return Err(Error::unsupported(what).with_source(source));
        }
        output => output.context(|| format!("run `{program}`"))?,
    };
    let Some(output) = output else {
        let seconds = time_max.as_secs();
        return Err(Error::unavailable(format!("`{program}` was stopped after {seconds} s: {hint}")));
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(STDERR_LINES_MAX)..].join("\n  ");
    let command_line = format!("`{program} {}`", arguments.join(" "));
    Err(Error::unavailable(format!("{command_line} failed ({}): {hint}; it said\n  {tail}", output.status)))
}

/// Runs `command`, and stops it after `time_max`; `None` when it was stopped.
fn output(command: &mut Command, time_max: Duration) -> std::io::Result<Option<Output>> {
    let until = Instant::now() + time_max;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let left = || until.saturating_duration_since(Instant::now());
    let (Ok(stdout), Ok(stderr)) = (stdout.recv_timeout(left()), stderr.recv_timeout(left())) else {
        child.kill()?;
        return child.wait().map(|_| None);
    };
    Ok(Some(Output { status: child.wait()?, stdout: stdout?, stderr: stderr? }))
}

/// Reads a pipe to its end on a thread of its own: a program stalls when either of its pipes is full.
fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
        // Nobody waits for the end of a program that was stopped.
        let _ = sender.send(read.map(|_| bytes));
    });
    receiver
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::ErrorKind;

    use super::*;

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let error = run_within(Command::new("sleep").arg("3600"), Duration::ZERO, "try again").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.message(), "`sleep` was stopped after 0 s: try again");
    }

    #[test]
    fn missing_unusable_and_failing_programs_are_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let unusable = run(&mut Command::new(file.path()), "do without").unwrap_err();
        assert!(unusable.message().contains("denied") && !unusable.message().contains("install"), "{unusable}");
        let missing = run(&mut Command::new("cenote-no-such-program"), "do without").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Unsupported);
        assert!(missing.message().contains("install it, or do without"), "{missing}");
        let failing = run(Command::new("sh").args(["-c", "echo because >&2; exit 3"]), "try again").unwrap_err();
        assert_eq!(failing.kind(), ErrorKind::Unavailable);
        assert!(failing.message().contains("try again") && failing.message().contains("because"), "{failing}");
    }
}
