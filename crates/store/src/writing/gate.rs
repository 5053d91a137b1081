//! The gate: long work on the base, such as an index build, takes the right to change the base only for its commit.
//!
//! The work reads a pinned version of the base, while writers, folds and other work go on. When Lance commits the
//! result, the gate takes the rights, and tells Lance to try again if the base has moved: Lance then carries the work
//! over to the newest version, or fails if that is impossible. The commit is logged before the rights are released.

use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use futures::FutureExt;
use lance::Dataset;
use lance_table::io::commit::CommitError;

use crate::base::staging::Work;
use crate::state::table_state::{State, detached};
use crate::writing::commit::Writing;
use crate::writing::log_base::{Changing, Direct};

/// The gate before the commits of one piece of work.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Arc<State>,
    /// The right of a commit that came too late, kept so that nobody else commits before it tries again.
    kept: Mutex<Option<Changing>>,
    failure: Mutex<Option<Error>>,
}

/// The right to commit the next version.
#[derive(Debug)]
pub(crate) struct Entered {
    gate: Arc<Gate>,
    changing: Changing,
    writing: Writing,
}

impl Gate {
    fn new(state: &Arc<State>) -> Arc<Self> {
        Arc::new(Self { state: Arc::clone(state), kept: Mutex::default(), failure: Mutex::default() })
    }

    /// Waits for the right to commit `version` of the base.
    ///
    /// # Errors
    /// `CommitConflict` when the base has moved.
    pub(crate) async fn enter(self: &Arc<Self>, version: u64) -> std::result::Result<Entered, CommitError> {
        let (changing, writing) = self.turns().await.map_err(|error| self.fail(error))?;
        if !self.state.fence.is_next(version) {
            *self.kept.lock() = Some(changing);
            return Err(CommitError::CommitConflict);
        }
        Ok(Entered { gate: Arc::clone(self), changing, writing })
    }

    async fn turns(&self) -> Result<(Changing, Writing)> {
        let kept = self.kept.lock().take();
        let changing = match kept {
            Some(changing) => changing,
            None => self.state.changing().await?,
        };
        let mut writing = self.state.writing().boxed().await?;
        self.state.adopt(&mut writing).boxed().await?;
        self.state.options.faults.check("base.commit")?;
        Ok((changing, writing))
    }

    /// Keeps the error, because Lance's error loses its kind.
    fn fail(&self, error: Error) -> CommitError {
        let what = lance::Error::wrapped(error.to_string().into());
        self.failure.lock().get_or_insert(error);
        CommitError::OtherError(what)
    }
}

impl Entered {
    /// Logs `version`, which was committed, and releases the rights.
    pub(crate) async fn log(self, version: u64) -> std::result::Result<(), CommitError> {
        let Self { gate, changing, mut writing } = self;
        let state = Arc::clone(&gate.state);
        let logged = detached(async move {
            state.options.faults.check("base.committed")?;
            let base = state.load_base(version).await?;
            let direct = Direct { base, entries: Vec::new(), concerned: Vec::new(), is_write: false };
            state.finish_direct(&changing, &mut writing, direct).await
        });
        logged.await.map(drop).map_err(|error| gate.fail(error))
    }
}

/// Runs `change`, which leaves the rows as they are, on the newest version of the base. Each of its commits is logged.
pub(crate) async fn maintain<T>(state: &Arc<State>, change: impl AsyncFnOnce(&mut Dataset) -> Result<T>) -> Result<T> {
    let known = state.snapshot().boxed().await?.base().version().version;
    let claim = state.place.staging.claim(Work::Build, known).await?;
    // Pins the version to the end; taken after the claim, which protects it from other processes.
    let snapshot = state.snapshot().boxed().await?;
    let gate = Gate::new(state);
    let fence = Arc::new(state.fence.behind(&gate));
    let mut dataset = state.load_base_through(snapshot.base().version().version, fence).await?;
    let done = Box::pin(change(&mut dataset)).await;
    claim.end().await;
    let failure = gate.failure.lock().take();
    failure.map_or(done, Err)
}
