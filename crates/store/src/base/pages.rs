//! Rows of a base by row id, read through a cache of decoded pages.
//!
//! A page is a run of rows of one column of one fragment, about [`PAGE_BYTES`] of file. Files of a base never change,
//! so pages do not either: they include rows that were deleted since, which nobody asks for.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave;
use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, Result};
use futures::future::try_join_all;
use lance::Dataset;
use lance::dataset::fragment::{FileFragment, FragReadConfig, FragmentReader};
use lance::dataset::{ProjectionRequest, TakeBuilder};
use lance_core::datatypes::{Field, Schema};
use lance_core::utils::address::RowAddress;
use moka::sync::Cache;
use siphasher::sip128::{Hasher128, SipHasher13};
use tokio::sync::OnceCell;

use crate::base::addresses::{AddressCache, RowAddresses};
use crate::base::media_files::MediaFiles;
use crate::base::row_widths::{self, RowRun};
use crate::errors::{arrow_error, lance_error};
use crate::rows::schema::{fixed_bytes, value_bytes};

/// Target bytes of a page: all columns of its rows as stored in the fragment's files; each column holds a part of them.
const PAGE_BYTES: u64 = 64 * 1024;
const PAGE_ROWS_MAX: u64 = 8192;
/// Maximum target bytes of a decoded page: well-compressed data may be much larger than its file.
const DECODED_BYTES_MAX: u64 = 1 << 20;
/// Rows per fragment, besides the widest, that are read to estimate the width of its rows.
const MEASURED_ROWS: u64 = 4;
/// Bytes of a media descriptor, however large the rows of its file are.
const DESCRIPTOR_BYTES: u64 = 32;
/// Maximum pages that one call reads; it reads rows of further pages one by one.
const PAGES_READ_MAX: usize = 4;
/// Maximum number of open files.
const FILES_MAX: usize = 256;
/// Maximum rows of a call that uses pages; larger calls read without them.
const ROWS_MAX: usize = 1024;

/// A cache of decoded pages, of row addresses and of row widths, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Pages {
    cache: Cache<PageKey, ArrayRef>,
    /// The widths of a fragment's rows in memory, keyed by its files and the columns.
    widths: Cache<(u128, Vec<i32>), Arc<[RowRun]>>,
    addresses: AddressCache,
}

/// The key of a page: a hash of the fragment's files, the field, and the number and size of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PageKey {
    files: u128,
    field: i32,
    page: u32,
    page_rows: u32,
}

/// A fragment, and the fields that are read from it.
type FileKey = (u32, Vec<i32>);

/// A reader of rows of one version of a base.
#[derive(Debug)]
pub(crate) struct RowReader {
    base: Arc<Dataset>,
    pages: Arc<Pages>,
    /// Initialised on first use.
    addresses: OnceCell<RowAddresses>,
    /// Opened on first use.
    files: Mutex<HashMap<FileKey, Arc<FragmentReader>>>,
    media_files: Arc<MediaFiles>,
}

/// A run of rows of a fragment, some of which are requested.
struct PageRun {
    fragment: FileFragment,
    rows: Range<u32>,
    key: PageKey,
}

/// The position of a row: the index of its run, and the row in it.
struct RunRow {
    run: usize,
    row: usize,
}

/// An open fragment.
struct OpenFragment {
    fragment: FileFragment,
    /// A hash that identifies its files.
    files: u128,
    page_rows: u32,
}

impl Pages {
    pub(crate) fn new(bytes_max: ByteSize) -> Self {
        let bytes = |_: &PageKey, page: &ArrayRef| {
            let bytes = page.get_array_memory_size() + size_of::<PageKey>() + size_of::<ArrayRef>();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let widths_bytes = |key: &(u128, Vec<i32>), runs: &Arc<[RowRun]>| {
            u32::try_from(size_of_val(key) + size_of_val(&**runs)).unwrap_or(u32::MAX)
        };
        let (addresses_max, widths_max) = (bytes_max.0 / 4, bytes_max.0 / 8);
        Self {
            cache: Cache::builder().max_capacity(bytes_max.0 - addresses_max - widths_max).weigher(bytes).build(),
            widths: Cache::builder().max_capacity(widths_max).weigher(widths_bytes).build(),
            addresses: AddressCache::new(addresses_max),
        }
    }

    fn get(&self, run: &PageRun, columns: &Schema) -> Option<Vec<ArrayRef>> {
        columns.fields.iter().map(|field| self.cache.get(&PageKey { field: field.id, ..run.key })).collect()
    }

    fn insert(&self, run: &PageRun, columns: &Schema, page: &RecordBatch) {
        for (field, column) in columns.fields.iter().zip(page.columns()) {
            self.cache.insert(PageKey { field: field.id, ..run.key }, Arc::clone(column));
        }
    }
}

impl RowReader {
    pub(crate) fn new(base: &Arc<Dataset>, pages: &Arc<Pages>) -> Self {
        Self {
            base: Arc::clone(base),
            pages: Arc::clone(pages),
            addresses: OnceCell::new(),
            files: Mutex::default(),
            media_files: Arc::default(),
        }
    }

