//! The progress of Lance's builds.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use cenote_base::sync::Mutex;
use cenote_base::{Progress, Silent};
use lance_index::progress::IndexBuildProgress;

/// Returns a progress that reports nothing.
pub(crate) fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

/// An adapter that reports the stages of a build by Lance to a [`Progress`], under the index's name. Dropping it ends
/// the stages that a failed build has begun.
pub(super) struct LanceProgress {
    progress: Arc<dyn Progress>,
    index: String,
    /// The units done in each running stage.
    done: Mutex<HashMap<String, u64>>,
}

impl LanceProgress {
    pub(super) fn new(progress: &Arc<dyn Progress>, index: &str) -> Self {
        Self { progress: Arc::clone(progress), index: index.to_owned(), done: Mutex::default() }
    }

    fn name(&self, stage: &str) -> String {
        format!("{}: {}", self.index, stage.replace('_', " "))
    }

    /// Records `done` units of `stage`, and returns how many of them are new.
    fn advance(&self, stage: &str, done: u64) -> u64 {
        let mut stages = self.done.lock();
        let reported = stages.entry(stage.to_owned()).or_default();
        let new = done.saturating_sub(*reported);
        *reported += new;
        new
    }
}

impl fmt::Debug for LanceProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanceProgress").field("index", &self.index).finish_non_exhaustive()
    }
}

#[async_trait]
impl IndexBuildProgress for LanceProgress {
    async fn stage_start(&self, stage: &str, total: Option<u64>, _unit: &str) -> lance::Result<()> {
        self.done.lock().insert(stage.to_owned(), 0);
        self.progress.begin(&self.name(stage), total);
        Ok(())
    }

    async fn stage_progress(&self, stage: &str, completed: u64) -> lance::Result<()> {
        self.progress.advance(&self.name(stage), self.advance(stage, completed));
        Ok(())
    }

    async fn stage_complete(&self, stage: &str) -> lance::Result<()> {
        self.done.lock().remove(stage);
        self.progress.end(&self.name(stage));
        Ok(())
    }
}

impl Drop for LanceProgress {
    fn drop(&mut self) {
        let running = std::mem::take(&mut *self.done.lock());
        running.keys().for_each(|stage| self.progress.end(&self.name(stage)));
    }
}
