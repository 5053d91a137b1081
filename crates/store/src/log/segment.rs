//! The storage of a log: segments of bytes.

use async_trait::async_trait;
use bytes::Bytes;
use cenote_base::Result;

use super::unseen::Unseen;

/// The state of a log after the position up to which it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    None,
    More,
    /// The segment was removed, so the log cannot be read on from here.
    Gone,
}

/// The segments of a log, each named by a number.
#[async_trait]
pub(crate) trait Segments: std::fmt::Debug + Send + Sync {
    /// Returns their location, for messages.
    fn name(&self) -> String;

    /// Lists the numbers of the existing segments, in order.
    async fn list(&self) -> Result<Vec<u64>>;

    /// Begins a segment with `bytes`, replacing an incomplete beginning.
    ///
    /// # Errors
    /// `Conflict` when another writer has begun it.
    async fn create(&self, number: u64, bytes: Vec<u8>) -> Result<Box<dyn Segment>>;

    /// Opens a segment at its beginning; `None` when it does not exist.
    async fn open(&self, number: u64) -> Result<Option<Box<dyn Segment>>>;

    /// Returns the bytes of a segment.
    async fn bytes(&self, number: u64) -> Result<u64>;

    /// Removes ended segments.
    async fn remove(&self, numbers: &[u64]) -> Result<()>;

    /// Makes creations and removals of segments durable.
    async fn sync(&self) -> Result<()>;
}

/// A sequence of bytes that grows, with the position up to which it was read.
#[async_trait]
pub(crate) trait Segment: std::fmt::Debug + Send + Sync {
    /// Returns the position, plus `skip` bytes, for messages.
    fn position(&self, skip: usize) -> String;

    /// Returns whether an interrupted write can leave a part of its bytes.
    fn can_be_torn(&self) -> bool;

    /// Returns the bytes that were read or written.
    fn end(&self) -> u64;

    /// Returns the bytes that are known to be durable.
    fn synced(&self) -> u64;

    /// Records that the first `bytes` bytes are durable.
    fn note_synced(&mut self, bytes: u64);

    /// Makes what was read or written durable.
    async fn sync(&mut self) -> Result<()>;

    async fn news(&self) -> Result<News>;

    /// Returns bytes from the position on: some if there are any, and at least `wanted` if there are that many.
    async fn peek(&mut self, wanted: usize) -> Result<Bytes>;

    /// Advances the position by `bytes` of what [`peek`](Self::peek) returned.
    fn advance(&mut self, bytes: usize);

    /// Appends `bytes` at the position, and advances it. When it returns, they are durable (or with the operating
    /// system, unless `sync`), and unseen.
    ///
    /// # Errors
    /// `Conflict` when another writer has appended something there.
    async fn append(&mut self, bytes: Vec<u8>, sync: bool) -> Result<Unseen>;

    /// Cuts off everything after the position, and returns its bytes.
    async fn truncate(&mut self) -> Result<u64>;
}
