//! The intake of a pass: pieces of bounded size, of which as many are at work as fit.

use std::sync::Arc;

use cenote_scheduler::{Received, Receiver};

use super::output_row_bytes::OutputRowBytes;
use super::read::RowPiece;

/// Admits pieces to a pass as long as those at work, with what they make, stay within a bound. A piece that exceeds the
/// bound by itself is at work alone.
pub(super) struct Intake {
    pieces: Receiver<RowPiece>,
    row_bytes: Arc<OutputRowBytes>,
    waiting: Option<Received<RowPiece>>,
    is_open: bool,
    at_work: usize,
    at_work_max: usize,
    bytes: u64,
    bytes_max: u64,
}

/// A piece that has begun.
pub(super) struct Admitted {
    pub(super) piece: Received<RowPiece>,
    /// The bytes that it counts until it is [`done`](Intake::done).
    pub(super) bytes: u64,
}

impl Intake {
    pub(super) fn new(
        pieces: Receiver<RowPiece>,
        row_bytes: Arc<OutputRowBytes>,
        at_work_max: usize,
        bytes_max: u64,
    ) -> Self {
        let (waiting, is_open) = (None, true);
        Self { pieces, row_bytes, waiting, is_open, at_work: 0, at_work_max, bytes: 0, bytes_max }
    }

    /// Returns whether a piece is at work or may still come.
    pub(super) fn goes_on(&self) -> bool {
        self.is_open || self.waiting.is_some() || self.at_work > 0
    }

    /// Returns whether another piece may begin, so that [`next`](Self::next) is worth waiting for.
    pub(super) fn has_room(&self) -> bool {
        match &self.waiting {
            Some(waiting) => self.fits(waiting),
            None => self.is_open && self.at_work < self.at_work_max,
        }
    }

    /// Returns the next piece to begin. `None` means either not yet or no more; [`goes_on`](Self::goes_on) tells which.
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Admitted> {
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
        Some(Admitted { piece, bytes })
    }

    /// Takes a piece that counted `bytes` off the pieces at work.
    pub(super) fn done(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.at_work -= 1;
    }

    fn fits(&self, piece: &RowPiece) -> bool {
        self.at_work == 0 || (self.at_work < self.at_work_max && self.bytes + self.bytes_of(piece) <= self.bytes_max)
    }

    fn bytes_of(&self, piece: &RowPiece) -> u64 {
        piece.rows.get_array_memory_size() as u64 + piece.row_ids.len() as u64 * self.row_bytes.expected()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, RecordBatch, UInt8Array};
    use cenote_scheduler::byte_queue;

    use super::*;

    fn piece(bytes: usize) -> RowPiece {
        let column: ArrayRef = Arc::new(UInt8Array::from(vec![0; bytes]));
        let rows = RecordBatch::try_from_iter([("byte", column)]).unwrap();
        RowPiece { row_ids: vec![0], rows, too_large: Vec::new() }
    }

    #[tokio::test]
    async fn pieces_at_work_hold_no_more_than_agreed_with_what_they_make() {
        let (sender, receiver) = byte_queue(1 << 30);
        let one = piece(1000).rows.get_array_memory_size() as u64 + 500;
        let mut intake = Intake::new(receiver, OutputRowBytes::fixed(500), 9, 3 * one);
        for bytes in [1000, 1000, 1000, 1000, 100_000] {
            sender.send(piece(bytes), 1).await.unwrap();
        }
        drop(sender);
        let mut at_work: Vec<Admitted> = Vec::new();
        while intake.has_room() {
            at_work.extend(intake.next().await);
        }
        assert_eq!(at_work.len(), 3);
        assert!(intake.goes_on() && intake.next().await.is_none());
        // The large piece waits until all others are done.
        for left in [3, 2, 1] {
            let Admitted { bytes, .. } = at_work.pop().unwrap();
            intake.done(bytes);
            if intake.has_room() {
                at_work.extend(intake.next().await);
            }
            assert_eq!(at_work.len(), left);
        }
        at_work.drain(..).for_each(|admitted| intake.done(admitted.bytes));
        let Admitted { bytes, .. } = intake.next().await.unwrap();
        assert!(bytes > 3 * one);
        intake.done(bytes);
        assert!(intake.next().await.is_none() && !intake.goes_on());
    }
}
