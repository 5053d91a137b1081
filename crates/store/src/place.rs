//! Where a store is, and where in it the parts of a table are: a local directory, or a prefix of an object store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenote_base::{ByteSize, Context, Error, Result};
use futures::{StreamExt, TryStreamExt};
use lance::io::{ObjectStore as LanceStore, ObjectStoreParams, ObjectStoreRegistry, StorageOptionsAccessor};
use lance::session::Session;

use crate::block_cache::{BlockCache, Caching};
use crate::fault::lance_error;
use crate::key_files::KeyFiles;
use crate::lease::{Leases, TableLease};
use crate::log::LogPlace;
use crate::objects::Objects;
use crate::state::blocking;
use crate::store::StoreOptions;

const EXTENSION: &str = "lance";
/// Tables asked for at once.
const PARALLEL: usize = 16;

/// Where a store is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Directory(PathBuf),
    Objects {
        objects: Objects,
        uri: String,
        /// Where copies are that are read often.
        cache: PathBuf,
        /// What of the bases is kept there too.
        blocks: Option<Arc<Caching>>,
    },
}

/// The bytes of file `name` at `location`, which is a directory or a URI; `None` when there is none.
pub async fn read_file(location: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    if let Some(objects) = objects_at(location, &Arc::default(), &StoreOptions::default(), None).await? {
        return Ok(objects.get(name).await?.map(Vec::from));
    }
    let path = location.join(name);
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("read {}", path.display()))),
    }
}

/// Makes file `name` at `location`, which is a directory, made if it does not exist, or a URI. The file is there whole or not
/// at all; false when there is one.
pub async fn create_file(location: &Path, name: &str, bytes: Vec<u8>) -> Result<bool> {
    if let Some(objects) = objects_at(location, &Arc::default(), &StoreOptions::default(), None).await? {
        return objects.create(name, bytes.into()).await;
    }
    let path = location.join(name);
    let failed = || format!("write {}", path.display());
    tokio::fs::create_dir_all(location).await.context(failed)?;
    let part = location.join(format!("{name}.{}.new", std::process::id()));
    tokio::fs::write(&part, bytes).await.context(failed)?;
    let linked = tokio::fs::hard_link(&part, &path).await;
    tokio::fs::remove_file(&part).await.context(failed)?;
    match linked {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true).context(failed),
    }
}

/// What Lance is told of an object store.
pub(crate) fn store_params(options: &HashMap<String, String>) -> ObjectStoreParams {
    let accessor =
        (!options.is_empty()).then(|| Arc::new(StorageOptionsAccessor::with_static_options(options.clone())));
    ObjectStoreParams { storage_options_accessor: accessor, ..ObjectStoreParams::default() }
}

/// And of the cache before it.
fn cached_params(options: &HashMap<String, String>, blocks: Option<&Arc<Caching>>) -> ObjectStoreParams {
    let wrapper = blocks.map(|blocks| Arc::clone(blocks) as _);
    ObjectStoreParams { object_store_wrapper: wrapper, ..store_params(options) }
}

fn uri(location: &Path) -> Option<&str> {
    location.to_str().filter(|text| text.contains("://"))
}

/// The objects at `location`, when that is a URI.
async fn objects_at(
    location: &Path,
    registry: &Arc<ObjectStoreRegistry>,
    options: &StoreOptions,
    blocks: Option<&Arc<Caching>>,
) -> Result<Option<Objects>> {
    let Some(uri) = uri(location) else { return Ok(None) };
    let params = cached_params(&options.object_store, blocks);
    let opened = LanceStore::from_uri_and_params(Arc::clone(registry), uri, &params).await;
    let (store, prefix) =
        opened.map_err(|source| lance_error(source).context(format!("open the object store at {uri}")))?;
    Ok(Some(Objects::new(Arc::clone(&store.inner), prefix, options.faults.clone())))
}

/// Where the parts of a table are.
#[derive(Debug)]
pub(crate) struct TablePlace {
    /// The Lance dataset, and what Lance is told of the store that it is in.
    pub(crate) base: String,
    pub(crate) params: ObjectStoreParams,
    pub(crate) log: LogPlace,
    pub(crate) keys: KeyFiles,
    pub(crate) leases: Leases,
}

impl Place {
    /// The store at `location`: a directory, which is made if it does not exist, or a URI.
    pub(crate) async fn open(location: &Path, session: &Arc<Session>, options: &StoreOptions) -> Result<Self> {
        let (directory, bytes_max) = (options.cache_directory.join("blocks"), options.block_cache_bytes_max);
        let blocks = match uri(location) {
            Some(_) if bytes_max > ByteSize(0) => {
                Some(Arc::new(Caching(Arc::new(blocking(move || BlockCache::open(directory, bytes_max)).await?))))
            }
            _ => None,
        };
        let Some(objects) = objects_at(location, &session.store_registry(), options, blocks.as_ref()).await? else {
            let failed = || format!("make directory {}", location.display());
            tokio::fs::create_dir_all(location).await.context(failed)?;
            return tokio::fs::canonicalize(location).await.map(Self::Directory).context(failed);
        };
        let uri = location.to_string_lossy().trim_end_matches('/').to_owned();
        let directory: String = uri.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let cache = options.cache_directory.join(directory);
        Ok(Self::Objects { objects, uri, cache, blocks })
    }

