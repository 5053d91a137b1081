//! The base of a table: commits to its Lance dataset, by position instead of by join.
//!
//! A row that changes gets a new row id: an index that holds the old one is then late for the new row, and never wrong about
//! the old one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::UInt64Type;
use cenote_base::{Error, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::scanner::DatasetRecordBatchStream;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{CommitBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::io::ObjectStoreParams;
use lance::session::Session;
use lance_core::utils::address::RowAddress;
use lance_table::format::Fragment;
use lance_table::io::commit::CommitHandler;

use crate::Faults;
use crate::fault::{arrow_error, lance_error};
use crate::key::PrimaryKey;
use crate::pages::RowReader;
use crate::snapshot::ROW_ID;
use crate::state::blocking;
use crate::store::write_params;

/// Opens the dataset at `uri`, at `version` or the newest one, to be changed through `handler`.
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

/// What the Lance tags begin with that keep versions of the base from collection.
const PROTECTED: &str = "cenote-base-";

/// Keeps `versions` of the base from Lance's collection.
pub(crate) async fn protect(dataset: &Dataset, versions: &BTreeSet<u64>) -> Result<()> {
    let already: BTreeSet<u64> = protected(dataset).await?.into_iter().map(|(_, version)| version).collect();
    for version in versions.difference(&already).copied() {
        dataset.tags().create(&format!("{PROTECTED}{version}"), version).await.map_err(lance_error)?;
    }
    Ok(())
}

/// Gives up all versions that were kept, but `versions`.
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
        other => Err(Error::internal(format!("writing rows gave the operation {other}"))),
    }
}

/// One commit that takes out the rows `superseded` and puts in `fragments`.
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
        let file = file.ok_or_else(|| Error::corrupt(format!("the base names fragment {fragment} and has none")))?;
        match file.extend_deletions(offsets).await.map_err(lance_error)? {
            Some(file) => updated_fragments.push(file.metadata().clone()),
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

/// Row ids as offsets in fragments.
async fn by_fragment(reader: &RowReader, row_ids: &[u64]) -> Result<BTreeMap<u32, Vec<u32>>> {
    let mut fragments: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for address in addresses(reader, row_ids).await? {
        fragments.entry(address.fragment_id()).or_default().push(address.row_offset());
    }
    Ok(fragments)
}

/// Where rows are.
pub(crate) async fn addresses(reader: &RowReader, row_ids: &[u64]) -> Result<Vec<RowAddress>> {
    let places = reader.places().await?;
    let found: Vec<RowAddress> = row_ids.iter().filter_map(|row_id| places.get(*row_id)).collect();
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

/// The keys that `new` has in files that `old` has not, and those that `old` has and `new` has not.
pub(crate) async fn difference(
    old: &Dataset,
    new: &Dataset,
    key: &PrimaryKey,
    secret: (u64, u64),
) -> Result<(Option<RecordBatch>, Option<RecordBatch>)> {
    let mut written = Vec::new();
    if let Some(mut rows) = key_rows(new, Some(old), key).await? {
        while let Some(rows) = rows.try_next().await.map_err(lance_error)? {
            written.push(key.project(&rows)?);
        }
    }
    let kept: HashSet<u128> = all_keys(new, None, key, secret).await?.into_iter().map(|(hash, _)| hash).collect();
    let mut deleted = Vec::new();
    if let Some(mut rows) = key_rows(old, None, key).await? {
        while let Some(rows) = rows.try_next().await.map_err(lance_error)? {
            let rows = key.project(&rows)?;
            let is_gone = key.hash(&rows, secret)?.into_iter().map(|hash| Some(!kept.contains(&hash)));
            deleted.push(filter_record_batch(&rows, &is_gone.collect()).map_err(arrow_error)?);
        }
    }
    let whole = |batches: &[RecordBatch]| -> Result<Option<RecordBatch>> {
        let whole = concat_batches(key.schema(), batches).map_err(arrow_error)?;
        Ok((whole.num_rows() > 0).then_some(whole))
    };
    Ok((whole(&written)?, whole(&deleted)?))
}

/// The key columns and row ids of `dataset`; only in files that `old` has not, when one is given.
async fn key_rows(
    dataset: &Dataset,
    old: Option<&Dataset>,
    key: &PrimaryKey,
) -> Result<Option<DatasetRecordBatchStream>> {
    let known: HashSet<u64> = old.iter().flat_map(|old| old.fragments().iter()).map(|fragment| fragment.id).collect();
    let fragments: Vec<Fragment> =
        dataset.fragments().iter().filter(|fragment| !known.contains(&fragment.id)).cloned().collect();
    if fragments.is_empty() {
        return Ok(None);
    }
    let mut scanner = dataset.scan();
    scanner.with_fragments(fragments).project(&key.columns()).map_err(lance_error)?.with_row_id();
    scanner.try_into_stream().await.map(Some).map_err(lance_error)
}

/// The hash of a key and its row id.
pub(crate) type KeyEntry = (u128, Option<u64>);

/// The hash of every key in `dataset` with its row id; only in files that `old` has not, when one is given.
pub(crate) async fn keys(
    dataset: &Dataset,
    old: Option<&Dataset>,
    key: &PrimaryKey,
    secret: (u64, u64),
) -> Result<BoxStream<'static, Result<Vec<KeyEntry>>>> {
    let Some(stream) = key_rows(dataset, old, key).await? else { return Ok(futures::stream::empty().boxed()) };
    let key = key.clone();
    let hashed = stream.map_err(lance_error).and_then(move |rows| {
        let key = key.clone();
        blocking(move || {
            let row_ids = rows.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
            let row_ids = row_ids.ok_or_else(|| Error::internal("the scan gave no row ids"))?;
            let hashes = key.hash(&key.project(&rows)?, secret)?;
            Ok(hashes.into_iter().zip(row_ids.values().iter().map(|row| Some(*row))).collect())
        })
    });
    Ok(hashed.boxed())
}

/// [`keys`], all in memory.
pub(crate) async fn all_keys(
    dataset: &Dataset,
    old: Option<&Dataset>,
    key: &PrimaryKey,
    secret: (u64, u64),
) -> Result<Vec<KeyEntry>> {
    keys(dataset, old, key, secret).await?.try_concat().await
}
