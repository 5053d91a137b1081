//! Tables and their change feeds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use cenote_runtime::{
    ChangeFeed, Error, Filter, IndexInfo, IndexKind, IndexSpec, Lake, ScanRequest, Search, Snapshot, Table, Version,
    WriteReport, arrow, unknown,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::Mutex;

use crate::fault::{self, raise};
use crate::interchange::{self, PySchema};
use crate::process::{Owned, wait};
use crate::rows::{PyRows, PyStream};
use crate::values::from_python::{self, from_python};
use crate::values::parameter;

/// Bytes of a write that are held in memory. Beyond them rows are staged in files, and still become one version.
const HELD_BYTES_MAX: usize = 64 << 20;

/// A table of an open lake.
#[pyclass(frozen, module = "cenote._native", name = "Table")]
pub(crate) struct PyTable {
    inner: Owned<(Table, Lake)>,
}

impl PyTable {
    pub(crate) fn new(table: Table, lake: Lake) -> Self {
        Self { inner: Owned::new((table, lake)) }
    }

    pub(crate) fn here(&self) -> PyResult<&Table> {
        Ok(&self.inner.here("table")?.0)
    }

    fn lake(&self) -> PyResult<&Lake> {
        Ok(&self.inner.here("table")?.1)
    }
}

/// Returns `table` at `version`: a number, `tag:NAME`, or `None` for the newest.
pub(crate) async fn snapshot(table: &Table, version: Option<&str>) -> cenote_runtime::Result<Snapshot> {
    let Some(version) = version else { return table.snapshot().await };
    if let Some(tag) = version.strip_prefix("tag:") {
        return table.snapshot_of(tag).await;
    }
    let number = version.parse().map_err(|source| {
        let what = format!("`{version}` is not a version: give a number, or `tag:NAME` for a tag");
        Error::invalid_input(what).with_source(source)
    })?;
    table.snapshot_at(Version(number)).await
}

fn report<'py>(py: Python<'py>, report: WriteReport) -> PyResult<Bound<'py, PyDict>> {
    let answer = PyDict::new(py);
    answer.set_item("version", report.version.0)?;
    answer.set_item("inserted", report.inserted)?;
    answer.set_item("updated", report.updated)?;
    answer.set_item("deleted", report.deleted)?;
    Ok(answer)
}

pub(crate) fn index<'py>(py: Python<'py>, index: &IndexInfo) -> PyResult<Bound<'py, PyDict>> {
    let answer = PyDict::new(py);
    answer.set_item("name", &index.name)?;
    answer.set_item("column", &index.column)?;
    answer.set_item("kind", index.kind.to_string())?;
    answer.set_item("rows_indexed", index.rows_indexed)?;
    answer.set_item("rows_unindexed", index.rows_unindexed)?;
    Ok(answer)
}

#[pymethods]
impl PyTable {
    #[getter]
    fn name(&self) -> PyResult<String> {
        Ok(self.here()?.name().to_owned())
    }

    fn schema(&self, py: Python<'_>) -> PyResult<PySchema> {
        let snapshot = wait(py, self.here()?.snapshot())?;
        Ok(PySchema(Arc::clone(snapshot.schema())))
    }

    fn primary_key(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(wait(py, self.here()?.snapshot())?.primary_key().columns())
    }

    fn version(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(wait(py, self.here()?.snapshot())?.version().0)
    }

    fn count(&self, py: Python<'_>, filter: Option<String>, version: Option<&str>) -> PyResult<usize> {
        let table = self.here()?;
        wait(py, async { snapshot(table, version).await?.count(filter.map(Filter::from)).await })
    }

