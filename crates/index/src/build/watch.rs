//! Tells people how far a build is.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use cenote_base::sync::Mutex;
use cenote_base::{Progress, Silent};
use lance_index::progress::IndexBuildProgress;

pub(crate) fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

/// The stages of a build by Lance, told to a [`Progress`] under the index's name. Those that a failed build has begun end with it.
pub(crate) struct LanceProgress {
    progress: Arc<dyn Progress>,
    index: String,
    /// Units done, by stage that goes on.
    done: Mutex<HashMap<String, u64>>,
}

impl LanceProgress {
    pub(crate) fn new(progress: &Arc<dyn Progress>, index: &str) -> Self {
        Self { progress: Arc::clone(progress), index: index.to_owned(), done: Mutex::default() }
    }

    fn name(&self, stage: &str) -> String {
        format!("{}: {}", self.index, stage.replace('_', " "))
    }

    /// How many units there are more than were told before.
    fn more(&self, stage: &str, done: u64) -> u64 {
        let mut told = self.done.lock();
        let told = told.entry(stage.to_owned()).or_default();
        let more = done.saturating_sub(*told);
        *told += more;
        more
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
        self.progress.advance(&self.name(stage), self.more(stage, completed));
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
        let going_on = std::mem::take(&mut *self.done.lock());
        going_on.keys().for_each(|stage| self.progress.end(&self.name(stage)));
    }
}