    /// The cache of remote files, if there is one.
    pub(crate) fn blocks(&self) -> Option<&Arc<Caching>> {
        match self {
            Self::Directory(_) => None,
            Self::Objects { blocks, .. } => blocks.as_ref(),
        }
    }

    /// Where the parts of table `name` are.
    pub(crate) fn table(&self, name: &str, options: &StoreOptions) -> TablePlace {
        match self {
            Self::Directory(directory) => {
                let log = directory.join(format!("{name}.changes"));
                TablePlace {
                    params: store_params(&options.object_store),
                    base: directory.join(format!("{name}.{EXTENSION}")).to_string_lossy().into_owned(),
                    keys: KeyFiles::new(log.join("keys"), None),
                    log: LogPlace::Directory(log, options.faults.clone()),
                    leases: Leases::Files {
                        writer: directory.join(format!("{name}.lock")),
                        base: directory.join(format!("{name}.base.lock")),
                    },
                }
            }
            Self::Objects { objects, uri, cache, blocks } => {
                let changes = objects.under(&format!("{name}.changes"));
                let lease = TableLease::new(changes.under("lease"), options.lease_patience);
                TablePlace {
                    params: cached_params(&options.object_store, blocks.as_ref()),
                    base: format!("{uri}/{name}.{EXTENSION}"),
                    log: LogPlace::Objects(changes.under("log")),
                    keys: KeyFiles::new(cache.join(name), Some(changes.under("keys"))),
                    leases: Leases::Objects(Arc::new(lease)),
                }
            }
        }
    }

    /// Whether there is a table called `name`.
    pub(crate) async fn has_table(&self, name: &str) -> Result<bool> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(format!("{name}.{EXTENSION}"));
                tokio::fs::try_exists(&path).await.context(|| format!("look for {}", path.display()))
            }
            // What a drop removes first.
            Self::Objects { objects, .. } => {
                objects.under(&format!("{name}.{EXTENSION}")).under("_versions").any().await
            }
        }
    }

    /// The names of all tables, sorted.
    pub(crate) async fn tables(&self) -> Result<Vec<String>> {
        let named = |name: &str| Some(name.strip_suffix(EXTENSION)?.strip_suffix('.')?.to_owned());
        let mut names = Vec::new();
        match self {
            Self::Directory(directory) => {
                let failed = || format!("list {}", directory.display());
                let mut entries = tokio::fs::read_dir(directory).await.context(failed)?;
                while let Some(entry) = entries.next_entry().await.context(failed)? {
                    names.extend(named(&entry.file_name().to_string_lossy()));
                }
            }
            Self::Objects { objects, .. } => {
                let folders = objects.folders().await?;
                let found: Vec<String> = folders.iter().filter_map(|folder| named(folder)).collect();
                let place = self.clone();
                let asked = futures::stream::iter(found).map(move |name| {
                    let place = place.clone();
                    async move { Ok::<_, Error>(place.has_table(&name).await?.then_some(name)) }
                });
                let found: Vec<Option<String>> = asked.buffer_unordered(PARALLEL).try_collect().await?;
                names = found.into_iter().flatten().collect();
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes what a drop of table `name` that was cut short left, before it is made anew.
    pub(crate) async fn clear(&self, name: &str, options: &StoreOptions) -> Result<()> {
        if let Self::Objects { objects, .. } = self {
            objects.under(&format!("{name}.{EXTENSION}")).delete_all().await?;
        }
        let place = self.table(name, options);
        place.keys.remove().await?;
        place.log.remove().await
    }

    /// Removes table `name`. When it is cut short the table is gone or whole.
    pub(crate) async fn drop_table(&self, name: &str, options: &StoreOptions) -> Result<()> {
        match self {
            Self::Directory(directory) => {
                let failed = || format!("drop table `{name}`");
                let doomed = directory.join(format!("{name}.dropped"));
                let path = directory.join(format!("{name}.{EXTENSION}"));
                tokio::fs::rename(path, &doomed).await.context(failed)?;
                self.clear(name, options).await?;
                tokio::fs::remove_dir_all(&doomed).await.context(failed)
            }
            Self::Objects { objects, .. } => {
                objects.under(&format!("{name}.{EXTENSION}")).under("_versions").delete_all().await?;
                self.clear(name, options).await
            }
        }
    }

    /// Bytes of table `name`: base and log, all versions together.
    pub(crate) async fn bytes(&self, name: &str) -> Result<u64> {
        let parts = [format!("{name}.{EXTENSION}"), format!("{name}.changes")];
        match self {
            Self::Directory(directory) => {
                let directories = parts.map(|part| directory.join(part));
                blocking(move || directories.iter().map(|path| directory_bytes(path)).sum()).await
            }
            Self::Objects { objects, .. } => {
                let [base, changes] = parts;
                Ok(objects.under(&base).bytes().await? + objects.under(&changes).bytes().await?)
            }
        }
    }
}

fn directory_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).context(|| format!("list {}", path.display()))? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                // A file that a writer replaced meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}
