//! Objects under a prefix of an object store, each created once or replaced whole, and read whole.

use std::hash::{BuildHasher, RandomState};
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use cenote_base::{Context, Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::errors::is_full_disk;
use crate::faults::Faults;
use crate::files::durable::PART;

/// Bytes of a file in memory while it is copied.
const PART_BYTES: usize = 8 << 20;
/// Maximum requests in flight.
pub(crate) const PARALLEL: usize = 16;

/// The objects under one prefix. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    faults: Faults,
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path, faults: Faults) -> Self {
        Self { store, prefix, faults }
    }

    /// Returns the objects below `name`.
    pub(crate) fn under(&self, name: &str) -> Self {
        Self { prefix: self.path(name), ..self.clone() }
    }

    /// Returns the full name of an object, for messages.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_string()
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Reads an object; `None` when it does not exist.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let read = async { self.store.get(&self.path(name)).await?.bytes().await };
        found(read.await).map_err(|error| error.context(format!("read {}", self.name(name))))
    }

    pub(crate) async fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.size(name).await?.is_some())
    }

    /// Returns the bytes of an object; `None` when it does not exist.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>> {
        let head = found(self.store.head(&self.path(name)).await);
        head.map(|head| head.map(|head| head.size))
            .map_err(|error| error.context(format!("look for {}", self.name(name))))
    }

    /// Returns a stamp that distinguishes an object from later ones of its name; `None` when it does not exist.
    pub(crate) async fn stamp(&self, name: &str) -> Result<Option<String>> {
        let head = found(self.store.head(&self.path(name)).await);
        let head = head.map_err(|error| error.context(format!("look for {}", self.name(name))))?;
        Ok(head.map(|head| head.e_tag.unwrap_or_else(|| format!("{} {}", head.last_modified, head.size))))
    }

    /// Creates an object. Returns false when another one of this name exists.
    ///
    /// After an error the object may exist or still appear: a request that timed out may arrive later.
    pub(crate) async fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        self.faults.check("object.create")?;
        let path = self.path(name);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let made = match self.store.put_opts(&path, bytes.clone().into(), options).await {
            Ok(_) => true,
            // A repeated request may find the object that the first one made, whose answer was lost: then it has our
            // bytes.
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.get(name).await? == Some(bytes)
            }
            Err(error) => return Err(object_error(error).context(format!("write {path}"))),
        };
        self.faults.check("object.created")?;
        Ok(made)
    }

    /// Creates or replaces an object.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.faults.check("object.put")?;
        let put = self.store.put(&self.path(name), bytes.into()).await;
        put.map(drop).map_err(|error| object_error(error).context(format!("write {}", self.name(name))))
    }

    /// Lists the names of all objects, in order.
    pub(crate) async fn list(&self) -> Result<Vec<String>> {
        let found: Vec<Path> = self.paths().await?;
        let prefix = self.prefix.as_ref().len() + 1;
        let mut names: Vec<String> =
            found.iter().filter_map(|path| path.as_ref().get(prefix..).map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the bytes of all objects.
    pub(crate) async fn bytes(&self) -> Result<u64> {
        let listed = self.store.list(Some(&self.prefix));
        let bytes = listed.try_fold(0, |sum, object| async move { Ok(sum + object.size) }).await;
        bytes.map_err(|error| object_error(error).context(format!("list {}", self.prefix)))
    }

    /// Lists the names of the folders directly below the prefix, in order.
    pub(crate) async fn folders(&self) -> Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&self.prefix)).await;
        let listed = listed.map_err(|error| object_error(error).context(format!("list {}", self.prefix)))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns whether there is any object.
    pub(crate) async fn any(&self) -> Result<bool> {
        let first = self.store.list(Some(&self.prefix)).next().await.transpose();
        first.map(|first| first.is_some()).map_err(|error| object_error(error).context(format!("list {}", self.prefix)))
    }

    async fn paths(&self) -> Result<Vec<Path>> {
        let listed = self.store.list(Some(&self.prefix)).map_ok(|object| object.location).try_collect().await;
        listed.map_err(|error| object_error(error).context(format!("list {}", self.prefix)))
    }

    /// Removes an object, if it exists.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.faults.check("object.delete")?;
        let removed = found(self.store.delete(&self.path(name)).await);
        removed.map(drop).map_err(|error| error.context(format!("remove {}", self.name(name))))
    }

    /// Removes objects, many per request where the store can; absent ones are skipped.
    pub(crate) async fn delete_many(&self, names: Vec<String>) -> Result<()> {
        self.delete_paths(names.iter().map(|name| self.path(name)).collect()).await
    }

    /// Removes all objects.
    pub(crate) async fn delete_all(&self) -> Result<()> {
        self.delete_paths(self.paths().await?).await
    }

    async fn delete_paths(&self, paths: Vec<Path>) -> Result<()> {
        self.faults.check("object.delete")?;
        let removals = self.store.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        let removed = removals.map(found).try_for_each(|_| async { Ok(()) }).await;
        removed.map_err(|error| error.context(format!("remove objects of {}", self.prefix)))
    }

    /// Uploads a file in parts.
    pub(crate) async fn upload(&self, name: &str, file: &FilePath) -> Result<()> {
        self.faults.check("object.put")?;
        let failed = || format!("copy {} to {}", file.display(), self.name(name));
        let mut source = tokio::fs::File::open(file).await.context(failed)?;
        let mut part = Vec::with_capacity(PART_BYTES);
        (&mut source).take(PART_BYTES as u64).read_to_end(&mut part).await.context(failed)?;
        if part.len() < PART_BYTES {
            return self.put(name, part.into()).await;
        }
        let upload = self.store.put_multipart(&self.path(name)).await;
        let mut upload = upload.map_err(|error| object_error(error).context(failed()))?;
        while !part.is_empty() {
            let put = upload.put_part(std::mem::take(&mut part).into()).await;
            if let Err(error) = put {
                // The parts sent so far stay invisible; if this fails too, the store removes them eventually.
                drop(upload.abort().await);
                return Err(object_error(error).context(failed()));
            }
            (&mut source).take(PART_BYTES as u64).read_to_end(&mut part).await.context(failed)?;
        }
        upload.complete().await.map(drop).map_err(|error| object_error(error).context(failed()))
    }

    /// Downloads an object to a file, which appears as a whole or not at all. Returns false when the object does not
    /// exist.
    pub(crate) async fn download(&self, name: &str, file: &FilePath) -> Result<bool> {
        let failed = || format!("copy {} to {}", self.name(name), file.display());
        let Some(object) = found(self.store.get(&self.path(name)).await)? else { return Ok(false) };
        // A unique name, since others may be downloading it too.
        let part = file.with_extension(format!("{:016x}.{PART}", RandomState::new().hash_one(std::process::id())));
        let copy = async {
            let mut target = tokio::fs::File::create_new(&part).await.context(failed)?;
            let mut stream = object.into_stream();
            while let Some(bytes) = stream.try_next().await.map_err(|error| object_error(error).context(failed()))? {
                target.write_all(&bytes).await.context(failed)?;
            }
            target.sync_all().await.context(failed)?;
            tokio::fs::rename(&part, file).await.context(failed)
        };
        let copied = copy.await;
        if copied.is_err() {
            // It may not exist.
            drop(tokio::fs::remove_file(&part).await);
        }
        copied.map(|()| true)
    }
}

