//! Queues that are bounded in bytes.

use std::ops::Deref;
use std::sync::Arc;

use cenote_base::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Returns both halves of a queue that holds at most `bytes_max` bytes, or 4 GiB if that is less. An item counts from
/// `send` until the received item is dropped. A larger item passes when the queue is empty.
#[allow(clippy::disallowed_methods)] // The semaphore bounds the channel.
pub fn byte_queue<T>(bytes_max: u64) -> (Sender<T>, Receiver<T>) {
    let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX).max(1);
    // Every item in the channel holds at least one permit.
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Sender { items: sender, budget: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max },
        Receiver { items: receiver },
    )
}

/// The sending half of a [`byte_queue`].
#[derive(Debug)]
pub struct Sender<T> {
    items: mpsc::UnboundedSender<Received<T>>,
    budget: Arc<Semaphore>,
    bytes_max: u32,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), budget: Arc::clone(&self.budget), bytes_max: self.bytes_max }
    }
}

impl<T> Sender<T> {
    /// Waits for room, then queues `item`, which counts as `bytes` bytes.
    ///
    /// # Errors
    /// `Cancelled` when the receiver was dropped.
    pub async fn send(&self, item: T, bytes: u64) -> Result<()> {
        let amount = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, self.bytes_max);
        let gone = || Error::cancelled("the receiver of the queue is gone");
        let permit = tokio::select! {
            permit = Arc::clone(&self.budget).acquire_many_owned(amount) => permit.map_err(|_| gone())?,
            () = self.items.closed() => return Err(gone()),
        };
        self.items.send(Received { item, _permit: permit }).map_err(|_| gone())
    }
}

/// The receiving half of a [`byte_queue`].
#[derive(Debug)]
pub struct Receiver<T> {
    items: mpsc::UnboundedReceiver<Received<T>>,
}

impl<T> Receiver<T> {
    /// Waits for the next item; `None` when every sender was dropped. This method is cancel safe.
    pub async fn recv(&mut self) -> Option<Received<T>> {
        self.items.recv().await
    }
}

/// A received item, which counts against the queue's limit until it is dropped.
#[derive(Debug)]
pub struct Received<T> {
    item: T,
    _permit: OwnedSemaphorePermit,
}

impl<T> Received<T> {
    /// Unwraps the item, which no longer counts.
    pub fn into_inner(self) -> T {
        self.item
    }
}

impl<T> Deref for Received<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}
