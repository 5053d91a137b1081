//! Commits to the base of a table: a Lance dataset, changed by position instead of by join.
//!
//! A changed row gets a new row id: an index that holds the old one lags for the new row, and is never wrong about the
//! old one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema};
use cenote_base::{Error, Result};
use futures::future::ready;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::io::ObjectStoreParams;
use lance::session::Session;
use lance_core::utils::address::RowAddress;
use lance_file::version::LanceFileVersion;
use lance_table::format::Fragment;
use lance_table::io::commit::CommitHandler;

use crate::base::deletions;
use crate::base::pages::RowReader;
use crate::blocking::blocking;
use crate::errors::{arrow_error, lance_error};
use crate::faults::Faults;
use crate::keys::key_index::KeyIndex;
use crate::log::concerned::Concerned;
use crate::row_id::row_ids;
use crate::rows::primary_key::PrimaryKey;
use crate::rows::schema;

/// Opens the dataset at `uri` at `version`, or at its newest version; `handler` commits changes to it.
pub(crate) async fn load(
    uri: &str,
    session: &Arc<Session>,
    params: &ObjectStoreParams,
    version: Option<u64>,
    handler: Option<Arc<dyn CommitHandler>>,
) -> Result<Dataset> {
    let mut builder = DatasetBuilder::from_uri(uri).with_session(Arc::clone(session));
    builder = builder.with_store_params(params.clone());
    if let Some(handler) = handler {
        builder = builder.with_commit_handler(handler);
    }
    if let Some(version) = version {
        builder = builder.with_version(version);
    }
    builder.load().await.map_err(lance_error)
}

/// Returns the parameters that every dataset is written with: stable row ids, and the file version that blobs (v2)
/// need.
pub(crate) fn write_params() -> WriteParams {
    WriteParams {
        enable_stable_row_ids: true,
        data_storage_version: Some(LanceFileVersion::V2_2),
        auto_cleanup: None,
        ..WriteParams::default()
    }
}

/// Returns the schema of a stored dataset as callers see it, and as it is stored.
pub(crate) fn schemas(dataset: &Dataset) -> (Schema, Schema) {
    let stored = Schema::from(dataset.schema());
    (schema::to_logical(&stored), stored)
}

/// Returns whether `base` has the columns that `checked`, a version of the same dataset, has. A column that was dropped
/// and added again is another one.
pub(crate) fn has_schema(base: &Arc<Dataset>, checked: &Arc<Dataset>) -> bool {
    let columns = |dataset: &Dataset| -> Vec<(i32, DataType, bool)> {
        let fields = dataset.schema().fields_pre_order();
        fields.map(|field| (field.id, field.data_type(), field.nullable)).collect()
    };
    Arc::ptr_eq(base, checked) || columns(base) == columns(checked)
}

/// Prefix of the Lance tags that protect versions of the base from Lance's cleanup.
const PROTECTED: &str = "cenote-base-";

/// Protects `versions` of the base from Lance's cleanup.
pub(crate) async fn protect(dataset: &Dataset, versions: &BTreeSet<u64>) -> Result<()> {
    let already: BTreeSet<u64> = protected(dataset).await?.into_iter().map(|(_, version)| version).collect();
    for version in versions.difference(&already).copied() {
        dataset.tags().create(&format!("{PROTECTED}{version}"), version).await.map_err(lance_error)?;
    }
    Ok(())
}

/// Removes the protection of all versions except `versions`.
pub(crate) async fn unprotect(dataset: &Dataset, versions: &BTreeSet<u64>) -> Result<()> {
    for (tag, _) in protected(dataset).await?.into_iter().filter(|(_, version)| !versions.contains(version)) {
        dataset.tags().delete(&tag).await.map_err(lance_error)?;
    }
    Ok(())
}

async fn protected(dataset: &Dataset) -> Result<Vec<(String, u64)>> {
    let tags = dataset.tags().list().await.map_err(lance_error)?;
    Ok(tags.into_iter().filter(|(tag, _)| tag.starts_with(PROTECTED)).map(|(tag, kept)| (tag, kept.version)).collect())
}

/// Writes rows, in the stored schema, to files that no version of `dataset` names yet.
pub(crate) async fn stage(dataset: &Arc<Dataset>, rows: Vec<RecordBatch>, faults: &Faults) -> Result<Vec<Fragment>> {
    if rows.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(Vec::new());
    }
    faults.check("base.stage")?;
    let params = WriteParams { mode: WriteMode::Append, session: Some(dataset.session()), ..write_params() };
    let insert = InsertBuilder::new(Arc::clone(dataset)).with_params(&params).execute_uncommitted(rows).await;
    let insert = insert.map_err(lance_error)?;
    faults.check("base.staged")?;
    match insert.operation {
        Operation::Append { fragments } => Ok(fragments),
        other => Err(Error::internal(format!("writing rows returned the operation {other}"))),
    }
}

/// Commits the deletion of the rows `superseded` together with the addition of `fragments`.
pub(crate) async fn replace(
    reader: &RowReader,
    superseded: &[u64],
    fragments: Vec<Fragment>,
    faults: &Faults,
) -> Result<Dataset> {
    let dataset = reader.base();
    let (mut removed_fragment_ids, mut updated_fragments) = (Vec::new(), Vec::new());
    for (fragment, offsets) in by_fragment(reader, superseded).await? {
        let file = dataset.get_fragment(fragment as usize);
        let file = file.ok_or_else(|| Error::corrupt(format!("fragment {fragment} is missing from the base")))?;
        match deletions::extend(&file, offsets).await? {
            Some(fragment) => updated_fragments.push(fragment),
            None => removed_fragment_ids.push(u64::from(fragment)),
        }
    }
    let operation = Operation::Update {
        removed_fragment_ids,
        updated_fragments,
        new_fragments: fragments,
        fields_modified: Vec::new(),
        compacted_sstables: Vec::new(),
        fields_for_preserving_frag_bitmap: Vec::new(),
        update_mode: None,
        inserted_rows_filter: None,
        updated_fragment_offsets: None,
    };
    commit(dataset, operation, faults).await
}