fn found<T>(outcome: object_store::Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(object_error(error)),
    }
}

fn object_error(source: object_store::Error) -> Error {
    use object_store::Error as Object;
    let kind = match &source {
        Object::NotFound { .. } => ErrorKind::NotFound,
        Object::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        Object::Precondition { .. } => ErrorKind::Conflict,
        Object::InvalidPath { .. } | Object::UnknownConfigurationKey { .. } => ErrorKind::InvalidInput,
        Object::NotSupported { .. } | Object::NotImplemented { .. } => ErrorKind::Unsupported,
        _ if is_full_disk(&source) => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, source.to_string()).with_source(source)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_file_that_several_copy_at_once_is_whole_or_not_there() {
        const BYTES: usize = 3 << 20;
        let directory = tempfile::tempdir().unwrap();
        let objects = Objects::new(Arc::new(InMemory::new()), Path::from("lake"), Faults::default());
        objects.put("keys", vec![7; BYTES].into()).await.unwrap();
        let file = directory.path().join("keys");
        let copies = (0..16).map(|_| {
            let (objects, file) = (objects.clone(), file.clone());
            tokio::spawn(async move {
                assert!(objects.download("keys", &file).await.unwrap());
                assert_eq!(tokio::fs::read(&file).await.unwrap(), vec![7; BYTES]);
            })
        });
        for copy in copies.collect::<Vec<_>>() {
            copy.await.unwrap();
        }
        assert!(!objects.download("other", &file).await.unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
