//! Where the bytes of a log are.

use async_trait::async_trait;
use bytes::Bytes;
use cenote_base::Result;

use super::unseen::Unseen;

/// What there is behind the place that was read to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    None,
    More,
    /// The segment was removed: what follows cannot be read on from here.
    Gone,
}

/// The segments of a log, each named by a number.
#[async_trait]
pub(crate) trait Segments: std::fmt::Debug + Send + Sync {
    /// Where they are, for people.
    fn name(&self) -> String;

    /// The numbers of those there are, in order.
    async fn list(&self) -> Result<Vec<u64>>;

    /// Begins a segment with `bytes`, in the place of one whose beginning was cut short.
    ///
    /// # Errors
    /// `Conflict` when another writer began it.
    async fn create(&self, number: u64, bytes: Vec<u8>) -> Result<Box<dyn Segment>>;

    /// A segment, to be read from its beginning; `None` when there is none.
    async fn open(&self, number: u64) -> Result<Option<Box<dyn Segment>>>;

    /// The size of a segment.
    async fn bytes(&self, number: u64) -> Result<u64>;

    /// Removes segments that were ended.
    async fn remove(&self, numbers: &[u64]) -> Result<()>;

    /// Makes what was created and removed durable under its name.
    async fn sync(&self) -> Result<()>;
}

/// A sequence of bytes that grows, and a place in it to which it was read.
#[async_trait]
pub(crate) trait Segment: std::fmt::Debug + Send + Sync {
    /// The place that was read to, and `skip` bytes, for people.
    fn position(&self, skip: usize) -> String;

    /// Whether a write that was cut short can leave a part of its bytes.
    fn can_be_torn(&self) -> bool;

    /// Bytes of it that were read or written.
    fn end(&self) -> u64;

    /// Bytes of it that are known to be on the disk.
    fn synced(&self) -> u64;

    /// Takes note that so many bytes of it are on the disk.
    fn note_synced(&mut self, bytes: u64);

    /// Gets what was read or written onto the disk.
    async fn sync(&mut self) -> Result<()>;

    async fn news(&self) -> Result<News>;

    /// Bytes from the place that was read to: some when there are any, and at least `wanted` when there are so many.
    async fn peek(&mut self, wanted: usize) -> Result<Bytes>;

    /// Moves the place that was read to behind `bytes` of what [`peek`](Self::peek) gave.
    fn advance(&mut self, bytes: usize);

    /// Adds `bytes` behind the place that was read to, which moves behind them: on disk when it returns (or with the
    /// operating system, unless `sync`), and unseen.
    ///
    /// # Errors
    /// `Conflict` when another writer added something there.
    async fn append(&mut self, bytes: Vec<u8>, sync: bool) -> Result<Unseen>;

    /// Cuts off everything behind the place that was read to; how many bytes that were.
    async fn truncate(&mut self) -> Result<u64>;
}
