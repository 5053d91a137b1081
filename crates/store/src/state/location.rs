//! The location of a store, and of the parts of each table in it: a local directory, or a prefix of an object store.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cenote_base::{ByteSize, Context, Error, Result};
use futures::{StreamExt, TryStreamExt};
use lance::io::{ObjectStore as LanceStore, ObjectStoreParams, ObjectStoreRegistry};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;

use crate::base::fence::Fence;
use crate::base::readers::Readers;
use crate::base::staging::Staging;
use crate::blocking::blocking;
use crate::errors::lance_error;
use crate::faults::Faults;
use crate::files::block_cache::{BlockCache, Caching};
use crate::files::durable::{make_directory, sync_directory};
use crate::files::objects::Objects;
use crate::files::store_params::{cached_params, local_params, store_params};
use crate::identity::new_identity;
use crate::keys::key_files::KeyFiles;
use crate::leases::lease::{Leases, TableLease};
use crate::leases::turn::Turns;
use crate::log::LogLocation;
use crate::state::presence::Presence;

const EXTENSION: &str = "lance";
/// The suffix of a table's directory while the table is being removed.
const DROPPED: &str = ".dropped";
/// The folder of a base that holds its versions; a directory without any is not a table.
const VERSIONS: &str = "_versions";
/// Maximum number of tables looked up in parallel.
const PARALLEL: usize = 16;

/// The location of a store, and the options for reading and writing there.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    root: Root,
    options: LocationOptions,
}

/// The store options that concern its location.
#[derive(Debug, Clone)]
pub(crate) struct LocationOptions {
    /// See [`StoreOptions::object_store`](crate::StoreOptions::object_store).
    pub(crate) object_store: HashMap<String, String>,
    pub(crate) lease_patience: Duration,
    pub(crate) cache_directory: PathBuf,
    pub(crate) block_cache_bytes_max: ByteSize,
    pub(crate) faults: Faults,
}

#[derive(Debug, Clone)]
enum Root {
    Directory {
        path: PathBuf,
        /// The same files through the interface of an object store.
        objects: Objects,
    },
    Objects {
        objects: Objects,
        uri: String,
        /// The directory for copies of what is read often.
        cache: PathBuf,
        /// The cache of blocks of base files, in the same directory.
        blocks: Option<Arc<Caching>>,
    },
}

/// Reads the file `name` at `location`, a directory or a URI; `None` when it does not exist.
pub async fn read_file(location: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    if let Some(objects) =
        objects_at(location, &Arc::default(), &ObjectStoreParams::default(), Faults::default()).await?
    {
        return Ok(objects.get(name).await?.map(Vec::from));
    }
    let path = location.join(name);
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from(error).context(format!("read {}", path.display()))),
    }
}

/// Creates the file `name` at `location`: a directory, which is created if it does not exist, or a URI. The file
/// appears as a whole or not at all, and is durable when this returns. Returns false if it exists already.
pub async fn create_file(location: &Path, name: &str, bytes: Vec<u8>) -> Result<bool> {
    if let Some(objects) =
        objects_at(location, &Arc::default(), &ObjectStoreParams::default(), Faults::default()).await?
    {
        return objects.create(name, bytes.into()).await;
    }
    let (directory, path) = (location.to_path_buf(), location.join(name));
    // Unique among the tasks, processes and hosts that may create the file at once.
    let (unique, _) = new_identity();
    let part = location.join(format!("{name}.{unique:016x}.new"));
    blocking(move || {
        let failed = || format!("write {}", path.display());
        make_directory(&directory)?;
        let written = File::create(&part).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        let linked = written.and_then(|()| std::fs::hard_link(&part, &path));
        let removed = std::fs::remove_file(&part);
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            linked => {
                linked.and(removed).context(failed)?;
                sync_directory(&directory).map(|()| true)
            }
        }
    })
    .await
}

fn uri(location: &Path) -> Option<&str> {
    location.to_str().filter(|text| text.contains("://"))
}

/// Opens `location` as an object store if it is a URI.
async fn objects_at(
    location: &Path,
    registry: &Arc<ObjectStoreRegistry>,
    params: &ObjectStoreParams,
    faults: Faults,
) -> Result<Option<Objects>> {
    let Some(uri) = uri(location) else { return Ok(None) };
    let opened = LanceStore::from_uri_and_params(Arc::clone(registry), uri, params).await;
    let (store, prefix) =
        opened.map_err(|source| lance_error(source).context(format!("open the object store at {uri}")))?;
    Ok(Some(Objects::new(Arc::clone(&store.inner), prefix, faults)))
}

/// The location of the parts of a table.
#[derive(Debug)]
pub(crate) struct TableLocation {
    /// The URI of the Lance dataset, and the parameters with which Lance opens its store.
    pub(crate) base: String,
    pub(crate) params: ObjectStoreParams,
    /// The parameters without the wrapper around the store, for the commit handler.
    commit_params: ObjectStoreParams,
    /// The files of the dataset.
    pub(crate) files: Objects,
    pub(crate) log: LogLocation,
    pub(crate) keys: KeyFiles,
    pub(crate) leases: Leases,
    pub(crate) turns: Turns,
    pub(crate) staging: Staging,
}

