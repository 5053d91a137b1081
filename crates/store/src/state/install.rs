//! Installing a new version of the base.

use std::sync::Arc;

use cenote_base::{Result, Timestamp};
use lance::Dataset;

use super::table_state::TableState;
use crate::base::pages::RowReader;
use crate::blocking::blocking;
use crate::changes::change_store::ByHash;
use crate::changes::newest::NewBase;
use crate::errors::lance_error;
use crate::keys::key_index::KeyIndex;
use crate::log::Unseen;
use crate::log::concerned::Concerned;
use crate::log::history::BaseMark;

/// A new version of the base as it was logged, with the table's version and time of that record.
#[derive(Debug)]
pub(crate) struct BaseChange {
    pub(crate) version: u64,
    pub(crate) time: Timestamp,
    pub(crate) mark: BaseMark,
    pub(crate) base: Dataset,
    /// The key index of `base`.
    pub(crate) keys: KeyIndex,
}

impl TableState {
    /// Makes `mark` the current base, which includes direct writes of the keys `touched` (`None`: too many to list).
    /// Returns false when the change store cannot be cut there. The caller holds the end of the log, so nothing is
    /// written meanwhile; what it wrote there is `unseen` until the base is installed.
    pub(crate) async fn install(
        self: &Arc<Self>,
        change: BaseChange,
        touched: Option<Concerned>,
        unseen: Unseen,
    ) -> Result<bool> {
        let BaseChange { version, time, mark, base, keys } = change;
        self.fence.learn(mark.base);
        let base_rows = base.count_rows(None).await.map_err(lance_error)?;
        let state = Arc::clone(self);
        blocking(move || {
            let mut hashes = Vec::new();
            for keys in touched.iter().flat_map(Concerned::batches) {
                hashes.extend(state.key.hash(keys, state.hash_key())?);
            }
            let later = {
                let newest = state.newest();
                let is_cut = touched.is_none() || newest.changes().is_cut_by(mark.folded, &hashes);
                is_cut.then(|| newest.changes().keys_after(mark.folded))
            };
            // Reads the disk without holding the lock, so that readers go on.
            let bases: Option<ByHash<u64>> = match later {
                Some(later) => {
                    let rows = keys.get_many(&later)?;
                    Some(later.into_iter().zip(rows).filter_map(|(hash, row)| Some((hash, row?))).collect())
                }
                None => None,
            };
            let base = Arc::new(base);
            let reader = Arc::new(RowReader::new(&base, &state.pages));
            let new = NewBase { version, time, mark, base, base_rows, reader, keys };
            let mut newest = state.newest();
            let is_replaced = newest.replace_base(new, bases.as_ref());
            // Readers here and in other processes see the new base at the same moment.
            drop(unseen);
            Ok(is_replaced)
        })
        .await
    }
}
