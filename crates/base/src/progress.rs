//! Progress reports of long operations.

/// A listener for the stages of a long operation. Methods are called often and from any thread, so implementations must
/// be quick and must not block.
pub trait Progress: Send + Sync {
    /// Reports that `stage` begins; `total` is its number of units, when known.
    fn begin(&self, stage: &str, total: Option<u64>);
    /// Reports that `units` more of `stage` are done.
    fn advance(&self, stage: &str, units: u64);
    /// Reports that `stage` is over.
    fn end(&self, stage: &str);
}

/// A listener that ignores every report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    fn advance(&self, _stage: &str, _units: u64) {}
    fn end(&self, _stage: &str) {}
}