impl TableLocation {
    /// Returns a fence of the base that has not learnt of any version yet.
    pub(crate) async fn fence(&self) -> Result<Fence> {
        Fence::new(&self.base, self.commit_params.clone()).await.map_err(lance_error)
    }

    /// Records which table exists now, so that its removal can be detected later.
    pub(crate) async fn presence(&self) -> Result<Presence> {
        match &self.log {
            LogLocation::Directory(log, _) => Presence::of_directories(PathBuf::from(&self.base), log.clone()).await,
            LogLocation::Objects(_) => Ok(Presence::of_objects(self.files.under(VERSIONS))),
        }
    }

    /// Returns an empty registry of the base's readers.
    pub(crate) fn readers(&self) -> Readers {
        let is_local = matches!(self.log, LogLocation::Directory(..));
        Readers::new(is_local.then(|| PathBuf::from(&self.base).join(VERSIONS)))
    }
}

impl Root {
    async fn open(location: &Path, stores: &Arc<ObjectStoreRegistry>, options: &LocationOptions) -> Result<Self> {
        let (directory, bytes_max) = (options.cache_directory.join("blocks"), options.block_cache_bytes_max);
        let blocks = match uri(location) {
            Some(_) if bytes_max > ByteSize(0) => {
                Some(Arc::new(Caching(Arc::new(blocking(move || BlockCache::open(directory, bytes_max)).await?))))
            }
            _ => None,
        };
        let params = cached_params(&options.object_store, blocks.as_ref());
        let Some(objects) = objects_at(location, stores, &params, options.faults.clone()).await? else {
            let failed = || format!("open directory {}", location.display());
            let directory = location.to_path_buf();
            blocking(move || make_directory(&directory)).await?;
            let path = tokio::fs::canonicalize(location).await.context(failed)?;
            let files = LocalFileSystem::new_with_prefix(&path);
            let files = files.map_err(|source| Error::internal(failed()).with_source(source))?;
            let objects = Objects::new(Arc::new(files), ObjectPath::default(), options.faults.clone());
            if let Err(error) = remove_dropped(&path, None).await {
                // This only wastes space, and the directory may be read-only.
                tracing::warn!(%error, "files of dropped tables cannot be removed");
            }
            return Ok(Self::Directory { path, objects });
        };
        let uri = location.to_string_lossy().trim_end_matches('/').to_owned();
        let directory: String = uri.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let cache = options.cache_directory.join(directory);
        Ok(Self::Objects { objects, uri, cache, blocks })
    }

    fn objects(&self) -> &Objects {
        match self {
            Self::Directory { objects, .. } | Self::Objects { objects, .. } => objects,
        }
    }
}

impl Location {
    /// Opens the store at `location`: a directory, which is created if it does not exist, or a URI.
    pub(crate) async fn open(
        location: &Path,
        stores: &Arc<ObjectStoreRegistry>,
        options: LocationOptions,
    ) -> Result<Self> {
        let root = Root::open(location, stores, &options).await?;
        Ok(Self { root, options })
    }

    /// Returns this machine's directory for data that can be rebuilt.
    pub(crate) fn cache_directory(&self) -> &Path {
        &self.options.cache_directory
    }

    /// Returns the cache of remote files, if there is one.
    pub(crate) fn blocks(&self) -> Option<&Arc<Caching>> {
        match &self.root {
            Root::Directory { .. } => None,
            Root::Objects { blocks, .. } => blocks.as_ref(),
        }
    }

    /// Returns the files of the base of table `name`.
    fn files(&self, name: &str) -> Objects {
        self.root.objects().under(&format!("{name}.{EXTENSION}"))
    }

    /// Returns the location of the parts of table `name`.
    pub(crate) fn table(&self, name: &str) -> TableLocation {
        let (files, options) = (self.files(name), &self.options);
        let commit_params = store_params(&options.object_store);
        let staging = Staging::new(self.root.objects().under(&format!("{name}.staged")), options.lease_patience);
        match &self.root {
            Root::Directory { path, .. } => {
                let log = path.join(format!("{name}.changes"));
                TableLocation {
                    params: local_params(&options.object_store),
                    base: path.join(format!("{name}.{EXTENSION}")).to_string_lossy().into_owned(),
                    commit_params,
                    files,
                    keys: KeyFiles::new(log.join("keys"), None),
                    log: LogLocation::Directory(log, options.faults.clone()),
                    leases: Leases::Files {
                        writer: path.join(format!("{name}.lock")),
                        base: path.join(format!("{name}.base.lock")),
                    },
                    turns: Turns::of_file(path.join(format!("{name}.turn.lock"))),
                    staging,
                }
            }
            Root::Objects { objects, uri, cache, blocks } => {
                let changes = objects.under(&format!("{name}.changes"));
                let lease = TableLease::new(changes.under("lease"), options.lease_patience);
                TableLocation {
                    params: cached_params(&options.object_store, blocks.as_ref()),
                    base: format!("{uri}/{name}.{EXTENSION}"),
                    commit_params,
                    files,
                    log: LogLocation::Objects(changes.under("log")),
                    keys: KeyFiles::new(cache.join(name), Some(changes.under("keys"))),
                    leases: Leases::Objects(Arc::new(lease)),
                    turns: Turns::of_objects(TableLease::new(changes.under("turn"), options.lease_patience)),
                    staging,
                }
            }
        }
    }

