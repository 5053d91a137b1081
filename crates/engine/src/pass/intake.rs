//! How much of a pass is at work at once: pieces of bounded size, as many as fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use cenote_scheduler::{Held, Receiver};
use cenote_store::fixed_bytes;

use super::read::Chunk;
use crate::plan::PlannedStep;

/// What a pass makes of a row, in bytes: of outputs of one size known before, of others as measured so far.
#[derive(Debug)]
pub(crate) struct RowBytes {
    fixed: u64,
    /// The most of any piece; 0 before the first has ended.
    measured: AtomicU64,
}

impl RowBytes {
    pub(crate) fn of(steps: &[Arc<PlannedStep>]) -> Arc<Self> {
        let outputs = steps.iter().flat_map(|step| &step.outputs);
        let fixed = outputs.map(|output| fixed_bytes(output.data_type())).sum();
        Arc::new(Self { fixed, measured: AtomicU64::new(0) })
    }

    /// Notes what became of a piece of `rows` rows.
    pub(crate) fn note<'a>(&self, made: impl IntoIterator<Item = &'a RecordBatch>, rows: usize) {
        let bytes: usize = made.into_iter().map(RecordBatch::get_array_memory_size).sum();
        self.measured.fetch_max((bytes / rows.max(1)) as u64, Ordering::Relaxed);
    }

    /// Whether a piece has been measured.
    pub(crate) fn is_known(&self) -> bool {
        self.measured.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn expected(&self) -> u64 {
        self.fixed.max(self.measured.load(Ordering::Relaxed))
    }

    /// What a row takes whatever it is made from.
    pub(crate) fn least(&self) -> u64 {
        self.fixed
    }
}

/// The pieces that a pass takes in, as long as those at work, with what they make, hold no more than agreed. One that
/// is larger goes alone.
pub(crate) struct Intake {
    pieces: Receiver<Chunk>,
    row_bytes: Arc<RowBytes>,
    waiting: Option<Held<Chunk>>,
    is_open: bool,
    at_work: usize,
    at_work_max: usize,
    bytes: u64,
    bytes_max: u64,
}

impl Intake {
    pub(crate) fn new(pieces: Receiver<Chunk>, row_bytes: Arc<RowBytes>, at_work_max: usize, bytes_max: u64) -> Self {
        let (waiting, is_open) = (None, true);
        Self { pieces, row_bytes, waiting, is_open, at_work: 0, at_work_max, bytes: 0, bytes_max }
    }

    /// Whether there may be another piece, or some are at work.
    pub(crate) fn goes_on(&self) -> bool {
        self.is_open || self.waiting.is_some() || self.at_work > 0
    }

    /// Whether to ask for [`next`](Self::next).
    pub(crate) fn has_room(&self) -> bool {
        match &self.waiting {
            Some(waiting) => self.fits(waiting),
            None => self.is_open && self.at_work < self.at_work_max,
        }
    }

    /// The next piece to begin, and what it counts until it is [`done`](Self::done). `None` when there is none yet or
    /// any more, which [`goes_on`](Self::goes_on) tells apart. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<(Held<Chunk>, u64)> {
        if self.waiting.is_none() {
            self.waiting = self.pieces.recv().await;
            self.is_open = self.waiting.is_some();
        }
        let piece = self.waiting.take()?;
        if !self.fits(&piece) {
            self.waiting = Some(piece);
            return None;
        }
        let bytes = self.bytes_of(&piece);
        self.bytes += bytes;
        self.at_work += 1;
        Some((piece, bytes))
    }

    /// A piece that counted `bytes` is done.
    pub(crate) fn done(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.at_work -= 1;
    }

    fn fits(&self, piece: &Chunk) -> bool {
        self.at_work == 0 || (self.at_work < self.at_work_max && self.bytes + self.bytes_of(piece) <= self.bytes_max)
    }

    fn bytes_of(&self, piece: &Chunk) -> u64 {
        piece.rows.get_array_memory_size() as u64 + piece.row_ids.len() as u64 * self.row_bytes.expected()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, UInt8Array};
    use cenote_scheduler::byte_queue;

    use super::*;

    fn piece(bytes: usize) -> Chunk {
        let column: ArrayRef = Arc::new(UInt8Array::from(vec![0; bytes]));
        let rows = RecordBatch::try_from_iter([("byte", column)]).unwrap();
        Chunk { row_ids: vec![0], rows, too_large: Vec::new() }
    }

    #[tokio::test]
    async fn pieces_at_work_hold_no_more_than_agreed_with_what_they_make() {
        let (sender, receiver) = byte_queue(1 << 30);
        let row_bytes = Arc::new(RowBytes { fixed: 500, measured: AtomicU64::new(0) });
        let one = piece(1000).rows.get_array_memory_size() as u64 + 500;
        let mut intake = Intake::new(receiver, row_bytes, 9, 3 * one);
        for bytes in [1000, 1000, 1000, 1000, 100_000] {
            sender.send(piece(bytes), 1).await.unwrap();
        }
        drop(sender);
        let mut at_work = Vec::new();
        while intake.has_room() {
            at_work.extend(intake.next().await);
        }
        assert_eq!(at_work.len(), 3);
        assert!(intake.goes_on() && intake.next().await.is_none());
        // The large one waits until all others are done.
        for left in [3, 2, 1] {
            let (_, bytes) = at_work.pop().unwrap();
            intake.done(bytes);
            if intake.has_room() {
                at_work.extend(intake.next().await);
            }
            assert_eq!(at_work.len(), left);
        }
        at_work.drain(..).for_each(|(_, bytes)| intake.done(bytes));
        let (_, bytes) = intake.next().await.unwrap();
        assert!(bytes > 3 * one);
        intake.done(bytes);
        assert!(intake.next().await.is_none() && !intake.goes_on());
    }
}
