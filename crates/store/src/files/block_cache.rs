//! A cache on the local disk for blocks of remote files.
//!
//! A base file never changes, so a block that was read once stays valid forever. Manifests, logs and leases do change,
//! or are read to see whether they exist, so they are always read from the object store.
//!
//! Each block is a file with its bytes and their checksum. A block that is damaged, or that another process removed, is
//! fetched again. Each process bounds the directory by what it knows of it. A process that deletes a remote file drops
//! its blocks; the caches of other machines keep theirs until they are evicted.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use cenote_base::{ByteSize, Context, Result};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use lance::io::WrappingObjectStore;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use object_store::list::PaginatedListStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::files::objects::PARALLEL;
use crate::identity::new_identity;

/// Bytes of a block of a remote file; the last block may be shorter.
const BLOCK_BYTES: u64 = 256 << 10;
const CHECKSUM_BYTES: usize = 4;
/// The folders of a base in which files never change.
const FOLDERS: [&str; 3] = ["data", "_deletions", "_indices"];

/// The size and the use of a cache of remote files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BlockCacheUsage {
    /// Bytes on the local disk.
    pub bytes: u64,
    /// Bytes that were read from it since the store was opened.
    pub hit_bytes: u64,
    /// Bytes that were fetched from the object store instead.
    pub missed_bytes: u64,
}

/// The cache: see the module's description.
#[derive(Debug)]
pub(crate) struct BlockCache {
    directory: PathBuf,
    /// The cached blocks, with the bytes of their files.
    kept: Cache<Block, u32>,
    hit_bytes: AtomicU64,
    missed_bytes: AtomicU64,
}

/// A block of a remote file, which is identified by a hash of its store and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Block {
    file: u128,
    number: u64,
}

impl Block {
    fn name(self) -> String {
        format!("{:032x}-{:x}", self.file, self.number)
    }

    fn parse(name: &str) -> Option<Self> {
        let (file, number) = name.split_once('-')?;
        Some(Self { file: u128::from_str_radix(file, 16).ok()?, number: u64::from_str_radix(number, 16).ok()? })
    }
}

impl BlockCache {
    /// Opens the cache in `directory`, which is created if it does not exist, with a limit of `bytes_max`. Does
    /// blocking I/O.
    pub(crate) fn open(directory: PathBuf, bytes_max: ByteSize) -> Result<Self> {
        let failed = || format!("read the cache in {}", directory.display());
        std::fs::create_dir_all(&directory).context(failed)?;
        let removed_from = directory.clone();
        let remove = move |block: Arc<Block>, _: u32, cause: RemovalCause| {
            if cause != RemovalCause::Replaced {
                // Another process may have removed it already.
                drop(std::fs::remove_file(removed_from.join(block.name())));
            }
        };
        let kept = Cache::builder()
            .max_capacity(bytes_max.0)
            .weigher(|_: &Block, bytes: &u32| *bytes)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(remove)
            .build();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).context(failed)? {
            let entry = entry.context(failed)?;
            // Another process may remove it meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            let bytes = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
            match entry.file_name().to_str().and_then(Block::parse) {
                Some(block) => found.push((metadata.modified().ok(), block, bytes)),
                // A part left behind by a process that ended while it wrote it.
                None if is_abandoned(&metadata) => drop(std::fs::remove_file(entry.path())),
                None => {}
            }
        }
        found.sort_unstable_by_key(|(modified, ..)| *modified);
        found.into_iter().for_each(|(_, block, bytes)| kept.insert(block, bytes));
        Ok(Self { directory, kept, hit_bytes: AtomicU64::new(0), missed_bytes: AtomicU64::new(0) })
    }

    pub(crate) fn usage(&self) -> BlockCacheUsage {
        self.kept.run_pending_tasks();
        BlockCacheUsage {
            bytes: self.kept.weighted_size(),
            hit_bytes: self.hit_bytes.load(Ordering::Relaxed),
            missed_bytes: self.missed_bytes.load(Ordering::Relaxed),
        }
    }

    /// Reads a block; `None` when it has to be fetched. Does blocking I/O.
    fn read(&self, block: Block) -> Option<Bytes> {
        self.kept.get(&block)?;
        let whole = std::fs::read(self.directory.join(block.name())).ok().and_then(|mut bytes| {
            let checksum = bytes.split_off(bytes.len().checked_sub(CHECKSUM_BYTES)?);
            (crc32fast::hash(&bytes).to_le_bytes() == checksum[..]).then_some(bytes)
        });
        if whole.is_none() {
            self.kept.invalidate(&block);
        }
        whole.map(Bytes::from)
    }

    /// Drops the blocks of `file`, which was deleted. Does blocking I/O.
    fn forget(&self, file: u128) {
        let blocks: Vec<Block> = self.kept.iter().map(|(block, _)| *block).filter(|block| block.file == file).collect();
        blocks.iter().for_each(|block| self.kept.invalidate(block));
        self.kept.run_pending_tasks();
    }

    /// Writes a block. Does blocking I/O.
    fn keep(&self, block: Block, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.directory.join(block.name());
        // Unique among the threads, processes and hosts that share the directory.
        let (unique, _) = new_identity();
        let part = self.directory.join(format!("{}.{unique:016x}.part", block.name()));
        std::fs::write(&part, [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat())?;
        std::fs::rename(&part, &path)?;
        self.kept.insert(block, (bytes.len() + CHECKSUM_BYTES) as u32);
        Ok(())
    }
}

/// Returns whether a partly written block is too old to be still in progress.
fn is_abandoned(metadata: &std::fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 3600)
}

/// A wrapper that puts the cache before each object store that Lance opens.
#[derive(Debug)]
pub(crate) struct Caching(pub(crate) Arc<BlockCache>);