    /// Makes rows in the table's types from columns of Python's values; none without columns. A column that the table
    /// lacks is refused.
    fn build(&self, py: Python<'_>, columns: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<PyRows> {
        let snapshot = wait(py, self.here()?.snapshot())?;
        if columns.is_empty() {
            return Ok(PyRows::new(Arc::clone(snapshot.primary_key().schema()), Vec::new()));
        }
        let schema = snapshot.schema();
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for (name, column) in &columns {
            let field = schema.field_with_name(name).map_err(|_| {
                let known = schema.fields().iter().map(|field| field.name().as_str());
                fault::invalid(unknown("column", name, known).message())
            })?;
            arrays.push(from_python(field, column)?);
            fields.push(Arc::new(field.clone().with_nullable(true)));
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
        batch.map(PyRows::from).map_err(|error| fault::invalid(format!("the columns do not fit together: {error}")))
    }

    fn upsert<'py>(&self, py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let table = self.here()?;
        let mut reader = interchange::reader(data)?;
        let written = wait(py, async move {
            let (mut held, mut bytes, mut staged) = (Vec::new(), 0, Vec::new());
            loop {
                // A reader may block, for example in Python code, which a thread of the runtime must not.
                let (next, back) = tokio::task::spawn_blocking(move || (reader.next(), reader))
                    .await
                    .map_err(|source| Error::internal("read the rows to be written").with_source(source))?;
                reader = back;
                let Some(batch) = next else { break };
                let batch = batch.map_err(|source| Error::invalid_input(format!("read the rows: {source}")))?;
                bytes += batch.get_array_memory_size();
                held.push(batch);
                if bytes > HELD_BYTES_MAX {
                    staged.push(table.stage(std::mem::take(&mut held)).await?);
                    bytes = 0;
                }
            }
            if staged.is_empty() {
                return table.upsert_all(held).await;
            }
            if !held.is_empty() {
                staged.push(table.stage(held).await?);
            }
            table.commit(staged).await
        })?;
        report(py, written)
    }

