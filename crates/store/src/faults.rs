//! Injected failures: tests let operations fail where the store touches the disk.

use std::fmt;
use std::sync::Arc;

use cenote_base::Result;

type Hook = dyn Fn(&'static str) -> Result<()> + Send + Sync;

/// A hook that is called before each storage operation of a [`Store`](crate::Store) with the operation's name, and may
/// let it fail. Without a hook nothing fails. A failed `log.write` writes half of its bytes, as a crash would.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

impl Faults {
    /// Calls `hook` before each operation.
    pub fn new(hook: impl Fn(&'static str) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(operation))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(hook)" } else { "Faults(none)" })
    }
}