impl WrappingObjectStore for Caching {
    fn wrap(&self, store_prefix: &str, original: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Cached { cache: Arc::clone(&self.0), store: store_prefix.to_owned(), inner: original })
    }

    fn wrap_paginated(&self, _: &str, original: Arc<dyn PaginatedListStore>) -> Option<Arc<dyn PaginatedListStore>> {
        Some(original)
    }
}

/// An object store with the cache before it.
#[derive(Debug)]
struct Cached {
    cache: Arc<BlockCache>,
    /// The name of the store.
    store: String,
    inner: Arc<dyn ObjectStore>,
}

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} through {}", self.inner, self.cache.directory.display())
    }
}

impl Cached {
    /// Reads `range` of the file at `location`, or less at its end.
    async fn read(&self, location: &Path, range: Range<u64>) -> object_store::Result<Bytes> {
        let file = file(&self.store, location);
        let numbers = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let cache = Arc::clone(&self.cache);
        let wanted = numbers.clone();
        let here = off_executor(move || {
            let block = |number| Some((number, cache.read(Block { file, number })?));
            wanted.filter_map(block).collect::<BTreeMap<u64, Bytes>>()
        });
        let mut blocks = here.await?;
        self.cache.hit_bytes.fetch_add(blocks.values().map(|block| block.len() as u64).sum(), Ordering::Relaxed);

        // Fetch adjacent blocks in one request.
        let mut missing: Vec<Range<u64>> = Vec::new();
        for number in numbers.clone().filter(|number| !blocks.contains_key(number)) {
            match missing.last_mut() {
                Some(run) if run.end == number => run.end = number + 1,
                _ => missing.push(number..number + 1),
            }
        }
        let fetched = stream::iter(missing).map(|run| self.fetch(location, file, run)).buffered(PARALLEL);
        blocks.extend(fetched.try_collect::<Vec<_>>().await?.into_iter().flatten());

        let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
        for number in numbers {
            let Some(block) = blocks.get(&number) else { break };
            let start = number * BLOCK_BYTES;
            let within = |at: u64| (at.saturating_sub(start) as usize).min(block.len());
            whole.extend_from_slice(&block[within(range.start)..within(range.end)]);
        }
        Ok(whole.freeze())
    }
}

impl Cached {
    /// Fetches a run of blocks from the object store, and caches them.
    async fn fetch(&self, location: &Path, file: u128, run: Range<u64>) -> object_store::Result<Vec<(u64, Bytes)>> {
        let bounds = run.start * BLOCK_BYTES..run.end * BLOCK_BYTES;
        let options = GetOptions { range: Some(GetRange::Bounded(bounds)), ..GetOptions::default() };
        let bytes = self.inner.get_opts(location, options).await?.bytes().await?;
        self.cache.missed_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let parts = (run.start..).zip((0..bytes.len()).step_by(BLOCK_BYTES as usize));
        let parts: Vec<(u64, Bytes)> =
            parts.map(|(number, at)| (number, bytes.slice(at..bytes.len().min(at + BLOCK_BYTES as usize)))).collect();
        let (cache, kept) = (Arc::clone(&self.cache), parts.clone());
        off_executor(move || {
            for (number, bytes) in kept {
                if let Err(error) = cache.keep(Block { file, number }, &bytes) {
                    tracing::warn!(%error, directory = %cache.directory.display(), "a remote block cannot be cached");
                    return;
                }
            }
        })
        .await?;
        Ok(parts)
    }
}

/// Returns the hash that identifies the file at `location` of `store`.
fn file(store: &str, location: &Path) -> u128 {
    let mut hasher = SipHasher13::new();
    std::hash::Hash::hash(&(store, location.as_ref()), &mut hasher);
    hasher.finish128().as_u128()
}

/// Returns whether the file at `location` never changes.
fn is_constant(location: &Path) -> bool {
    let parts: Vec<_> = location.parts().collect();
    parts.windows(2).any(|pair| pair[0].as_ref().ends_with(".lance") && FOLDERS.contains(&pair[1].as_ref()))
}

async fn off_executor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> object_store::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| object_store::Error::Generic { store: "block cache", source: Box::new(source) })
}

#[async_trait]
impl ObjectStore for Cached {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let plain = GetOptions { range: options.range.clone(), ..GetOptions::default() };
        let is_plain = !options.head
            && options.version.is_none()
            && options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none();
        let range = match &plain.range {
            Some(GetRange::Bounded(range)) if is_plain && range.start < range.end && is_constant(location) => {
                range.clone()
            }
            _ => return self.inner.get_opts(location, options).await,
        };
        let bytes = self.read(location, range.clone()).await?;
        let read = range.start..range.start + bytes.len() as u64;
        if read.is_empty() {
            // The range begins after the end of the file: let the store report that.
            return self.inner.get_opts(location, options).await;
        }
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: read.end,
            e_tag: None,
            version: None,
        };
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range: read, attributes: Default::default(), extensions: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        if !is_constant(location) {
            return self.inner.get_ranges(location, ranges).await;
        }
        stream::iter(ranges.to_vec()).map(|range| self.read(location, range)).buffered(PARALLEL).try_collect().await
    }

    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let (cache, store) = (Arc::clone(&self.cache), self.store.clone());
        // Deleted files must not remain in the cache either.
        let forget = move |location: Path| {
            let (cache, file) = (Arc::clone(&cache), file(&store, &location));
            async move {
                // Files that may change have no blocks.
                if is_constant(&location) {
                    off_executor(move || cache.forget(file)).await?;
                }
                Ok(location)
            }
        };
        self.inner.delete_stream(locations).and_then(forget).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
