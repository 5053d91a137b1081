//! The bytes that a pass makes of a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cenote_store::fixed_bytes;

use crate::plan::PlannedStep;

/// The bytes that a pass makes of a row: known beforehand for outputs of fixed size, measured for others.
#[derive(Debug)]
pub(super) struct OutputRowBytes {
    fixed: u64,
    /// The largest mean of any piece; 0 before the first one is done.
    measured: AtomicU64,
}

impl OutputRowBytes {
    pub(super) fn of(steps: &[Arc<PlannedStep>]) -> Arc<Self> {
        let outputs = steps.iter().flat_map(|step| &step.outputs);
        Self::fixed(outputs.map(|output| fixed_bytes(output.data_type())).sum())
    }

    /// Starts from `fixed` bytes per row.
    pub(super) fn fixed(fixed: u64) -> Arc<Self> {
        Arc::new(Self { fixed, measured: AtomicU64::new(0) })
    }

    /// Notes that `bytes` were made of a piece of `rows` rows.
    pub(super) fn note(&self, bytes: u64, rows: usize) {
        self.measured.fetch_max(bytes / rows.max(1) as u64, Ordering::Relaxed);
    }

    /// Returns whether a piece has been measured.
    pub(super) fn is_measured(&self) -> bool {
        self.measured.load(Ordering::Relaxed) > 0
    }

    /// Returns the bytes that a row is expected to take, at most.
    pub(super) fn expected(&self) -> u64 {
        self.fixed.max(self.measured.load(Ordering::Relaxed))
    }

    /// Returns the bytes that a row takes at least, whatever its inputs.
    pub(super) fn least(&self) -> u64 {
        self.fixed
    }
}
