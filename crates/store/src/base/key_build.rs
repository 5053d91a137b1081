//! Opening the key index of a base, and building it if it does not exist.

use cenote_base::{Error, ErrorKind, Result};
use futures::TryStreamExt;
use lance::Dataset;

use super::dataset;
use crate::blocking::blocking;
use crate::keys::key_files::{BATCH_ENTRIES, KeyFiles};
use crate::keys::key_index::KeyIndex;
use crate::rows::primary_key::PrimaryKey;

/// Opens the key index of `base`, and builds it if it does not exist.
pub(crate) async fn open_or_build(
    files: &KeyFiles,
    key: &PrimaryKey,
    secret: (u64, u64),
    base: &Dataset,
    version: u64,
) -> Result<KeyIndex> {
    // A collection by another process may remove files of the index while it is built, but only once.
    for _ in 0..2 {
        if let Some(keys) = files.open(version).await? {
            return Ok(keys);
        }
        match build(files, key, secret, base, version).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return made,
        }
    }
    Err(Error::unavailable(format!("the key index in {} keeps being removed while it is built", files.name())))
}

async fn build(
    files: &KeyFiles,
    key: &PrimaryKey,
    secret: (u64, u64),
    base: &Dataset,
    version: u64,
) -> Result<KeyIndex> {
    let mut keys = files.empty().await?;
    let mut batches = dataset::keys(base, None, key, secret).await?;
    let mut entries = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        entries.extend(batch);
        if entries.len() >= BATCH_ENTRIES {
            let batch = std::mem::take(&mut entries);
            keys = blocking(move || keys.advance(version, batch)).await?;
        }
    }
    keys = blocking(move || keys.advance(version, entries)).await?;
    files.save(keys, version).await
}
