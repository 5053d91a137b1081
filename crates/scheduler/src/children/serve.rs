//! The child's side: a program that answers calls of a parent process.

use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use cenote_base::{Context as _, Result};

use super::frame::{FrameKind, GREETING, failure_content, object_content, parse_call, read_frame, write_frame};
use crate::objects::value::Value;

/// Answers calls until the parent closes the connection: all that the `main` of a child has to do. Standard input is
/// the connection. Standard output and standard error both go to the parent's standard error, so the program may print
/// freely.
///
/// A connection that ends inside a frame counts as closed.
///
/// # Errors
/// `Corrupt` when the parent breaks the protocol; the error of reading or writing, such as that of a standard input
/// that is not a connection to a parent.
pub fn serve_calls(mut work: impl FnMut(&Value) -> Result<Value>) -> Result<()> {
    let connection = io::stdin().as_fd().try_clone_to_owned().context(|| "take standard input")?;
    let mut to = UnixStream::from(connection);
    let mut from = BufReader::new(to.try_clone()?);
    let served_by = std::process::id();
    write_frame(&mut to, FrameKind::Greeting, GREETING).context(|| "greet the parent")?;
    while let Some(call) = read_frame(&mut from)? {
        let input = parse_call(&call)?;
        let output = work(&input).and_then(|value| object_content(&value));
        // The work forked: only the process that was called answers, or each later call would get an earlier answer.
        if std::process::id() != served_by {
            return Ok(());
        }
        match output {
            Ok(content) => write_frame(&mut to, FrameKind::Answer, &content)?,
            Err(error) => write_frame(&mut to, FrameKind::Failure, &failure_content(&error))?,
        }
    }
    Ok(())
}
