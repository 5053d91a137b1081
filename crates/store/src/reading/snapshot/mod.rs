//! Reads of a table as it was at one version.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt64Array, new_empty_array};
use arrow::compute::{filter as filter_array, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type};
use cenote_base::{Error, Result};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use lance::Dataset;
use lance::dataset::scanner::{MaterializationStyle, RowAddrMask, RowAddrTreeMap, Scanner};

use crate::Version;
use crate::base::media;
use crate::base::pages::RowReader;
use crate::base::readers::Reading;
use crate::changes::change_store::{Chunk, Rows};
use crate::errors::{arrow_error, lance_error};
use crate::keys::key_index::KeyIndex;
use crate::log::history::History;
use crate::reading::batches::{compact, first_rows, keeping, parts, reshape};
use crate::reading::selectivity;
use crate::reading::widths::batch_rows;
use crate::rows::filter::Filter;
use crate::rows::primary_key::PrimaryKey;
use crate::rows::schema;
use crate::state::table_state::{Inner, SHORT_ROWS, blocking};

/// Rows per batch of the change store.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Target size of a scan's batches, in bytes.
pub(crate) const BATCH_BYTES: u64 = 4 << 20;
/// Read-ahead of a scan, in bytes.
const READ_AHEAD_BYTES: u64 = 64 << 20;
/// Bytes of variable-width values per row from which a scan locates the rows first and reads them afterwards: Lance
/// would read whole pages of such columns.
const WIDE_ROW_BYTES: u64 = 8 << 10;
/// The same for a scan whose filter keeps few rows, in bytes of the whole row: Lance would read as many rows at a time
/// as it compares.
const WIDE_CHOSEN_ROW_BYTES: u64 = 4 << 10;

/// Rows of a base below which a scan does not sample its filter first.
const SAMPLED_ROWS_MIN: usize = 16_384;

/// The column of row ids (`UInt64`) in a scan. A row id names a row of its snapshot, and the same row of other
/// snapshots until that row is folded.
pub const ROW_ID: &str = "_rowid";

/// A stream of batches of one schema.
pub type RecordBatches = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// The columns and rows to read. The default is every visible column of every row.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Columns in the order wanted, each once even if it is named twice; `None`: all visible columns.
    pub columns: Option<Vec<String>>,
    /// The rows to read; `None`: all.
    pub filter: Option<Filter>,
    /// The maximum number of rows; `None`: unlimited.
    pub limit: Option<usize>,
    /// Whether to append the column [`ROW_ID`].
    pub with_row_id: bool,
    /// Maximum rows per batch. A batch of wide rows has fewer: it holds about 4 MiB.
    pub batch_rows: Option<usize>,
}

impl ScanRequest {
    /// Selects these columns only.
    pub fn columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Selects only rows that satisfy `filter`.
    pub fn filter(mut self, filter: impl Into<Filter>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// Stops after `rows` rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Appends the column [`ROW_ID`].
    pub fn with_row_id(mut self) -> Self {
        self.with_row_id = true;
        self
    }

    /// Limits batches to `rows` rows.
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = Some(rows);
        self
    }
}

/// The bit that marks a row id of the change store. The version of the row's write and the row's place in that write
/// follow, so a row has one id in all snapshots and processes until it is folded.
const CHANGED: u64 = 1 << 63;
/// Bits of a row id that hold the row's place in its write.
const PLACE_BITS: u32 = 24;
/// Maximum rows of a write to the change store; larger writes go to the base.
pub(crate) const WRITE_ROWS_MAX: usize = 1 << PLACE_BITS;

/// A table at one version: its base without the rows that later writes supersede, plus the newest rows of those writes.
/// Cheap to clone; never changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    version: Version,
    base: Arc<Dataset>,
    base_rows: usize,
    reader: Arc<RowReader>,
    key: PrimaryKey,
    keys: KeyIndex,
    history: Arc<History>,
    chunks: Arc<Vec<Arc<Chunk>>>,
    by_key: Arc<Rows>,
    /// The row ids of superseded base rows; `masked` is their number.
    mask: Arc<RowAddrTreeMap>,
    masked: usize,
    /// The number of live rows in `chunks`.
    changed_rows: usize,
    logical: SchemaRef,
    visible: SchemaRef,
    /// Pins the files of the base.
    reading: Arc<Reading>,
    /// Keeps the table open in this process.
    _use: Arc<()>,
}