    fn update<'py>(&self, py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let batch = batch(py, data)?;
        report(py, wait(py, self.here()?.update(batch))?)
    }

    fn delete_keys<'py>(&self, py: Python<'py>, keys: Vec<Vec<Bound<'py, PyAny>>>) -> PyResult<Bound<'py, PyDict>> {
        let table = self.here()?;
        let keys = key_rows(&wait(py, table.snapshot())?, &keys)?;
        report(py, wait(py, table.delete(&keys))?)
    }

    fn delete_rows<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let keys = batch(py, keys)?;
        report(py, wait(py, self.here()?.delete(&keys))?)
    }

    fn delete_where<'py>(&self, py: Python<'py>, filter: String) -> PyResult<Bound<'py, PyDict>> {
        report(py, wait(py, self.here()?.delete_where(filter))?)
    }

    fn get_keys(
        &self,
        py: Python<'_>,
        keys: Vec<Vec<Bound<'_, PyAny>>>,
        columns: Option<Vec<String>>,
        version: Option<&str>,
    ) -> PyResult<PyRows> {
        let snapshot = wait(py, snapshot(self.here()?, version))?;
        let keys = key_rows(&snapshot, &keys)?;
        Ok(wait(py, snapshot.get(&keys, columns))?.into())
    }

    fn scan(
        &self,
        py: Python<'_>,
        columns: Option<Vec<String>>,
        filter: Option<String>,
        limit: Option<usize>,
        version: Option<&str>,
        batch_rows: Option<usize>,
    ) -> PyResult<PyStream> {
        let table = self.here()?;
        let request = ScanRequest { columns, filter: filter.map(Filter::from), limit, with_row_id: false, batch_rows };
        let (schema, stream) = wait(py, async {
            let snapshot = snapshot(table, version).await?;
            Ok((snapshot.scan_schema(&request)?, snapshot.scan(&request).await?))
        })?;
        Ok(PyStream::new(schema, stream))
    }

    #[expect(clippy::too_many_arguments, reason = "they are the keywords of the Python method")]
    fn search(
        &self,
        py: Python<'_>,
        text: Option<String>,
        image: Option<Vec<u8>>,
        vector: Option<&Bound<'_, PyAny>>,
        column: Option<String>,
        filter: Option<String>,
        k: usize,
        columns: Option<Vec<String>>,
    ) -> PyResult<PyRows> {
        let vector = vector.map(parameter::vector).transpose()?;
        let (table, lake) = (self.here()?, self.lake()?);
        let found = wait(py, async {
            let mut search = Search::new(k);
            if let Some(filter) = filter {
                search = search.filter(filter);
            }
            if let Some(columns) = columns {
                search = search.columns(columns);
            }
            let indexes = table.indexes().await?;
            let has_words = indexes.iter().any(|index| matches!(index.kind, IndexKind::FullText { .. }));
            let by_meaning = text.is_some() && vector.is_none() && image.is_none() && (!has_words || column.is_some());
            if vector.is_some() || image.is_some() || by_meaning {
                let column = table.vector_column(column.as_deref()).await?;
                let vector = match (vector, image, &text) {
                    (Some(vector), _, _) => vector,
                    (None, Some(picture), _) => lake.embed_image(&picture, column.dimensions).await?,
                    (None, None, text) => lake.embed_text(text.as_deref().unwrap_or_default()).await?,
                };
                search = search.vector(column.name, vector);
            }
            if let Some(text) = text.filter(|_| has_words || !by_meaning) {
                search = search.text(text);
            }
            table.search(&search).await
        })?;
        Ok(found.into())
    }

    fn create_index(
        &self,
        py: Python<'_>,
        column: &str,
        kind: &str,
        metric: Option<&str>,
        name: Option<String>,
    ) -> PyResult<Py<PyDict>> {
        let kind = IndexKind::parse(kind, metric.map(|metric| ("metric", metric))).map_err(raise)?;
        let spec = IndexSpec { name, ..IndexSpec::new(column, kind) };
        let made = wait(py, self.here()?.create_index(spec))?;
        Ok(index(py, &made)?.unbind())
    }

    fn indexes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        wait(py, self.here()?.indexes())?.iter().map(|info| index(py, info)).collect()
    }

    fn drop_index(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        wait(py, self.here()?.drop_index(name))
    }

    fn optimize_indexes(&self, py: Python<'_>) -> PyResult<()> {
        wait(py, self.here()?.optimize_indexes())
    }

    fn compact(&self, py: Python<'_>, purge: bool) -> PyResult<()> {
        wait(py, self.here()?.compact(purge)).map(drop)
    }

    fn fold(&self, py: Python<'_>) -> PyResult<()> {
        wait(py, self.here()?.fold())
    }

    fn tag(&self, py: Python<'_>, tag: &str, version: Option<u64>) -> PyResult<u64> {
        let table = self.here()?;
        wait(py, async {
            let version = match version {
                Some(version) => Version(version),
                None => table.snapshot().await?.version(),
            };
            table.tag(tag, version).await?;
            Ok(version.0)
        })
    }

    fn untag(&self, py: Python<'_>, tag: &str) -> PyResult<()> {
        wait(py, self.here()?.untag(tag))
    }

    fn tags(&self, py: Python<'_>) -> PyResult<BTreeMap<String, u64>> {
        let tags = wait(py, self.here()?.tags())?;
        Ok(tags.into_iter().map(|(tag, version)| (tag, version.0)).collect())
    }

    fn versions(&self, py: Python<'_>) -> PyResult<Vec<(u64, i64)>> {
        let versions = wait(py, self.here()?.versions())?;
        Ok(versions.into_iter().map(|listed| (listed.version.0, listed.time.0)).collect())
    }

    fn add_columns(&self, py: Python<'_>, schema: &Bound<'_, PyAny>) -> PyResult<u64> {
        let schema = interchange::schema(schema)?;
        let fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        Ok(wait(py, self.here()?.add_columns(&fields))?.0)
    }

    fn drop_columns(&self, py: Python<'_>, columns: Vec<String>) -> PyResult<u64> {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        Ok(wait(py, self.here()?.drop_columns(&columns))?.0)
    }

    fn properties(&self, py: Python<'_>) -> PyResult<HashMap<String, String>> {
        Ok(wait(py, self.here()?.snapshot())?.properties().clone())
    }

    fn set_properties(&self, py: Python<'_>, properties: BTreeMap<String, Option<String>>) -> PyResult<u64> {
        Ok(wait(py, self.here()?.set_properties(properties))?.0)
    }

    fn changes(&self, py: Python<'_>, start: Option<u64>) -> PyResult<PyChanges> {
        let table = self.here()?;
        let feed = wait(py, async {
            let start = match start {
                Some(start) => Version(start),
                None => table.snapshot().await?.oldest_version(),
            };
            table.changes(start).await
        })?;
        let version = AtomicU64::new(feed.version().0);
        Ok(PyChanges { feed: Owned::new(Mutex::new(Feed { feed, held: None, given: 0 })), version })
    }
}