    /// Returns the rows with these ids, in their order.
    ///
    /// # Errors
    /// `NotFound` when a row does not exist.
    pub(crate) async fn take(&self, row_ids: &[u64], columns: &Schema) -> Result<RecordBatch> {
        self.take_at(&self.find(row_ids).await?, columns).await
    }

    /// Returns the rows at these addresses, in their order. Media columns yield their descriptors and cannot be mixed
    /// with other columns.
    pub(crate) async fn take_at(&self, addresses: &[RowAddress], columns: &Schema) -> Result<RecordBatch> {
        if addresses.len() > ROWS_MAX {
            return self.take_many(addresses, columns).await;
        }
        let (runs, rows) = self.runs(addresses, columns).await?;
        let mut held: Vec<Option<Vec<ArrayRef>>> = runs.iter().map(|run| self.pages.get(run, columns)).collect();
        let missing = held.iter().enumerate().filter(|(_, page)| page.is_none()).map(|(run, _)| run);
        let missing: Vec<usize> = missing.take(PAGES_READ_MAX).collect();
        let read = try_join_all(missing.iter().map(|run| self.read(&runs[*run], columns))).await?;
        missing.into_iter().zip(read).for_each(|(run, page)| held[run] = Some(page));

        // Rows of pages that are not read, by fragment: they are read one by one.
        let mut alone: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let unread = rows.iter().zip(addresses).filter(|(row, _)| held[row.run].is_none());
        for (_, address) in unread {
            alone.entry(address.fragment_id()).or_default().push(address.row_offset());
        }
        let alone = alone.into_iter().map(|(id, mut rows)| async move {
            rows.sort_unstable();
            rows.dedup();
            let file = self.file(id, columns).await?;
            let batch = Box::pin(file.take_as_batch(&rows, None)).await.map_err(lance_error)?;
            Ok::<_, Error>((id, rows, batch.columns().to_vec()))
        });
        let alone = try_join_all(alone).await?;

        let mut pages = Vec::with_capacity(held.len() + alone.len());
        let mut hold = |page| {
            pages.push(page);
            pages.len() - 1
        };
        let page_of: Vec<Option<usize>> = held.into_iter().map(|page| page.map(&mut hold)).collect();
        let alone: HashMap<u32, (usize, Vec<u32>)> =
            alone.into_iter().map(|(id, rows, page)| (id, (hold(page), rows))).collect();
        let source = |(row, address): (RunRow, &RowAddress)| match page_of[row.run] {
            Some(page) => (page, row.row),
            None => {
                let (page, rows) = &alone[&address.fragment_id()];
                (*page, rows.partition_point(|row| *row < address.row_offset()))
            }
        };
        let sources: Vec<(usize, usize)> = rows.into_iter().zip(addresses).map(source).collect();
        assemble(&pages, &sources, columns)
    }

    /// Returns up to `rows` rows from each of `places` places spread over the base, deleted rows included.
    pub(crate) async fn sample(&self, columns: &Schema, places: u64, rows: usize) -> Result<Vec<RecordBatch>> {
        let mut fragments = Vec::new();
        let mut all = 0;
        for fragment in self.base.fragments().iter() {
            let rows = fragment.physical_rows.unwrap_or(0) as u64;
            fragments.push((fragment.id as u32, all..all + rows));
            all += rows;
        }
        let place = |place: u64| {
            let row = all * (2 * place + 1) / (2 * places);
            let fragment = fragments.iter().find(|(_, rows)| rows.contains(&row));
            fragment.map(|(id, rows)| RowAddress::new_from_parts(*id, (row - rows.start) as u32))
        };
        let addresses: Vec<RowAddress> = (0..places).filter_map(place).collect();
        let (runs, firsts) = self.runs(&addresses, columns).await?;
        let schema = Arc::new(arrow::datatypes::Schema::from(columns));
        let page = async |run: &PageRun| {
            let page = match self.pages.get(run, columns) {
                Some(page) => page,
                None => self.read(run, columns).await?,
            };
            RecordBatch::try_new(Arc::clone(&schema), page).map_err(arrow_error)
        };
        let pages = try_join_all(runs.iter().map(page)).await?;
        let cut = |first: RunRow| {
            let page = &pages[first.run];
            page.slice(first.row, rows.min(page.num_rows() - first.row))
        };
        Ok(firsts.into_iter().map(cut).collect())
    }

