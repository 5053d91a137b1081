//! Builds that are cut off.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};

use cenote_base::Progress;
use tokio::sync::Notify;

/// Counts what a build does, and knows when it has come far enough.
pub struct Watcher {
    /// A stage by the end of its name, and how many units of it are enough.
    enough: (&'static str, u64),
    done: Mutex<BTreeMap<String, u64>>,
    reached: Notify,
    /// Whether the build was cut off: until then it waits where it has come far enough.
    is_cut: (Mutex<bool>, Condvar),
}

impl Watcher {
    pub fn until(stage: &'static str, units: u64) -> Arc<Self> {
        let is_cut = (Mutex::new(false), Condvar::new());
        Arc::new(Self { enough: (stage, units), done: Mutex::default(), reached: Notify::new(), is_cut })
    }

    /// Units done of a stage.
    pub fn done(&self, stage: &str) -> u64 {
        let done = self.done.lock().unwrap();
        done.iter().filter(|(name, _)| name.ends_with(stage)).map(|(_, units)| *units).sum()
    }

    fn note(&self, stage: &str, units: u64) {
        *self.done.lock().unwrap().entry(stage.to_owned()).or_default() += units;
        if stage.ends_with(self.enough.0) && self.done(self.enough.0) >= self.enough.1 {
            self.reached.notify_one();
            let (is_cut, told) = &self.is_cut;
            drop(told.wait_while(is_cut.lock().unwrap(), |is_cut| !*is_cut).unwrap());
        }
    }

    /// Runs `build`, which tells this one, and cuts it off when it has come far enough.
    pub async fn cut_off<T: Send + 'static>(&self, build: impl Future<Output = T> + Send + 'static) {
        let build = tokio::spawn(build);
        self.reached.notified().await;
        build.abort();
        *self.is_cut.0.lock().unwrap() = true;
        self.is_cut.1.notify_all();
        assert!(build.await.is_err_and(|error| error.is_cancelled()), "it was done before it was cut off");
    }
}

impl Progress for Watcher {
    fn begin(&self, stage: &str, _total: Option<u64>) {
        self.note(stage, 0);
    }

    fn advance(&self, stage: &str, units: u64) {
        self.note(stage, units);
    }

    fn end(&self, _stage: &str) {}
}