impl Snapshot {
    /// Makes a snapshot of the newest version that `newest` knows; `reading` pins its base.
    pub(crate) fn new(newest: &Inner, key: PrimaryKey, table_use: Arc<()>, reading: Reading) -> Result<Self> {
        let logical = schema::to_logical(&Schema::from(newest.base.schema()));
        let visible = Arc::new(schema::visible(&logical));
        let changes = &newest.changes;
        Ok(Self {
            version: Version(newest.version),
            base: Arc::clone(&newest.base),
            base_rows: newest.base_rows,
            reader: Arc::clone(&newest.reader),
            key,
            keys: newest.keys.clone(),
            history: Arc::clone(&newest.history),
            chunks: Arc::clone(&changes.chunks),
            by_key: Arc::clone(&changes.by_key),
            mask: Arc::clone(&changes.mask),
            masked: changes.masked,
            changed_rows: changes.live,
            logical: Arc::new(logical),
            visible,
            reading: Arc::new(reading),
            _use: table_use,
        })
    }

    /// Returns the version that this snapshot shows.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the identity of the table. It differs even from that of a dropped table of the same name.
    pub fn identity(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.history.hash_key.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns a number for the rows and where they are stored: snapshots of one table with the same number have the
    /// same rows under the same row ids, in any process.
    pub fn placement(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.identity(), self.version().0, self.base().version().version).hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the schema without Cenote's own columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    /// Returns the schema with Cenote's own columns.
    pub fn full_schema(&self) -> &SchemaRef {
        &self.logical
    }

    /// Returns the primary key.
    pub fn primary_key(&self) -> &PrimaryKey {
        &self.key
    }

    /// Returns the Lance dataset of the base. Later writes may have superseded some of its rows: see
    /// [`base_scanner`](Self::base_scanner).
    pub fn base(&self) -> &Arc<Dataset> {
        &self.base
    }

    pub(crate) fn reader(&self) -> &RowReader {
        &self.reader
    }

    /// Returns the oldest version of the table that was readable when the snapshot was taken.
    pub fn oldest_version(&self) -> Version {
        Version(self.history.oldest())
    }

    /// Returns the version of the newest write that version `lance` of the base holds.
    pub fn version_of_base(&self, lance: u64) -> Version {
        let mark = self.history.marks.iter().rev().find(|mark| mark.since <= lance);
        Version(mark.map_or(0, |mark| mark.version))
    }

    /// Returns a Lance scan or search of the base that skips superseded rows. Its result and that of
    /// [`changed`](Self::changed) together are complete.
    pub fn base_scanner(&self) -> Scanner {
        let mut scanner = self.base.scan();
        if self.masked > 0 {
            scanner.with_row_id_prefilter(RowAddrMask::from_block(self.mask.as_ref().clone()));
        }
        scanner
    }

    /// Returns the row ids of base rows that later writes supersede.
    pub fn superseded(&self) -> &Arc<RowAddrTreeMap> {
        &self.mask
    }

    /// Returns how many rows of this snapshot the base does not hold yet.
    pub fn changed_rows(&self) -> usize {
        self.changed_rows
    }

    /// Counts the change store's rows that were written after `version`, superseded ones included.
    pub fn changed_rows_since(&self, version: Version) -> usize {
        self.chunks[self.chunks_to(version)..].iter().map(|chunk| chunk.hashes.len()).sum()
    }

    /// Returns whether `row_id` names a row of this snapshot that the base does not hold yet.
    pub fn is_changed(&self, row_id: u64) -> bool {
        self.place(row_id).is_some_and(|(chunk, row)| self.chunks[chunk].is_live(row, self.version.0))
    }

    /// Returns whether `row_id` is a row id of the change store.
    pub(crate) fn is_of_changes(row_id: u64) -> bool {
        row_id & CHANGED != 0
    }

    /// Returns whether no later write supersedes the row `row_id` of this base or its change store.
    pub(crate) fn is_live(&self, row_id: u64) -> bool {
        if row_id & CHANGED == 0 { !self.is_superseded(row_id) } else { self.is_changed(row_id) }
    }

    /// Returns how many chunks hold writes up to `version`.
    fn chunks_to(&self, version: Version) -> usize {
        self.chunks.partition_point(|chunk| chunk.version <= version.0)
    }

    fn place(&self, row_id: u64) -> Option<(usize, usize)> {
        let version = (row_id & !CHANGED) >> PLACE_BITS;
        let row = (row_id & (WRITE_ROWS_MAX as u64 - 1)) as usize;
        let chunk = self.chunks.binary_search_by_key(&version, |chunk| chunk.version).ok()?;
        (row_id & CHANGED != 0 && row < self.chunks[chunk].hashes.len()).then_some((chunk, row))
    }

    fn row_id(&self, (chunk, row): (usize, usize)) -> u64 {
        CHANGED | self.chunks[chunk].version << PLACE_BITS | row as u64
    }

    /// Returns the properties that [`Table::set_properties`](crate::Table::set_properties) had stored at this version.
    pub fn properties(&self) -> &HashMap<String, String> {
        self.base.config()
    }

    /// Returns the schema of the batches of [`scan`](Self::scan).
    ///
    /// # Errors
    /// `NotFound` naming a column that the table does not have.
    pub fn scan_schema(&self, request: &ScanRequest) -> Result<SchemaRef> {
        let schema = match &request.columns {
            None => Arc::clone(&self.visible),
            Some(columns) => schema::project(&self.logical, columns)?,
        };
        if !request.with_row_id {
            return Ok(schema);
        }
        let row_id = Arc::new(Field::new(ROW_ID, DataType::UInt64, false));
        Ok(Arc::new(Schema::new(schema.fields().iter().cloned().chain([row_id]).collect::<Vec<_>>())))
    }

    /// Streams the requested rows, in no promised order. Bytes of a media column are read only if the request names the
    /// column (or names no columns).
    ///
    /// # Errors
    /// `NotFound` for an unknown column, `InvalidInput` for a filter that does not parse or type-check; the stream ends
    /// after its first error.
    pub async fn scan(&self, request: &ScanRequest) -> Result<RecordBatches> {
        let schema = self.scan_schema(request)?;
        let is_loose = match &request.filter {
            Some(filter) => self.is_loose(filter, &schema).boxed().await?,
            None => true,
        };
        let has_media = schema.fields().iter().any(|field| schema::is_blob(field));
        let row_bytes = self.plain_row_bytes(&schema).boxed().await?;
        let is_wide = match is_loose {
            true => row_bytes.varying >= WIDE_ROW_BYTES,
            false => row_bytes.all() >= WIDE_CHOSEN_ROW_BYTES,
        };
        if has_media || is_wide {
            return self.scan_late(request, schema).await;
        }
        let changed = self.changed(request).boxed().await?;
        let changed_rows: usize = changed.iter().map(RecordBatch::num_rows).sum();
        let changed = stream::iter(changed.into_iter().map(Ok));
        let limit = request.limit.map(|limit| limit - changed_rows);
        if limit == Some(0) {
            return Ok(changed.boxed());
        }
        // Under a mask, Lance evaluates a filter row by row and ignores scalar indexes. Superseded rows are then
        // dropped here instead.
        let masks_here = request.filter.is_some() && self.masked > 0;
        let mut scanner = if masks_here { self.base.scan() } else { self.base_scanner() };
        let names: Vec<&str> =
            schema.fields().iter().map(|field| field.name().as_str()).filter(|name| *name != ROW_ID).collect();
        if names.is_empty() {
            scanner.empty_project().map_err(lance_error)?.with_row_id();
        } else {
            scanner.project(&names).map_err(lance_error)?;
        }
        match &request.filter {
            Some(Filter::Sql(text)) => {
                scanner.filter(text).map_err(lance_error).map_err(|e| e.context(format!("filter `{text}`")))?;
            }
            Some(Filter::Expr(expr)) => {
                scanner.filter_expr(expr.as_ref().clone());
            }
            None => {}
        }
        if let Some(limit) = limit.filter(|_| !masks_here) {
            scanner.limit(Some(limit as i64), None).map_err(lance_error)?;
        }
        if request.with_row_id || masks_here {
            scanner.with_row_id();
        }
        // Bound batches by rows instead of Lance's own limit in bytes: that limit counts a whole page for each batch
        // that holds a part of it, and shrinks batches down to one row. With a filter that keeps few rows, the other
        // columns are read only for those.
        let first_bytes = match &request.filter {
            None => row_bytes.all(),
            Some(filter) => {
                let others = if is_loose { schema.as_ref().clone() } else { Schema::empty() };
                let first = self.columns_read(&others, Some(filter))?;
                self.plain_row_bytes(&first).boxed().await?.all()
            }
        };
        if request.filter.is_some() && is_loose {
            scanner.materialization_style(MaterializationStyle::AllEarly);
        }
        scanner.batch_size(request.batch_rows.unwrap_or(BATCH_ROWS).min(batch_rows(first_bytes)));
        scanner.io_buffer_size(READ_AHEAD_BYTES);
        let stream = scanner.try_into_stream().boxed().await.map_err(|source| match &request.filter {
            Some(filter) => lance_error(source).context(format!("filter `{filter}`")),
            None => lance_error(source),
        })?;
        let snapshot = masks_here.then(|| self.clone());
        let stream = stream.map_err(lance_error).and_then(move |batch| {
            let live = match &snapshot {
                Some(snapshot) => snapshot.without_superseded(&batch),
                None => Ok(batch),
            };
            futures::future::ready(live.and_then(|batch| reshape(&batch, &schema)))
        });
        // Lance combines rows of several files into batches larger than the batch size.
        let most = request.batch_rows.unwrap_or(usize::MAX).max(1);
        let stream =
            stream.map_ok(move |batch| stream::iter(parts(&batch, most).into_iter().map(compact))).try_flatten();
        let stream = keeping(Arc::clone(&self.reading), stream.boxed());
        match limit {
            Some(limit) if masks_here => Ok(changed.chain(first_rows(stream, limit)).boxed()),
            _ => Ok(changed.chain(stream).boxed()),
        }
    }

    /// Returns whether `filter` keeps enough rows that scanning the other columns beats reading them row by row, as
    /// Lance does with wide columns because it expects filters to be selective.
    async fn is_loose(&self, filter: &Filter, wanted: &Schema) -> Result<bool> {
        let is_narrow = |kind: &DataType| kind.primitive_width().is_some_and(|bytes| bytes <= 8);
        let is_wide = |field: &Arc<Field>| !schema::is_blob(field) && !is_narrow(field.data_type());
        if self.base_rows < SAMPLED_ROWS_MIN || !wanted.fields().iter().any(is_wide) {
            return Ok(false);
        }
        // A scan then reads at most twice what is wanted.
        Ok(selectivity::share(&self.reader, filter).await?.is_some_and(|share| share >= 0.5))
    }

    /// Returns the requested rows that the base does not hold yet, which [`base_scanner`](Self::base_scanner) does not
    /// find.
    ///
    /// # Errors
    /// Those of [`scan`](Self::scan).
    pub async fn changed(&self, request: &ScanRequest) -> Result<Vec<RecordBatch>> {
        self.changed_since(Version(0), request).await
    }

    /// Returns those rows of [`changed`](Self::changed) that were written after `version`.
    ///
    /// # Errors
    /// Those of [`scan`](Self::scan).
    pub async fn changed_since(&self, version: Version, request: &ScanRequest) -> Result<Vec<RecordBatch>> {
        let schema = self.scan_schema(request)?;
        if self.chunks_to(version) == self.chunks.len() {
            return Ok(Vec::new());
        }
        let (snapshot, request) = (self.clone(), request.clone());
        blocking(move || {
            // Read only the columns that are wanted or compared: others may hold media.
            let read = snapshot.columns_read(&schema, request.filter.as_ref())?;
            let filter = request.filter.as_ref().map(|filter| filter.predicate(&read)).transpose()?;
            let places = snapshot.live_places(version);
            let mut limit = request.limit.unwrap_or(usize::MAX);
            let mut batches = Vec::new();
            for places in places.chunks(request.batch_rows.unwrap_or(BATCH_ROWS).max(1)) {
                let mut rows = snapshot.gather(places, &read)?;
                let mut row_ids = UInt64Array::from_iter_values(places.iter().map(|place| snapshot.row_id(*place)));
                if let Some(filter) = &filter {
                    let selected = filter.evaluate(&rows).and_then(|value| value.into_array(rows.num_rows()));
                    let selected = selected.map_err(|source| {
                        Error::invalid_input(format!("the filter fails on a row: {source}")).with_source(source)
                    })?;
                    let selected = selected.as_boolean_opt();
                    let selected = selected.ok_or_else(|| Error::invalid_input("the filter is not a condition"))?;
                    rows = filter_record_batch(&rows, selected).map_err(arrow_error)?;
                    row_ids = filter_array(&row_ids, selected).map_err(arrow_error)?.as_primitive().clone();
                }
                let count = rows.num_rows().min(limit);
                let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
                    Some(column) => Ok(column.slice(0, count)),
                    None if field.name() == ROW_ID => Ok(Arc::new(row_ids.slice(0, count)) as ArrayRef),
                    None => Err(Error::internal(format!("the change store lost column `{}`", field.name()))),
                });
                let columns = columns.collect::<Result<Vec<_>>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(count));
                let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options);
                if count > 0 {
                    batches.push(batch.map_err(arrow_error)?);
                }
                limit -= count;
                if limit == 0 {
                    break;
                }
            }
            Ok(batches)
        })
        .await
    }

    /// Returns the columns of the table that `schema` wants or `filter` compares.
    fn columns_read(&self, schema: &Schema, filter: Option<&Filter>) -> Result<SchemaRef> {
        let compared = filter.map(|filter| filter.columns(&self.logical)).transpose()?.unwrap_or_default();
        if let Some(filter) = filter
            && compared.iter().any(|name| self.logical.index_of(name).is_err())
        {
            // Checked against all columns, so that the error can name them.
            filter.predicate(&self.logical)?;
        }
        let is_read = |name: &String| schema.index_of(name).is_ok() || compared.contains(name);
        let fields = self.logical.fields().iter().filter(|field| is_read(field.name()));
        Ok(Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>())))
    }

    /// Returns whether `filter` selects the same rows of this snapshot each time it is evaluated, that is, whether it
    /// depends neither on the time nor on chance.
    ///
    /// # Errors
    /// `InvalidInput` when it does not parse.
    pub fn is_steady(&self, filter: &Filter) -> Result<bool> {
        filter.is_steady(&self.logical)
    }

    /// Returns the places of live rows that were written after `since`.
    fn live_places(&self, since: Version) -> Vec<(usize, usize)> {
        let version = self.version.0;
        let rows = |(chunk, rows): (usize, &Arc<Chunk>)| {
            let rows = Arc::clone(rows);
            (0..rows.hashes.len()).filter(move |row| rows.is_live(*row, version)).map(move |row| (chunk, row))
        };
        self.chunks.iter().enumerate().skip(self.chunks_to(since)).flat_map(rows).collect()
    }

    /// Gathers rows of the change store, in the columns of `schema`.
    fn gather(&self, places: &[(usize, usize)], schema: &SchemaRef) -> Result<RecordBatch> {
        let mut used: Vec<usize> = places.iter().map(|(chunk, _)| *chunk).collect();
        used.dedup();
        used.sort_unstable();
        used.dedup();
        let batches = used.iter().map(|chunk| schema::conform(&self.chunks[*chunk].batch, schema));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        if batches.is_empty() || schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
            let columns = schema.fields().iter().map(|field| new_empty_array(field.data_type())).collect();
            return RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error);
        }
        let sources: Vec<&RecordBatch> = batches.iter().collect();
        let places: Vec<(usize, usize)> =
            places.iter().map(|(chunk, row)| (used.partition_point(|used| used < chunk), *row)).collect();
        interleave_record_batch(&sources, &places).map_err(arrow_error)
    }

    /// Returns the row id of each key, in the order of `keys` (the primary key's columns); `None` for an absent key.
    pub async fn locate(&self, keys: &RecordBatch) -> Result<Vec<Option<u64>>> {
        self.locate_hashes(self.key.hash(&self.key.project(keys)?, self.history.hash_key)?).await
    }

    /// Locates rows by the hashes of their keys: see [`locate`](Self::locate).
    pub(crate) async fn locate_hashes(&self, hashes: Vec<u128>) -> Result<Vec<Option<u64>>> {
        if hashes.len() <= SHORT_ROWS
            && let Some(found) = self.find(&hashes, KeyIndex::get_many_cached)?
        {
            return Ok(found);
        }
        let snapshot = self.clone();
        let find = move || snapshot.find(&hashes, |keys, hashes| keys.get_many(hashes).map(Some));
        blocking(find).await?.ok_or_else(|| Error::internal("a blocking lookup returned nothing"))
    }

    /// Returns the row id of each key, finding rows of the base with `search`; `None` if `search` would have to wait.
    fn find(
        &self,
        hashes: &[u128],
        search: impl Fn(&KeyIndex, &[u128]) -> Result<Option<Vec<Option<u64>>>>,
    ) -> Result<Option<Vec<Option<u64>>>> {
        let is_live = |(chunk, row): (usize, usize)| {
            self.chunks.get(chunk).is_some_and(|chunk| chunk.is_live(row, self.version.0))
        };
        let mut found: Vec<Option<u64>> =
            self.by_key.find(hashes, is_live).into_iter().map(|place| place.map(|place| self.row_id(place))).collect();
        let (unchanged, wanted): (Vec<usize>, Vec<u128>) =
            hashes.iter().copied().enumerate().filter(|(at, _)| found[*at].is_none()).unzip();
        let Some(rows) = search(&self.keys, &wanted)? else { return Ok(None) };
        for (at, row) in unchanged.into_iter().zip(rows) {
            found[at] = row.filter(|row| !self.is_superseded(*row));
        }
        Ok(Some(found))
    }

    /// Reads the requested rows into one batch; for results that are known to be small.
    pub async fn collect(&self, request: &ScanRequest) -> Result<RecordBatch> {
        let schema = self.scan_schema(request)?;
        let batches: Vec<RecordBatch> = self.scan(request).await?.try_collect().await?;
        arrow::compute::concat_batches(&schema, &batches).map_err(arrow_error)
    }

    /// Counts all rows, or those that satisfy `filter`.
    pub async fn count(&self, filter: Option<Filter>) -> Result<usize> {
        match filter {
            None => Ok(self.base_rows - self.masked + self.changed_rows),
            Some(filter) => {
                let request =
                    ScanRequest { filter: Some(filter), ..ScanRequest::default() }.columns([""; 0]).with_row_id();
                let stream = self.scan(&request).await?;
                stream.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await
            }
        }
    }

    /// Returns the rows of `batch`, which has row ids, that are not superseded.
    fn without_superseded(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let row_ids = batch.column_by_name(ROW_ID).and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
        let row_ids = row_ids.ok_or_else(|| Error::internal("a scan returned no row ids"))?;
        let live = row_ids.values().iter().map(|row| Some(!self.is_superseded(*row))).collect();
        filter_record_batch(batch, &live).map_err(arrow_error)
    }

    fn is_superseded(&self, row_id: u64) -> bool {
        // The mask stores the upper and lower halves of row ids separately, as if they were row addresses.
        let lower = self.mask.get_fragment_bitmap((row_id >> 32) as u32);
        lower.is_some_and(|lower| lower.contains(row_id as u32))
    }

    /// Returns the rows with these keys, in no promised order; absent keys are skipped.
    ///
    /// `keys` holds at least the primary key's columns; `columns` as in [`ScanRequest::columns`].
    pub async fn get(&self, keys: &RecordBatch, columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let mut row_ids: Vec<u64> = self.locate(keys).await?.into_iter().flatten().collect();
        row_ids.sort_unstable();
        row_ids.dedup();
        let columns = match columns {
            Some(columns) => columns,
            None => self.visible.fields().iter().map(|field| field.name().clone()).collect(),
        };
        self.take(&row_ids, &columns).await
    }

    /// Returns the rows with these row ids, in the order of `row_ids`, with media columns as bytes; `columns` as in
    /// [`ScanRequest::columns`].
    ///
    /// # Errors
    /// `NotFound` for an unknown column, or when a row id names no row of this snapshot.
    pub async fn take(&self, row_ids: &[u64], columns: &[String]) -> Result<RecordBatch> {
        let schema = schema::project(&self.logical, columns)?;
        let (changed, base) = self.split(row_ids)?;
        if columns.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(row_ids.len()));
            return RecordBatch::try_new_with_options(schema, Vec::new(), &options).map_err(arrow_error);
        }
        let from_changes = self.gather(&changed.places, &schema)?;
        if base.row_ids.is_empty() {
            return Ok(from_changes);
        }
        let from_base = self.take_base(&base.row_ids, &schema).boxed().await?;
        if changed.places.is_empty() {
            return Ok(from_base);
        }
        // For each requested row: 0 (change store) or 1 (base), and its position in that batch.
        let mut order = vec![(0, 0); row_ids.len()];
        changed.at.iter().enumerate().for_each(|(row, at)| order[*at] = (0, row));
        base.at.iter().enumerate().for_each(|(row, at)| order[*at] = (1, row));
        interleave_record_batch(&[&from_changes, &from_base], &order).map_err(arrow_error)
    }

    /// Splits `row_ids` into those of the change store and those of the base, each with its position in `row_ids`.
    fn split(&self, row_ids: &[u64]) -> Result<(ChangedRows, BaseRows)> {
        let (mut changed, mut base) = (ChangedRows::default(), BaseRows::default());
        for (at, row_id) in row_ids.iter().enumerate() {
            if row_id & CHANGED == 0 {
                base.at.push(at);
                base.row_ids.push(*row_id);
                continue;
            }
            let place = self.place(*row_id);
            changed.at.push(at);
            changed.places.push(place.ok_or_else(|| Error::not_found("a row id names no row of this snapshot"))?);
        }
        Ok((changed, base))
    }

    async fn take_base(&self, row_ids: &[u64], schema: &SchemaRef) -> Result<RecordBatch> {
        let (blobs, plain): (Vec<&FieldRef>, Vec<&FieldRef>) =
            schema.fields().iter().partition(|field| schema::is_blob(field));
        let [blobs, plain] = [blobs, plain].map(|fields| fields.iter().map(|f| f.name()).collect::<Vec<_>>());
        let mut arrays: HashMap<&str, ArrayRef> = HashMap::new();
        if !plain.is_empty() {
            let projection = self.base.schema().project(&plain).map_err(lance_error)?;
            let batch = self.reader.take(row_ids, &projection).await?;
            for name in plain {
                if let Some(column) = batch.column_by_name(name) {
                    arrays.insert(name, Arc::clone(column));
                }
            }
        }
        for name in blobs {
            arrays.insert(name, media::read(&self.reader, name, row_ids).await?);
        }
        let columns = schema.fields().iter().map(|field| {
            let column = arrays.remove(field.name().as_str());
            column.ok_or_else(|| Error::internal(format!("a read by row id lost column `{}`", field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(row_ids.len()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
    }

    /// Returns the sizes in bytes of media column `column` for these row ids, in their order; 0 for null. Reads no
    /// media.
    pub async fn blob_sizes(&self, column: &str, row_ids: &[u64]) -> Result<Vec<u64>> {
        let (changed, base) = self.split(row_ids)?;
        let mut sizes = vec![0; row_ids.len()];
        for (at, (chunk, row)) in changed.at.iter().zip(&changed.places) {
            let media = self.chunks[*chunk].batch.column_by_name(column);
            let media = media.and_then(|media| media.as_binary_opt::<i64>());
            sizes[*at] = media.map_or(0, |media| if media.is_null(*row) { 0 } else { media.value_length(*row) as u64 });
        }
        if !base.row_ids.is_empty() {
            let of_base = media::sizes(&self.reader, column, &base.row_ids).await?;
            base.at.iter().zip(of_base).for_each(|(at, size)| sizes[*at] = size);
        }
        Ok(sizes)
    }
}

#[derive(Debug, Default)]
struct ChangedRows {
    at: Vec<usize>,
    places: Vec<(usize, usize)>,
}

#[derive(Debug, Default)]
struct BaseRows {
    at: Vec<usize>,
    row_ids: Vec<u64>,
}

/// Returns the lowest row id that a write after `version` can have while its rows are not folded.
pub fn row_ids_after(version: Version) -> u64 {
    CHANGED | (version.0 + 1) << PLACE_BITS
}
