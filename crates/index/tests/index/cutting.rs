//! Builds that are interrupted.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};

use cenote_base::Progress;
use tokio::sync::Notify;

/// A progress that counts the units of a build, and holds it at a given point.
pub struct Watcher {
    /// The point at which the build is held: the end of a stage's name, and the units of that stage.
    enough: (&'static str, u64),
    done: Mutex<BTreeMap<String, u64>>,
    reached: Notify,
    /// Whether the build has been interrupted, which releases it.
    is_cut: (Mutex<bool>, Condvar),
}

impl Watcher {
    pub fn until(stage: &'static str, units: u64) -> Arc<Self> {
        let is_cut = (Mutex::new(false), Condvar::new());
        Arc::new(Self { enough: (stage, units), done: Mutex::default(), reached: Notify::new(), is_cut })
    }

    /// Returns the units done of the stages whose names end in `stage`.
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

    /// Runs `build`, which reports to this progress, and interrupts it when it is held.
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
