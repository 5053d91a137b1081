//! How long work tells how far it is.

/// Hears of the stages of long work. Called from any thread, often: implementations are quick and do not block.
pub trait Progress: Send + Sync {
    /// Stage `stage` begins; `total` is how many units it has, when known.
    fn begin(&self, stage: &str, total: Option<u64>);
    /// `units` more of `stage` are done.
    fn advance(&self, stage: &str, units: u64);
    /// Stage `stage` is over.
    fn end(&self, stage: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn advance(&self, _stage: &str, _units: u64) {}
    fn end(&self, _stage: &str) {}
}
