//! The child's side: a program that answers calls of a parent process.

use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use cenote_base::{Context as _, Result};

use super::frame::{
    FrameKind, GREETING, ReceivedFrame, failure_content, object_content, parse_call, read_frame, write_frame,
};
use super::os;
use crate::objects::value::Value;

/// Answers calls until the parent closes the connection: all that the `main` of a child has to do. A parent that ends
/// during a call ends this process, too.
///
/// Standard input is the connection, and is empty from then on: a process that `work` starts does not inherit the
/// connection. Standard output and standard error both go to the parent's standard error, so the program may print
/// freely.
///
/// A connection that ends inside a frame counts as closed.
///
/// # Errors
/// `Corrupt` when the parent breaks the protocol; the error of reading or writing, such as that of a standard input
/// that is not a connection to a parent.
pub fn serve_calls(mut work: impl FnMut(&Value) -> Result<Value>) -> Result<()> {
    let connection = io::stdin().as_fd().try_clone_to_owned().context(|| "take standard input")?;
    os::empty_stdin()?;
    let mut to = UnixStream::from(connection);
    let from = BufReader::new(to.try_clone()?);
    let served_by = std::process::id();
    write_frame(&mut to, FrameKind::Greeting, 0, GREETING).context(|| "greet the parent")?;
    let calls = receive(from)?;
    while let Ok(call) = calls.frames.recv() {
        let call = call?;
        let input = parse_call(&call)?;
        let output = work(&input).and_then(|value| object_content(&value));
        // The work forked: only the process that was called answers, or each later call would get an earlier answer.
        if std::process::id() != served_by {
            return Ok(());
        }
        calls.is_busy.store(false, Ordering::SeqCst);
        match output {
            Ok(content) => write_frame(&mut to, FrameKind::Answer, call.call, &content)?,
            Err(error) => write_frame(&mut to, FrameKind::Failure, call.call, &failure_content(&error))?,
        }
    }
    Ok(())
}

/// The calls of a parent, which a thread of its own receives.
struct Calls {
    /// The calls, until the parent closes the connection.
    frames: Receiver<Result<ReceivedFrame>>,
    /// Whether a call has arrived that is not answered yet.
    is_busy: Arc<AtomicBool>,
}

/// Receives calls on a thread, which ends this process if the parent ends while a call is not answered: nobody would
/// receive the answer, and the work may take for ever.
fn receive(mut from: BufReader<UnixStream>) -> Result<Calls> {
    // The parent makes one call at a time.
    let (sender, frames): (SyncSender<Result<ReceivedFrame>>, _) = sync_channel(1);
    let is_busy = Arc::new(AtomicBool::new(false));
    let calls = Calls { frames, is_busy: Arc::clone(&is_busy) };
    let receive = move || {
        while let Some(call) = read_frame(&mut from).transpose() {
            is_busy.store(true, Ordering::SeqCst);
            if sender.send(call).is_err() {
                return;
            }
        }
        if is_busy.load(Ordering::SeqCst) {
            os::kill_group(std::process::id());
        }
    };
    std::thread::Builder::new().name("cenote-calls".to_owned()).spawn(receive).context(|| "start a thread")?;
    Ok(calls)
}
