//! Replaying a log: the table's history, and the writes that its base does not hold.

use cenote_base::{Error, Result, Timestamp};

use crate::log::history::History;
use crate::log::{COLLECTED_TRIES, Frame, Log, LogLocation, Record};
use crate::version::Version;

/// The result of reading a log.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) history: History,
    /// The unfolded writes.
    pub(crate) rows: Vec<Frame>,
}

/// The result of reading the log from some segment to its end, or to some version.
struct LogScan {
    log: Log,
    /// The version from which on every write was seen.
    from: u64,
    replayed: Replayed,
}

/// Reads the log: the newest base, and the writes that it does not hold.
pub(crate) async fn replay(location: &LogLocation) -> Result<(Log, Replayed)> {
    let mut scanned = scan(location, u64::MAX, u64::MAX).await?;
    let mut folded = scanned.replayed.history.current()?.folded;
    if scanned.from > folded + 1 {
        scanned = scan(location, folded + 1, u64::MAX).await?;
        folded = scanned.replayed.history.current()?.folded;
    }
    if scanned.from > folded + 1 {
        let what = format!("the log in {} lacks the writes from version {}", scanned.log.name(), folded + 1);
        return Err(Error::corrupt(what));
    }
    scanned.replayed.rows.retain(|frame| frame.version > folded);
    Ok((scanned.log, scanned.replayed))
}

/// Reads the log up to `version`: the newest base that holds nothing newer, and the writes from there to `version`.
pub(crate) async fn replay_to(location: &LogLocation, version: Version) -> Result<Replayed> {
    let gone = || Error::not_found(format!("version {version} was collected"));
    let mut history = scan(location, u64::MAX, u64::MAX).await?.replayed.history;
    let mark = history.at(version).ok_or_else(gone)?;
    history.marks = vec![mark];
    if version.0 <= mark.folded {
        return Ok(Replayed { version: version.0, time: Timestamp(mark.time), history, rows: Vec::new() });
    }
    let mut scanned = scan(location, mark.folded + 1, version.0).await?;
    if scanned.from > mark.folded + 1 || scanned.replayed.version < version.0 {
        return Err(gone());
    }
    scanned.replayed.rows.retain(|frame| frame.version > mark.folded);
    Ok(Replayed { history, ..scanned.replayed })
}

async fn scan(location: &LogLocation, start: u64, end: u64) -> Result<LogScan> {
    for _ in 0..COLLECTED_TRIES {
        if let Some(scan) = try_scan(location, start, end).await? {
            return Ok(scan);
        }
    }
    Err(Log::open(location, start).await?.gap())
}

/// Reads the log from `start` to `end`; `None` when segments that it needs were collected meanwhile.
async fn try_scan(location: &LogLocation, start: u64, end: u64) -> Result<Option<LogScan>> {
    let mut log = Log::open(location, start).await?;
    let mut replayed = Replayed { version: 0, time: Timestamp(0), history: History::default(), rows: Vec::new() };
    let mut from = None;
    'log: loop {
        let frames = match log.read().await? {
            Some(frames) if !frames.is_empty() => frames,
            // The log after a tagged version may have been collected.
            None if replayed.version < end => return Ok(None),
            _ => break,
        };
        for frame in frames {
            if frame.version > end {
                break 'log;
            }
            replayed.version = replayed.version.max(frame.version);
            replayed.time = replayed.time.max(frame.time);
            match &frame.record {
                Record::Checkpoint(checkpoint) => {
                    from.get_or_insert(checkpoint.version + 1);
                    replayed.history = checkpoint.history.clone();
                }
                Record::Upsert(_) | Record::Delete(_) => replayed.rows.push(frame),
                Record::Base { mark, .. } => replayed.history.add(*mark),
                Record::Note(note) => replayed.history.note(note),
                Record::Keys { .. } | Record::Sealed(_) => {}
            }
        }
    }
    let missing = || Error::corrupt(format!("the log in {} does not begin with a checkpoint", log.name()));
    Ok(Some(LogScan { from: from.ok_or_else(missing)?, log, replayed }))
}
