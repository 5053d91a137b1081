//! State that calls run on, one at a time.

use std::fmt;
use std::sync::Arc;

use cenote_base::{Error, Resources, Result};
use tokio::sync::Mutex;

use crate::ledger::Grant;
use crate::scheduler::{Context, Scheduler, WorkOptions};

type Build<S> = Arc<dyn Fn() -> Result<S> + Send + Sync>;

/// State on which calls run in turn, each on a CPU thread. Clones share the state; the last one drops it.
pub struct Actor<S> {
    scheduler: Scheduler,
    options: Arc<WorkOptions>,
    /// What is held only while a call runs.
    call_resources: Resources,
    build: Build<S>,
    /// `None` after a call panicked: the next call builds the state anew.
    state: Arc<Mutex<Option<S>>>,
    _lifetime_grant: Arc<Grant>,
}

impl<S> Clone for Actor<S> {
    fn clone(&self) -> Self {
        Self {
            scheduler: self.scheduler.clone(),
            options: Arc::clone(&self.options),
            call_resources: self.call_resources.clone(),
            build: Arc::clone(&self.build),
            state: Arc::clone(&self.state),
            _lifetime_grant: Arc::clone(&self._lifetime_grant),
        }
    }
}

impl<S> fmt::Debug for Actor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Actor").field("name", &self.options.name).finish_non_exhaustive()
    }
}

impl<S: Send + 'static> Actor<S> {
    pub(crate) async fn start<F>(scheduler: Scheduler, options: WorkOptions, build: F) -> Result<Self>
    where
        F: Fn() -> Result<S> + Send + Sync + 'static,
    {
        let lifetime = Resources { cpu: 0.0, ..options.resources.clone() };
        let grant = scheduler.acquire(&lifetime, &options.cancel).await?;
        let actor = Self {
            call_resources: Resources::cpu(options.resources.cpu),
            scheduler,
            options: Arc::new(options),
            build: Arc::new(build),
            state: Arc::new(Mutex::new(None)),
            _lifetime_grant: Arc::new(grant),
        };
        actor.call(|_, _| Ok(())).await?;
        Ok(actor)
    }

    /// Waits for its turn and a CPU, then runs `work` on the state.
    ///
    /// # Errors
    /// `Cancelled`; `Internal` when the work panics, after which the state is built anew; else the work's own error.
    pub async fn call<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut S, &Context) -> Result<T> + Send + 'static,
    {
        let mut turn = tokio::select! {
            turn = Arc::clone(&self.state).lock_owned() => turn,
            () = self.options.cancel.cancelled() => return Err(Error::cancelled("the actor was cancelled")),
        };
        let grant = self.scheduler.acquire(&self.call_resources, &self.options.cancel).await?;
        let context = Context { cancel: self.options.cancel.clone(), attempt: 0 };
        let build = Arc::clone(&self.build);
        self.scheduler
            .execute(&self.options.name, grant, move || {
                // Taken out for the call: if the work panics, the broken state is gone with it.
                let mut state = match turn.take() {
                    Some(state) => state,
                    None => build()?,
                };
                let result = work(&mut state, &context);
                *turn = Some(state);
                result
            })
            .await?
    }
}
