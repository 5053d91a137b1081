//! The storage of a table's key index: a local directory. For a table in an object store, there is a copy in the store,
//! from which other processes download what they lack.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use cenote_base::{Context, Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt, stream};

use crate::blocking::blocking;
use crate::files::durable;
use crate::files::objects::{Objects, PARALLEL};
use crate::keys::key_index::{KeyIndex, Manifest, manifest_name};

/// Entries sorted in memory at a time while an index is rebuilt.
pub(crate) const BATCH_ENTRIES: usize = 1 << 20;

/// The files of a key index, and their copy in an object store if there is one.
#[derive(Debug, Clone)]
pub(crate) struct KeyFiles {
    directory: PathBuf,
    mirror: Option<Objects>,
}

impl KeyFiles {
    pub(crate) fn new(directory: PathBuf, mirror: Option<Objects>) -> Self {
        Self { directory, mirror }
    }

    /// Returns their location, for messages.
    pub(crate) fn name(&self) -> String {
        self.directory.display().to_string()
    }

    /// Makes an index without entries.
    pub(crate) async fn empty(&self) -> Result<KeyIndex> {
        let directory = self.directory.clone();
        blocking(move || KeyIndex::empty(&directory)).await
    }

    /// Opens the index of base version `version`; `None` when none was written for it, or one of its files is missing
    /// or damaged.
    pub(crate) async fn open(&self, version: u64) -> Result<Option<KeyIndex>> {
        // Tried a second time in case another process removed a copy meanwhile, or a copy was damaged.
        for _ in 0..2 {
            if let Some(mirror) = &self.mirror
                && !self.fetch(mirror, version).await?
            {
                return Ok(None);
            }
            let directory = self.directory.clone();
            let open = move || match KeyIndex::open(&directory, version) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    KeyIndex::discard_damaged(&directory, version).map(|()| None)
                }
                keys => keys,
            };
            if let Some(keys) = blocking(open).await? {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }

    /// Downloads missing files of the index of base version `version`. Returns false if it is incomplete in the object
    /// store too.
    async fn fetch(&self, mirror: &Objects, version: u64) -> Result<bool> {
        tokio::fs::create_dir_all(&self.directory).await.context(|| format!("make directory {}", self.name()))?;
        let name = manifest_name(version);
        let Some(bytes) = mirror.get(&name).await? else { return Ok(false) };
        let manifest = match Manifest::parse(&bytes, &name) {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(false),
            manifest => manifest?,
        };
        let mut is_new = false;
        for level in manifest.levels {
            let path = self.directory.join(&level);
            if tokio::fs::try_exists(&path).await? {
                continue;
            }
            is_new = true;
            let directory = self.directory.clone();
            if !mirror.download(&level, &path).await?
                || !blocking(move || KeyIndex::is_whole(&directory, &level)).await?
            {
                return Ok(false);
            }
        }
        mirror.download(&name, &self.directory.join(&name)).await?;
        if is_new {
            // A process that only reads does not collect; here it learns what was collected elsewhere.
            let (directory, known) = (self.directory.clone(), mirror.list().await?.into_iter().collect());
            blocking(move || KeyIndex::tidy(&directory, &known)).await?;
        }
        Ok(true)
    }

    /// Saves `keys` as the index of base version `version`.
    pub(crate) async fn save(&self, keys: KeyIndex, version: u64) -> Result<KeyIndex> {
        let keys = blocking(move || keys.save(version).map(|()| keys)).await?;
        if let Some(mirror) = &self.mirror {
            let there: BTreeSet<String> = mirror.list().await?.into_iter().collect();
            for level in keys.level_names().filter(|level| !there.contains(*level)) {
                mirror.upload(level, &self.directory.join(level)).await?;
            }
            // The manifest goes last: what it names must exist.
            let name = manifest_name(version);
            mirror.upload(&name, &self.directory.join(&name)).await?;
        }
        Ok(keys)
    }

    /// Removes files that belong to no base version in `keep`.
    pub(crate) async fn collect(&self, keep: BTreeSet<u64>) -> Result<()> {
        if let Some(mirror) = &self.mirror {
            let names: Vec<String> = keep.iter().map(|version| manifest_name(*version)).collect();
            let read = stream::iter(names).map(|name| {
                let mirror = mirror.clone();
                async move { Ok::<_, Error>((mirror.get(&name).await?, name)) }
            });
            let manifests: Vec<(Option<Bytes>, String)> = read.buffer_unordered(PARALLEL).try_collect().await?;
            let mut needed = BTreeSet::new();
            for (bytes, name) in manifests {
                if let Some(bytes) = bytes {
                    needed.extend(Manifest::parse(&bytes, &name)?.levels);
                    needed.insert(name);
                }
            }
            let mut doomed = mirror.list().await?;
            doomed.retain(|name| !needed.contains(name));
            mirror.delete_many(doomed).await?;
        }
        let directory = self.directory.clone();
        blocking(move || KeyIndex::collect(&directory, &keep)).await
    }

    /// Removes all files.
    pub(crate) async fn remove(&self) -> Result<()> {
        if let Some(mirror) = &self.mirror {
            mirror.delete_all().await?;
        }
        durable::remove_directory(self.directory.clone()).await
    }
}
