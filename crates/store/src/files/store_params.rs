//! The parameters with which Lance opens the store of a dataset.

use std::collections::HashMap;
use std::sync::Arc;

use lance::io::{ObjectStoreParams, StorageOptionsAccessor};

use super::block_cache::Caching;
use super::durable::syncing_store;

/// Returns the parameters with which Lance opens an object store.
pub(crate) fn store_params(options: &HashMap<String, String>) -> ObjectStoreParams {
    let accessor =
        (!options.is_empty()).then(|| Arc::new(StorageOptionsAccessor::with_static_options(options.clone())));
    ObjectStoreParams { storage_options_accessor: accessor, ..ObjectStoreParams::default() }
}

/// Returns the parameters with which Lance opens a local disk, whose files are synced as they are written.
pub(crate) fn local_params(options: &HashMap<String, String>) -> ObjectStoreParams {
    ObjectStoreParams { object_store_wrapper: Some(syncing_store()), ..store_params(options) }
}

/// Returns the parameters with which Lance opens an object store behind the cache `blocks`.
pub(crate) fn cached_params(options: &HashMap<String, String>, blocks: Option<&Arc<Caching>>) -> ObjectStoreParams {
    let wrapper = blocks.map(|blocks| Arc::clone(blocks) as _);
    ObjectStoreParams { object_store_wrapper: wrapper, ..store_params(options) }
}