    /// Returns whether table `name` exists. A directory without versions is what an interrupted drop left, or an index
    /// build that did not know of the drop.
    pub(crate) async fn has_table(&self, name: &str) -> Result<bool> {
        let Root::Directory { path, .. } = &self.root else { return self.files(name).under(VERSIONS).any().await };
        let path = path.join(format!("{name}.{EXTENSION}")).join(VERSIONS);
        blocking(move || has_version(&path)).await
    }

    /// Lists the names of all tables, sorted.
    pub(crate) async fn tables(&self) -> Result<Vec<String>> {
        let named = |name: &str| Some(name.strip_suffix(EXTENSION)?.strip_suffix('.')?.to_owned());
        let folders = match &self.root {
            Root::Directory { path, .. } => file_names(path).await?,
            Root::Objects { objects, .. } => objects.folders().await?,
        };
        let found: Vec<String> = folders.iter().filter_map(|folder| named(folder)).collect();
        let location = self.clone();
        let asked = futures::stream::iter(found).map(move |name| {
            let location = location.clone();
            async move { Ok::<_, Error>(location.has_table(&name).await?.then_some(name)) }
        });
        let found: Vec<Option<String>> = asked.buffer_unordered(PARALLEL).try_collect().await?;
        let mut names: Vec<String> = found.into_iter().flatten().collect();
        names.sort();
        Ok(names)
    }

    /// Removes what an interrupted drop or creation left of table `name`, so that it can be created again.
    pub(crate) async fn clear(&self, name: &str) -> Result<()> {
        match &self.root {
            Root::Directory { path, .. } => {
                set_aside(path, name).await?;
                remove_dropped(path, Some(name)).await?;
            }
            Root::Objects { .. } => self.files(name).delete_all().await?,
        }
        let location = self.table(name);
        location.keys.remove().await?;
        location.log.remove().await?;
        location.staging.remove().await
    }

    /// Removes table `name`. When interrupted, the table is either gone or intact.
    pub(crate) async fn drop_table(&self, name: &str) -> Result<()> {
        if let Root::Objects { .. } = &self.root {
            self.files(name).under(VERSIONS).delete_all().await?;
        }
        self.clear(name).await
    }

    /// Returns the bytes of table `name`: base and log, all versions together.
    pub(crate) async fn bytes(&self, name: &str) -> Result<u64> {
        let parts = [format!("{name}.{EXTENSION}"), format!("{name}.changes")];
        match &self.root {
            Root::Directory { path, .. } => {
                let directories = parts.map(|part| path.join(part));
                blocking(move || directories.iter().map(|path| directory_bytes(path)).sum()).await
            }
            Root::Objects { objects, .. } => {
                let [base, changes] = parts;
                Ok(objects.under(&base).bytes().await? + objects.under(&changes).bytes().await?)
            }
        }
    }
}

/// Renames the base of table `name` in `directory`, if there is one, to a name that no other drop chooses.
async fn set_aside(directory: &Path, name: &str) -> Result<()> {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let path = directory.join(format!("{name}.{EXTENSION}"));
    match tokio::fs::rename(&path, directory.join(format!("{name}.{random:016x}{DROPPED}"))).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        moved => {
            moved.context(|| format!("drop table `{name}`"))?;
            let directory = directory.to_path_buf();
            // The rename must be durable before the other parts are removed.
            blocking(move || sync_directory(&directory)).await
        }
    }
}

/// Removes what drops in `directory` set aside: of table `name`, or of all tables.
async fn remove_dropped(directory: &Path, name: Option<&str>) -> Result<()> {
    for file in file_names(directory).await? {
        let is_of = |name: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        if !file.ends_with(DROPPED) || !name.is_none_or(is_of) {
            continue;
        }
        let path = directory.join(file);
        match tokio::fs::remove_dir_all(&path).await {
            // Another process removed it too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.context(|| format!("remove {}", path.display()))?,
        }
    }
    Ok(())
}

async fn file_names(directory: &Path) -> Result<Vec<String>> {
    let failed = || format!("list {}", directory.display());
    let mut entries = tokio::fs::read_dir(directory).await.context(failed)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.context(failed)? {
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Returns whether the directory `versions` holds a manifest; an interrupted creation leaves none.
fn has_version(versions: &Path) -> Result<bool> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let failed = || format!("look for {}", versions.display());
    let entries = match std::fs::read_dir(versions) {
        Err(error) if [NotFound, NotADirectory].contains(&error.kind()) => return Ok(false),
        entries => entries.context(failed)?,
    };
    for entry in entries {
        if Path::new(&entry.context(failed)?.file_name()).extension().is_some_and(|end| end == "manifest") {
            return Ok(true);
        }
    }
    Ok(false)
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
                // A writer replaced the file meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(bytes)
}
