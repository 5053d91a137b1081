//! Running programs of the system, with errors that tell a missing program from a failing one.

use std::process::{Command, Stdio};

use cenote_base::{Error, Result};

/// Lines of a failed program's output that its error quotes, at most: the last ones, which state the reason.
const STDERR_LINES_MAX: usize = 8;

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
/// `Unsupported` when the program is not installed, `Unavailable` when it fails.
pub(crate) fn run(command: &mut Command, hint: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|source| {
        Error::unsupported(format!("`{program}` cannot be run ({source}): install it, or {hint}")).with_source(source)
    })?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::ErrorKind;

    use super::*;

    #[test]
    fn a_missing_and_a_failing_program_are_told_apart() {
        let missing = run(&mut Command::new("cenote-no-such-program"), "do without").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Unsupported);
        assert!(missing.message().contains("install it, or do without"), "{missing}");
        let failing = run(Command::new("sh").args(["-c", "echo because >&2; exit 3"]), "try again").unwrap_err();
        assert_eq!(failing.kind(), ErrorKind::Unavailable);
        assert!(failing.message().contains("try again") && failing.message().contains("because"), "{failing}");
    }
}
