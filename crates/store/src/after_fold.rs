//! The hook for work after a fold.

use std::sync::{Arc, Weak};

use cenote_base::Result;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::shared::Shared;
use crate::state::table_state::FoldFollower;
use crate::table::Table;

/// A hook for work on a table after a fold that this crate does not know, such as bringing its indexes up to date.
pub trait AfterFold: std::fmt::Debug + Send + Sync {
    /// Does the work, in the background; an error is logged.
    fn after_fold(&self, table: Table) -> BoxFuture<'static, Result<()>>;
}

/// The hook of a store, which runs only as long as the store exists.
#[derive(Debug)]
pub(crate) struct Follower {
    hook: Arc<dyn AfterFold>,
    store: Weak<Shared>,
}

impl Follower {
    pub(crate) fn new(hook: Arc<dyn AfterFold>, store: Weak<Shared>) -> Self {
        Self { hook, store }
    }
}

impl FoldFollower for Follower {
    fn follow(&self, name: &str) -> Option<BoxFuture<'static, Result<()>>> {
        let table = Table::new(self.store.upgrade()?, name);
        let hook = Arc::clone(&self.hook);
        Some(async move { hook.after_fold(table).await }.boxed())
    }
}