/// Makes keys in the types of their columns, from one list of values per key.
fn key_rows(snapshot: &Snapshot, keys: &[Vec<Bound<'_, PyAny>>]) -> PyResult<RecordBatch> {
    let schema = snapshot.primary_key().schema();
    let (width, names) = (schema.fields().len(), snapshot.primary_key().columns().join(", "));
    for key in keys {
        if key.len() != width || key.iter().any(|value| value.is_none()) {
            let found = key.iter().map(|value| Ok(value.repr()?.to_string())).collect::<PyResult<Vec<_>>>()?.join(", ");
            return Err(fault::invalid(format!("a key has {width} values ({names}), found {found}")));
        }
    }
    let column = |(at, field): (usize, &Arc<Field>)| {
        from_python::column(field, &keys.iter().map(|key| key[at].clone()).collect::<Vec<_>>())
    };
    let columns = schema.fields().iter().enumerate().map(column).collect::<PyResult<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(fault::arrow)
}

/// Reads all rows of `data` as one batch, for small writes.
fn batch(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<RecordBatch> {
    let reader = interchange::reader(data)?;
    let schema = reader.schema();
    let batches = py.detach(|| reader.collect::<Result<Vec<_>, _>>()).map_err(fault::arrow)?;
    arrow::compute::concat_batches(&schema, &batches).map_err(fault::arrow)
}

/// A table's change feed, for threads that take turns.
#[pyclass(frozen, module = "cenote._native", name = "Changes")]
pub(crate) struct PyChanges {
    feed: Owned<Mutex<Feed>>,
    /// The version up to which changes were given.
    version: AtomicU64,
}

/// The reading state of a feed. A reader that stops waiting, for example at Ctrl-C, leaves the state as it is and loses
/// no change.
struct Feed {
    feed: ChangeFeed,
    /// The next changes, if they were read.
    held: Option<RecordBatch>,
    /// The number of times that changes were given.
    given: u64,
}

#[pymethods]
impl PyChanges {
    /// Reads the next changes, and returns whether there are any yet.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        let feed = self.feed.here("change feed")?;
        wait(py, async {
            let mut feed = feed.lock().await;
            if feed.held.is_none() {
                feed.held = feed.feed.next().await?;
            }
            if feed.held.is_none() {
                // Writes that changed no row are passed too.
                self.version.store(feed.feed.version().0, Ordering::Relaxed);
            }
            Ok(feed.held.is_some())
        })
    }

    /// Returns `make(changes)` for the next changes, if they are ready. They count as given once `make` returns and no
    /// signal interrupts.
    fn give<'py>(&self, py: Python<'py>, make: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let feed = self.feed.here("change feed")?;
        // Another thread is reading: nothing is ready.
        let next = feed.try_lock().ok().and_then(|feed| Some((feed.held.clone()?, feed.given)));
        let Some((changes, number)) = next else { return Ok(None) };
        let made = make.call1((PyRows::from(changes),))?;
        py.check_signals()?;
        let Ok(mut feed) = feed.try_lock() else { return Ok(None) };
        let mine = feed.given == number && feed.held.take().is_some();
        if mine {
            feed.given += 1;
            self.version.store(feed.feed.version().0, Ordering::Relaxed);
        }
        Ok(mine.then_some(made))
    }

    /// Returns the version up to which changes were given.
    fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }
}
