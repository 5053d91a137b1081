//! The child's side: a program that works for a scheduler in another process.

use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use cenote_base::{Context as _, Result};

use crate::children::frame::{FrameKind, GREETING, content_of, failure_content, outcome, read_frame, write_frame};
use crate::objects::value::Value;

/// Answers calls until the parent has no more: the whole of a child's `main`. Standard input is the connection; standard output and
/// standard error are the parent's standard error, so the program may print what it likes.
///
/// # Errors
/// When standard input is no connection to a parent, or breaks.
pub fn serve_calls(mut work: impl FnMut(&Value) -> Result<Value>) -> Result<()> {
    let connection = io::stdin().as_fd().try_clone_to_owned().context(|| "take standard input")?;
    let mut to = UnixStream::from(connection);
    let mut from = BufReader::new(to.try_clone()?);
    write_frame(&mut to, FrameKind::Greeting, GREETING).context(|| "greet the parent")?;
    while let Some((kind, content)) = read_frame(&mut from)? {
        // A call is an answer of the parent's: the same content, the other way.
        let input = if kind == FrameKind::Call { FrameKind::Answer } else { kind };
        let made = outcome(input, &content)?.and_then(|value| work(&value)).and_then(|value| content_of(&value));
        match made {
            Ok(content) => write_frame(&mut to, FrameKind::Answer, &content)?,
            Err(error) => write_frame(&mut to, FrameKind::Failure, &failure_content(&error))?,
        }
    }
    Ok(())
}