/// Groups row ids by fragment, as offsets.
async fn by_fragment(reader: &RowReader, row_ids: &[u64]) -> Result<BTreeMap<u32, Vec<u32>>> {
    let mut fragments: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for address in addresses(reader, row_ids).await? {
        fragments.entry(address.fragment_id()).or_default().push(address.row_offset());
    }
    Ok(fragments)
}

/// Returns the addresses of rows.
pub(crate) async fn addresses(reader: &RowReader, row_ids: &[u64]) -> Result<Vec<RowAddress>> {
    let known = reader.addresses().await?;
    let found: Vec<RowAddress> = row_ids.iter().filter_map(|row_id| known.get(*row_id)).collect();
    match row_ids.len() - found.len() {
        0 => Ok(found),
        missing => Err(Error::corrupt(format!("the base lacks {missing} rows that its key index names"))),
    }
}

pub(crate) async fn commit(dataset: &Arc<Dataset>, operation: Operation, faults: &Faults) -> Result<Dataset> {
    faults.check("base.commit")?;
    let transaction = Transaction::new(dataset.version().version, operation, None);
    let committed = CommitBuilder::new(Arc::clone(dataset)).execute(transaction).await.map_err(lance_error)?;
    faults.check("base.committed")?;
    Ok(committed)
}

/// Returns the keys of rows that may differ between `old` and `new`, and of rows that `new` lacks, which `keys`, the
/// index of `new`, does not have. Reads only files that have changed.
pub(crate) async fn difference(
    old: &Dataset,
    new: &Dataset,
    key: &PrimaryKey,
    secret: (u64, u64),
    keys: &KeyIndex,
) -> Result<BoxStream<'static, Result<Concerned>>> {
    let by_id = |dataset: &Dataset| -> HashMap<u64, Fragment> {
        dataset.fragments().iter().map(|fragment| (fragment.id, fragment.clone())).collect()
    };
    let (before, after) = (by_id(old), by_id(new));
    let paths = |fragment: &Fragment| fragment.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    // A patch in place replaces files of a fragment.
    let is_new = |fragment: &Fragment| before.get(&fragment.id).is_none_or(|old| paths(old) != paths(fragment));
    let has_lost =
        |fragment: &Fragment| after.get(&fragment.id).is_none_or(|new| new.deletion_file != fragment.deletion_file);
    let written = new.fragments().iter().filter(|fragment| is_new(fragment)).cloned().collect();
    let lost = old.fragments().iter().filter(|fragment| has_lost(fragment)).cloned().collect();
    let (written, lost) = (key_rows(new, written, key).await?, key_rows(old, lost, key).await?);
    let (of_written, of_lost, keys) = (key.clone(), key.clone(), keys.clone());
    let written = written.and_then(move |rows| ready(of_written.project(&rows).map(Concerned::written)));
    let deleted = lost.and_then(move |rows| {
        let (key, keys) = (of_lost.clone(), keys.clone());
        blocking(move || {
            let rows = key.project(&rows)?;
            let found = keys.get_many(&key.hash(&rows, secret)?)?;
            let is_gone = found.into_iter().map(|row| Some(row.is_none())).collect();
            filter_record_batch(&rows, &is_gone).map(Concerned::deleted).map_err(arrow_error)
        })
    });
    Ok(written.chain(deleted).boxed())
}

/// Reads the key columns and row ids of `fragments` of `dataset`.
async fn key_rows(
    dataset: &Dataset,
    fragments: Vec<Fragment>,
    key: &PrimaryKey,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    if fragments.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let mut scanner = dataset.scan();
    scanner.with_fragments(fragments).project(&key.columns()).map_err(lance_error)?.with_row_id();
    Ok(scanner.try_into_stream().await.map_err(lance_error)?.map_err(lance_error).boxed())
}

/// The hash of a key and its row id.
pub(crate) type KeyEntry = (u128, Option<u64>);

/// Reads the hash of every key in `dataset` with its row id; only from fragments that `old` lacks, if it is given.
pub(crate) async fn keys(
    dataset: &Dataset,
    old: Option<&Dataset>,
    key: &PrimaryKey,
    secret: (u64, u64),
) -> Result<BoxStream<'static, Result<Vec<KeyEntry>>>> {
    let known: HashSet<u64> = old.iter().flat_map(|old| old.fragments().iter()).map(|fragment| fragment.id).collect();
    let fragments = dataset.fragments().iter().filter(|fragment| !known.contains(&fragment.id)).cloned().collect();
    let rows = key_rows(dataset, fragments, key).await?;
    let key = key.clone();
    let hashed = rows.and_then(move |rows| {
        let key = key.clone();
        blocking(move || {
            let row_ids = row_ids(&rows)?;
            let hashes = key.hash(&key.project(&rows)?, secret)?;
            Ok(hashes.into_iter().zip(row_ids.iter().copied().map(Some)).collect())
        })
    });
    Ok(hashed.boxed())
}

/// Collects [`keys`] in memory.
pub(crate) async fn all_keys(
    dataset: &Dataset,
    old: Option<&Dataset>,
    key: &PrimaryKey,
    secret: (u64, u64),
) -> Result<Vec<KeyEntry>> {
    keys(dataset, old, key, secret).await?.try_concat().await
}
