//! Where the files of a table's key index are: in a local directory, and for a table in an object store there too, from
//! where other processes copy what they lack.

use std::collections::BTreeSet;
use std::path::PathBuf;

use cenote_base::{Context, Result};

use crate::key_index::{KeyIndex, Manifest, manifest_name};
use crate::objects::Objects;
use crate::state::blocking;

/// Entries sorted in memory at a time while an index is made anew.
pub(crate) const BATCH_ENTRIES: usize = 1 << 20;

/// See the module's description.
#[derive(Debug, Clone)]
pub(crate) struct KeyFiles {
    directory: PathBuf,
    mirror: Option<Objects>,
}

impl KeyFiles {
    pub(crate) fn new(directory: PathBuf, mirror: Option<Objects>) -> Self {
        Self { directory, mirror }
    }

    /// Where they are, for people.
    pub(crate) fn name(&self) -> String {
        self.directory.display().to_string()
    }

    /// An index without entries.
    pub(crate) async fn empty(&self) -> Result<KeyIndex> {
        let directory = self.directory.clone();
        blocking(move || KeyIndex::empty(&directory)).await
    }

    /// The index of base version `version`; `None` when none was written for it, or a file of it is gone.
    pub(crate) async fn open(&self, version: u64) -> Result<Option<KeyIndex>> {
        if let Some(mirror) = &self.mirror {
            tokio::fs::create_dir_all(&self.directory).await.context(|| format!("make directory {}", self.name()))?;
            let name = manifest_name(version);
            let Some(bytes) = mirror.get(&name).await? else { return Ok(None) };
            for level in Manifest::parse(&bytes, &name)?.levels {
                let path = self.directory.join(&level);
                if !tokio::fs::try_exists(&path).await? && !mirror.download(&level, &path).await? {
                    return Ok(None);
                }
            }
            mirror.download(&name, &self.directory.join(&name)).await?;
        }
        let directory = self.directory.clone();
        blocking(move || KeyIndex::open(&directory, version)).await
    }

    /// Makes `keys` the index of base version `version`.
    pub(crate) async fn save(&self, keys: KeyIndex, version: u64) -> Result<KeyIndex> {
        let keys = blocking(move || keys.save(version).map(|()| keys)).await?;
        if let Some(mirror) = &self.mirror {
            let there: BTreeSet<String> = mirror.list().await?.into_iter().collect();
            for level in keys.level_names().filter(|level| !there.contains(*level)) {
                mirror.upload(level, &self.directory.join(level)).await?;
            }
            // Last: what it names must be there.
            let name = manifest_name(version);
            mirror.upload(&name, &self.directory.join(&name)).await?;
        }
        Ok(keys)
    }

    /// Removes what belongs to no base version in `keep`.
    pub(crate) async fn collect(&self, keep: BTreeSet<u64>) -> Result<()> {
        if let Some(mirror) = &self.mirror {
            let mut needed = BTreeSet::new();
            for version in &keep {
                let name = manifest_name(*version);
                if let Some(bytes) = mirror.get(&name).await? {
                    needed.extend(Manifest::parse(&bytes, &name)?.levels);
                    needed.insert(name);
                }
            }
            for name in mirror.list().await?.iter().filter(|name| !needed.contains(*name)) {
                mirror.delete(name).await?;
            }
        }
        let directory = self.directory.clone();
        blocking(move || KeyIndex::collect(&directory, &keep)).await
    }

    /// Removes them all.
    pub(crate) async fn remove(&self) -> Result<()> {
        if let Some(mirror) = &self.mirror {
            mirror.delete_all().await?;
        }
        match tokio::fs::remove_dir_all(&self.directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(cenote_base::Error::from(error).context(format!("remove {}", self.name())))
            }
            _ => Ok(()),
        }
    }
}
