//! What follows a fold, by who knows more of a table than this crate.

use std::sync::{Arc, Weak};

use cenote_base::Result;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::shared::Shared;
use crate::state::table_state::FoldFollower;
use crate::table::Table;

/// A hook that runs after a fold of a table, for what this crate does not know of: the table's indexes.
pub trait AfterFold: std::fmt::Debug + Send + Sync {
    /// Called in the background; an error is logged.
    fn after_fold(&self, table: Table) -> BoxFuture<'static, Result<()>>;
}

/// Calls the hook of a store, for as long as somebody has the store.
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
