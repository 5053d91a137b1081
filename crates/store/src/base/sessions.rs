//! Lance sessions, one per table, over caches that all tables share.
//!
//! Lance keys some cache entries by the address and the version of a dataset. A table that is made under the name of a
//! dropped one has the same addresses and restarts its versions, so the entries of each table are kept under the
//! table's identity as well.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use cenote_base::ByteSize;
use lance::io::ObjectStoreRegistry;
use lance::session::{CacheSpec, Session};
use lance_core::Result;
use lance_core::cache::{
    CacheBackend, CacheCodec, CacheEntry, CacheTier, Context, InternalCacheKey, QuickCacheBackend,
    QuickCacheShardPolicy,
};

use crate::identity::Identity;

/// The caches that all tables of a store share, with one limit in bytes for all of them.
#[derive(Debug)]
pub(crate) struct Sessions {
    indexes: Arc<dyn CacheBackend>,
    metadata: Arc<dyn CacheBackend>,
    stores: Arc<ObjectStoreRegistry>,
}

impl Sessions {
    /// Makes caches of at most `indexes` bytes of index pages and `metadata` bytes of metadata.
    pub(crate) fn new(indexes: ByteSize, metadata: ByteSize) -> Self {
        let cache =
            |bytes: ByteSize, policy| Arc::new(QuickCacheBackend::with_shard_policy(bytes.0 as usize, policy)) as _;
        Self {
            // Indexes are few, large entries of unequal size, which need the whole capacity in one shard.
            indexes: cache(indexes, QuickCacheShardPolicy::Single),
            metadata: cache(metadata, QuickCacheShardPolicy::Recommended),
            stores: Arc::default(),
        }
    }

    /// Returns a session that sees only the entries of table `identity`.
    pub(crate) fn of(&self, identity: Identity) -> Arc<Session> {
        let mut mask = [0; 16];
        mask[..8].copy_from_slice(&identity.0.to_le_bytes());
        mask[8..].copy_from_slice(&identity.1.to_le_bytes());
        let part =
            |cache: &Arc<dyn CacheBackend>| CacheSpec::Backend(Arc::new(TableCache { cache: Arc::clone(cache), mask }));
        Arc::new(Session::with_cache_backends(part(&self.indexes), part(&self.metadata), Arc::clone(&self.stores)))
    }

    /// Returns the object stores that sessions have opened.
    pub(crate) fn stores(&self) -> &Arc<ObjectStoreRegistry> {
        &self.stores
    }
}

/// The entries of one table in a cache. Lance's keys are digests; a random mask makes them differ from those of other
/// tables.
#[derive(Debug)]
struct TableCache {
    cache: Arc<dyn CacheBackend>,
    mask: [u8; 16],
}

impl TableCache {
    fn key(&self, key: &InternalCacheKey) -> InternalCacheKey {
        let mut bytes = *key.as_bytes();
        bytes.iter_mut().zip(self.mask).for_each(|(byte, mask)| *byte ^= mask);
        InternalCacheKey::from_bytes(bytes)
    }
}

#[async_trait]
impl CacheBackend for TableCache {
    async fn get_resident(&self, key: &InternalCacheKey) -> Option<CacheEntry> {
        self.cache.get_resident(&self.key(key)).await
    }

    async fn peek_resident(&self, key: &InternalCacheKey) -> bool {
        self.cache.peek_resident(&self.key(key)).await
    }

    async fn peek_tier(&self, key: &InternalCacheKey) -> CacheTier {
        self.cache.peek_tier(&self.key(key)).await
    }

    fn plane_admission_gated(&self) -> bool {
        self.cache.plane_admission_gated()
    }

    async fn get_without_promotion(&self, key: &InternalCacheKey, codec: Option<CacheCodec>) -> Option<CacheEntry> {
        self.cache.get_without_promotion(&self.key(key), codec).await
    }

    async fn get_rows(&self, key: &InternalCacheKey, rows: &[u32], codec: Option<CacheCodec>) -> Option<CacheEntry> {
        self.cache.get_rows(&self.key(key), rows, codec).await
    }

    async fn get(&self, key: &InternalCacheKey, codec: Option<CacheCodec>) -> Option<CacheEntry> {
        self.cache.get(&self.key(key), codec).await
    }

    async fn insert(&self, key: &InternalCacheKey, entry: CacheEntry, size_bytes: usize, codec: Option<CacheCodec>) {
        self.cache.insert(&self.key(key), entry, size_bytes, codec).await;
    }

    async fn get_or_insert<'a>(
        &self,
        key: &InternalCacheKey,
        loader: Pin<Box<dyn Future<Output = Result<(CacheEntry, usize)>> + Send + 'a>>,
        codec: Option<CacheCodec>,
    ) -> Result<(CacheEntry, bool)> {
        self.cache.get_or_insert(&self.key(key), loader, codec).await
    }

    async fn clear(&self) {
        self.cache.clear().await;
    }

    async fn num_entries(&self) -> usize {
        self.cache.num_entries().await
    }

    async fn size_bytes(&self) -> usize {
        self.cache.size_bytes().await
    }

    fn approx_num_entries(&self) -> usize {
        self.cache.approx_num_entries()
    }

    fn approx_size_bytes(&self) -> usize {
        self.cache.approx_size_bytes()
    }

    fn capacity_bytes(&self) -> Option<usize> {
        self.cache.capacity_bytes()
    }

    fn deep_size_of_entries(
        &self,
        context: &mut Context,
        size_of_entry: &dyn Fn(&CacheEntry, &mut Context) -> Option<usize>,
    ) -> Option<usize> {
        self.cache.deep_size_of_entries(context, size_of_entry)
    }
}