    /// Returns the runs that hold these rows, and for each row its run and its position in it.
    async fn runs(&self, addresses: &[RowAddress], columns: &Schema) -> Result<(Vec<PageRun>, Vec<RunRow>)> {
        let is_media = columns.fields.iter().all(Field::is_blob);
        let (mut runs, mut found) = (Vec::new(), Vec::with_capacity(addresses.len()));
        let mut known: HashMap<(u32, u32), usize> = HashMap::new();
        let varies = !is_media && columns.fields.iter().any(|field| fixed_bytes(&field.data_type()) == 0);
        let mut fragments: HashMap<u32, OpenFragment> = HashMap::new();
        for address in addresses {
            let (id, offset) = (address.fragment_id(), address.row_offset());
            if let Entry::Vacant(entry) = fragments.entry(id) {
                let mut open = open(&self.base, id, is_media).await?;
                if varies && open.page_rows > 1 {
                    let widths = self.widths_of(&open, columns).await?;
                    let widest = widths.iter().map(|run| run.row_bytes).max().unwrap_or(0);
                    open.page_rows = open.page_rows.min((DECODED_BYTES_MAX / widest.max(1)).max(1) as u32);
                }
                entry.insert(open);
            }
            let OpenFragment { fragment, files, page_rows } = &fragments[&id];
            let page = offset / page_rows;
            let run = *known.entry((id, page)).or_insert_with(|| {
                let first = page * page_rows;
                let rows = first..first.saturating_add(*page_rows);
                runs.push(PageRun {
                    fragment: fragment.clone(),
                    rows,
                    key: PageKey { files: *files, field: 0, page, page_rows: *page_rows },
                });
                runs.len() - 1
            });
            found.push(RunRow { run, row: (offset % page_rows) as usize });
        }
        Ok((runs, found))
    }

    /// Returns how many bytes of `columns` the rows of fragment `id` take in memory.
    ///
    /// A few rows, the widest among them, are read to see what compression saves.
    pub(crate) async fn widths(&self, id: u32, columns: &Schema) -> Result<Arc<[RowRun]>> {
        self.widths_of(&open(&self.base, id, false).await?, columns).await
    }

    async fn widths_of(&self, open: &OpenFragment, columns: &Schema) -> Result<Arc<[RowRun]>> {
        let OpenFragment { fragment, files, .. } = open;
        let key = (*files, columns.fields.iter().map(|field| field.id).collect::<Vec<_>>());
        if let Some(known) = self.pages.widths.get(&key) {
            return Ok(known);
        }
        let rows = fragment.physical_rows().await.map_err(lance_error)? as u64;
        let mut runs = row_widths::stored(fragment, columns, rows).await?;
        let measured = rows.min(MEASURED_ROWS);
        let mut places: Vec<u32> = (0..measured).map(|at| (rows * (2 * at + 1) / (2 * measured)) as u32).collect();
        places.extend(runs.iter().max_by_key(|run| run.row_bytes).map(|run| run.rows.start as u32));
        places.sort_unstable();
        places.dedup();
        if rows > 0 {
            let file = self.file(fragment.id() as u32, columns).await?;
            let batch = Box::pin(file.take_as_batch(&places, None)).await.map_err(lance_error)?;
            let run_of = |row: &u32| &runs[runs.partition_point(|run| run.rows.end <= u64::from(*row))];
            let expected: u64 = places.iter().map(|row| run_of(row).row_bytes).sum();
            let growth = (value_bytes(&batch) as f64 / expected as f64).max(1.0);
            runs.iter_mut().for_each(|run| run.row_bytes = (run.row_bytes as f64 * growth) as u64);
        }
        let runs: Arc<[RowRun]> = runs.into();
        self.pages.widths.insert(key, Arc::clone(&runs));
        Ok(runs)
    }

