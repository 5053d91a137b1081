//! Turns: exclusive access across several calls, for work that reads a table, decides, and writes to that table and to
//! others.
//!
//! A turn orders only those who ask for it; writes, folds and reads go on beside it. It is a lease of its own
//! (`lease.rs`), on a local disk a lock on `NAME.turn.lock`, and comes before all of the store's own locks: nothing in
//! the store waits for a turn.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{Error, Result};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::leases::lease::{Lease, Leases, TableLease};

/// The source of turns on a table.
#[derive(Debug)]
pub(crate) struct Turns {
    leases: Arc<Leases>,
    /// Orders the waiters of this process.
    queue: Arc<Mutex<()>>,
}

/// The turn on a table, until it ends, is dropped, or its process dies: see [`Table::turn`](crate::Table::turn).
#[derive(Debug)]
pub struct Turn {
    leases: Arc<Leases>,
    /// Released in this order.
    held: Option<(Lease, OwnedMutexGuard<()>)>,
}

impl Turns {
    pub(crate) fn of_file(path: PathBuf) -> Self {
        Self::new(Leases::Files { writer: path.clone(), base: path })
    }

    pub(crate) fn of_objects(lease: TableLease) -> Self {
        Self::new(Leases::Objects(Arc::new(lease)))
    }

    fn new(leases: Leases) -> Self {
        Self { leases: Arc::new(leases), queue: Arc::default() }
    }

    /// Waits for the turn; for another process at most `wait_max`.
    pub(crate) async fn take(&self, wait_max: Duration) -> Result<Turn> {
        let guard = Arc::clone(&self.queue).lock_owned().await;
        let lease = self.leases.writer(wait_max).await?;
        Ok(Turn { leases: Arc::clone(&self.leases), held: Some((lease, guard)) })
    }
}

impl Turn {
    /// Returns whether nobody else has had the turn since it was taken. A holder in an object store that stalls for
    /// long counts as dead and loses the turn, and its writes may then come after those of others.
    ///
    /// # Errors
    /// Those of the object store.
    pub async fn is_ours(&self) -> Result<bool> {
        match &self.held {
            Some((lease, _)) => self.leases.is_newest(lease).await,
            None => Ok(false),
        }
    }

    /// Ends the turn, and returns when others can take it.
    pub async fn end(mut self) {
        let held = self.held.take();
        release(&self.leases).await;
        drop(held);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        // A file lock is released with its file. Without a runtime for the rest, the lease runs out.
        if let (Leases::Objects(_), Ok(runtime)) = (self.leases.as_ref(), tokio::runtime::Handle::try_current()) {
            let leases = Arc::clone(&self.leases);
            runtime.spawn(async move {
                release(&leases).await;
                drop(held);
            });
        }
    }
}

async fn release(leases: &Leases) {
    let released: Result<(), Error> = leases.release().await;
    if let Err(error) = released {
        tracing::warn!(%error, "a turn was not released: others wait until its lease runs out");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cenote_base::ErrorKind;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;
    use crate::faults::Faults;
    use crate::files::objects::Objects;

    const PATIENCE: Duration = Duration::from_millis(300);
    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_has_the_turn_at_a_time_in_either_kind_of_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = || Turns::of_file(directory.path().join("t.turn.lock"));
        let objects = Objects::new(Arc::new(InMemory::new()), Path::from("lake"), Faults::default());
        let remote = || Turns::of_objects(TableLease::new(objects.clone(), PATIENCE));
        for (one, other) in [(file(), file()), (remote(), remote())] {
            for is_dropped in [false, true] {
                let turn = one.take(LONG).await.unwrap();
                assert!(turn.is_ours().await.unwrap());
                assert!(tokio::time::timeout(SHORT, one.take(LONG)).await.is_err(), "the same process has it twice");
                assert_eq!(other.take(SHORT).await.unwrap_err().kind(), ErrorKind::Conflict);
                match is_dropped {
                    true => drop(turn),
                    false => turn.end().await,
                }
                let next = other.take(LONG).await.unwrap();
                assert!(next.is_ours().await.unwrap());
                next.end().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_turn_that_was_taken_from_its_holder_says_so() {
        let objects = Objects::new(Arc::new(InMemory::new()), Path::from("lake"), Faults::default());
        let turns = Turns::of_objects(TableLease::new(objects.clone(), PATIENCE));
        let turn = turns.take(LONG).await.unwrap();
        // What a process does that has seen no heartbeat.
        assert!(objects.create("2", bytes::Bytes::from_static(b"{}")).await.unwrap());
        assert!(!turn.is_ours().await.unwrap());
    }
}
