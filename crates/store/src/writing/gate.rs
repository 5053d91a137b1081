//! The gate: long work on the base, such as an index build, takes the right to change the base only for its commit.
//!
//! The work reads a pinned version of the base, while writers, folds and other work go on. When Lance commits the
//! result, the gate takes the rights, and tells Lance to try again if the base has moved: Lance then carries the work
//! over to the newest version, or fails if that is impossible. The commit is logged before the rights are released.

use std::sync::Arc;

use async_trait::async_trait;
use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use futures::FutureExt;
use lance::Dataset;
use lance_table::io::commit::CommitError;

use crate::base::fence::{CommitGate, EnteredGate};
use crate::base::staging::{Claim, ClaimedWork};
use crate::base::version_files::flushing;
use crate::blocking::detached;
use crate::state::table_state::TableState;
use crate::writing::commit::Writing;
use crate::writing::log_base::{Changing, Direct};

/// The gate before the commits of one piece of work.
#[derive(Debug)]
struct Gate {
    state: Arc<TableState>,
    claim: Arc<Claim>,
    /// The right of a commit that came too late, kept so that nobody else commits before it tries again.
    kept: Mutex<Option<Changing>>,
    failure: Mutex<Option<Error>>,
}

/// The right to commit the next version.
#[derive(Debug)]
struct Entered {
    gate: Arc<Gate>,
    changing: Changing,
    writing: Writing,
}

impl Gate {
    fn new(state: &Arc<TableState>, claim: Arc<Claim>) -> Arc<Self> {
        Arc::new(Self { state: Arc::clone(state), claim, kept: Mutex::default(), failure: Mutex::default() })
    }

    async fn turns(&self) -> Result<(Changing, Writing)> {
        let kept = self.kept.lock().take();
        let changing = match kept {
            Some(changing) => changing,
            None => self.state.changing().await?,
        };
        let mut writing = self.state.writing().boxed().await?;
        self.state.adopt(&mut writing).boxed().await?;
        self.state.options().faults.check("base.commit")?;
        Ok((changing, writing))
    }

    /// Keeps the error, because Lance's error loses its kind.
    fn fail(&self, error: Error) -> CommitError {
        let what = lance::Error::wrapped(Box::new(error.clone()));
        self.failure.lock().get_or_insert(error);
        CommitError::OtherError(what)
    }
}

#[async_trait]
impl CommitGate for Gate {
    async fn enter(self: Arc<Self>, version: u64) -> std::result::Result<Box<dyn EnteredGate>, CommitError> {
        let (changing, writing) = self.turns().await.map_err(|error| self.fail(error))?;
        if !self.state.fence().is_next(version) {
            *self.kept.lock() = Some(changing);
            return Err(CommitError::CommitConflict);
        }
        self.claim.check().await.map_err(|error| self.fail(error))?;
        Ok(Box::new(Entered { gate: self, changing, writing }))
    }
}

#[async_trait]
impl EnteredGate for Entered {
    async fn log(self: Box<Self>, version: u64) -> std::result::Result<(), CommitError> {
        let Self { gate, changing, mut writing } = *self;
        let state = Arc::clone(&gate.state);
        let logged = detached(async move {
            state.options().faults.check("base.committed")?;
            let base = state.load_base(version).await?;
            let direct = Direct { base, entries: Vec::new(), concerned: Vec::new(), is_write: false };
            state.finish_direct(&changing, &mut writing, direct).await
        });
        logged.await.map(drop).map_err(|error| gate.fail(error))
    }
}

/// Runs `change`, which leaves the rows as they are, on the newest version of the base. Each of its commits is logged.
pub(crate) async fn maintain<T>(
    state: &Arc<TableState>,
    change: impl AsyncFnOnce(&mut Dataset) -> Result<T>,
) -> Result<T> {
    let known = state.snapshot().boxed().await?.base().version().version;
    let work = async |claim| {
        // Pins the version to the end; taken after the claim, which protects it from other processes.
        let snapshot = state.snapshot().boxed().await?;
        let gate = Gate::new(state, claim);
        let fence = Arc::new(state.fence().behind(Arc::clone(&gate) as _));
        let mut dataset = state.load_base_through(snapshot.base().version().version, fence).await?;
        let done = Box::pin(flushing(snapshot.base(), change(&mut dataset))).await;
        let failure = gate.failure.lock().take();
        failure.map_or(done, Err)
    };
    state.claimed(ClaimedWork::Build, known, work).await
}