    /// Opens a fragment to read `columns` of any of its rows, or returns the cached reader.
    async fn file(&self, id: u32, columns: &Schema) -> Result<Arc<FragmentReader>> {
        let key = (id, columns.fields.iter().map(|field| field.id).collect());
        if let Some(file) = self.files.lock().get(&key) {
            return Ok(Arc::clone(file));
        }
        let config = FragReadConfig::default().with_ignore_deletions(true);
        let file = Box::pin(fragment(&self.base, id)?.open(columns, config)).await.map_err(lance_error)?;
        let file = Arc::new(file);
        let mut files = self.files.lock();
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(key, Arc::clone(&file));
        Ok(file)
    }

    async fn read(&self, run: &PageRun, columns: &Schema) -> Result<Vec<ArrayRef>> {
        let reader = self.file(run.fragment.id() as u32, columns).await?;
        let rows = run.fragment.physical_rows().await.map_err(lance_error)? as u32;
        let rows = run.rows.start as usize..run.rows.end.min(rows) as usize;
        let batch = Box::pin(reader.read_range_as_batch(rows)).await.map_err(lance_error)?;
        self.pages.insert(run, columns, &batch);
        Ok(batch.columns().to_vec())
    }

    pub(crate) fn media_files(&self) -> &Arc<MediaFiles> {
        &self.media_files
    }

    pub(crate) fn base(&self) -> &Arc<Dataset> {
        &self.base
    }

    /// Returns the addresses of all live rows.
    pub(crate) async fn addresses(&self) -> Result<&RowAddresses> {
        let made = || Box::pin(RowAddresses::of(&self.base, &self.pages.addresses));
        self.addresses.get_or_try_init(made).await
    }

    /// Returns the addresses of rows.
    ///
    /// # Errors
    /// `NotFound` when a row does not exist.
    pub(crate) async fn find(&self, row_ids: &[u64]) -> Result<Vec<RowAddress>> {
        let addresses = self.addresses().await?;
        let gone = || Error::not_found("a row id names no row of this snapshot");
        row_ids.iter().map(|row| addresses.get(*row).ok_or_else(gone)).collect()
    }

    /// Reads rows through Lance, without pages.
    async fn take_many(&self, addresses: &[RowAddress], columns: &Schema) -> Result<RecordBatch> {
        let rows = addresses.len();
        let plan = ProjectionRequest::from(columns.clone()).into_projection_plan(Arc::clone(&self.base));
        let addresses = addresses.iter().copied().map(u64::from).collect();
        let take = TakeBuilder::try_new_from_addresses(
            Arc::clone(&self.base),
            addresses,
            Arc::new(plan.map_err(lance_error)?),
        );
        let batch = Box::pin(take.map_err(lance_error)?.execute()).await.map_err(lance_error)?;
        match batch.num_rows() == rows {
            true => Ok(batch),
            false => Err(Error::corrupt("the base returned fewer rows than requested")),
        }
    }
}

fn fragment(base: &Dataset, id: u32) -> Result<FileFragment> {
    base.get_fragment(id as usize).ok_or_else(|| Error::corrupt(format!("fragment {id} is missing from the base")))
}

/// Opens a fragment to read its pages of rows, or of media descriptors if `is_media`.
async fn open(base: &Dataset, id: u32, is_media: bool) -> Result<OpenFragment> {
    let fragment = fragment(base, id)?;
    let mut hasher = SipHasher13::new();
    let mut bytes = 0;
    for file in &fragment.metadata().files {
        file.path.hash(&mut hasher);
        bytes += file.file_size_bytes.get().map_or(0, u64::from);
    }
    hasher.write_u64(fragment.id() as u64);
    let rows = fragment.physical_rows().await.map_err(lance_error)? as u64;
    let row_bytes = if is_media { DESCRIPTOR_BYTES } else { (bytes / rows.max(1)).max(1) };
    let page_rows = (PAGE_BYTES / row_bytes).clamp(1, PAGE_ROWS_MAX) as u32;
    Ok(OpenFragment { fragment, files: hasher.finish128().as_u128(), page_rows })
}

/// Gathers the rows at `sources`, each a page and a row in it.
fn assemble(pages: &[Vec<ArrayRef>], sources: &[(usize, usize)], columns: &Schema) -> Result<RecordBatch> {
    let schema = arrow::datatypes::Schema::from(columns);
    let column = |column: usize| {
        let arrays: Vec<&dyn Array> = pages.iter().map(|page| page[column].as_ref()).collect();
        interleave(&arrays, sources).map_err(arrow_error)
    };
    let arrays = (0..columns.fields.len()).map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(sources.len()));
    RecordBatch::try_new_with_options(Arc::new(schema), arrays, &options).map_err(arrow_error)
}
