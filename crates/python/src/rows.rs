//! Rows that Python holds in memory or reads as a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use cenote_runtime::{Error, RecordBatches, arrow};
use futures::StreamExt;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyCapsule, PyDict};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::fault;
use crate::interchange::pickle::{self, Reduced};
use crate::interchange::{self, ArrayCapsules, export_array, export_schema, export_stream};
use crate::process::{self, Owned};
use crate::tensor::PyTensor;
use crate::values::to_python::to_python;

/// Batches in memory, which can be read repeatedly.
#[pyclass(frozen, module = "cenote._native", name = "Rows")]
pub(crate) struct PyRows {
    pub(crate) schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl PyRows {
    pub(crate) fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches }
    }

    fn batch(&self) -> PyResult<RecordBatch> {
        // A single batch needs no copy; several are copied into one.
        if let [batch] = self.batches.as_slice() {
            return Ok(batch.clone());
        }
        arrow::compute::concat_batches(&self.schema, &self.batches).map_err(fault::arrow)
    }

    /// Returns column `name` as one array.
    pub(crate) fn find(&self, name: &str) -> PyResult<PyColumn> {
        let at = self.schema.index_of(name).map_err(|_| {
            let known = self.schema.fields().iter().map(|field| field.name().as_str());
            fault::raise(cenote_runtime::unknown("column", name, known))
        })?;
        Ok(PyColumn { array: self.batch()?.column(at).clone(), field: self.schema.fields()[at].clone() })
    }
}

impl From<RecordBatch> for PyRows {
    fn from(batch: RecordBatch) -> Self {
        Self::new(batch.schema(), vec![batch])
    }
}

#[pymethods]
impl PyRows {
    fn __len__(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[getter]
    fn schema(&self) -> interchange::PySchema {
        interchange::PySchema(SchemaRef::clone(&self.schema))
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A producer may ignore the requested schema; consumers cast.
        drop(requested_schema);
        let batches: Vec<Result<RecordBatch, ArrowError>> = self.batches.iter().cloned().map(Ok).collect();
        export_stream(py, Box::new(RecordBatchIterator::new(batches, SchemaRef::clone(&self.schema))))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        export_schema(py, &self.schema)
    }

    /// Returns the first `rows` rows.
    fn head(&self, rows: usize) -> PyRows {
        let mut left = rows;
        let cut = |batch: &RecordBatch| {
            let batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
            batch
        };
        Self { schema: SchemaRef::clone(&self.schema), batches: self.batches.iter().map(cut).collect() }
    }

    /// Returns the rows as dicts of Python values.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let mut rows = Vec::new();
        for batch in &self.batches {
            let columns = batch.schema_ref().fields().iter().zip(batch.columns());
            let columns = columns.map(|(field, column)| to_python(py, field, column)).collect::<PyResult<Vec<_>>>()?;
            for row in 0..batch.num_rows() {
                let values = PyDict::new(py);
                for (field, column) in batch.schema_ref().fields().iter().zip(&columns) {
                    values.set_item(field.name(), &column[row])?;
                }
                rows.push(values);
            }
        }
        Ok(rows)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Reduced<'py, (Bound<'py, PyBytes>,)>> {
        let bytes = PyBytes::new(py, &pickle::write(&self.schema, &self.batches)?);
        Ok((pickle::maker(py, "unpickle_rows")?, (bytes,)))
    }

    /// Returns column `name` as one array.
    fn column(&self, name: &str) -> PyResult<PyColumn> {
        self.find(name)
    }
}

/// A column as one array, with `__arrow_c_array__`.
#[pyclass(frozen, module = "cenote._native", name = "Column")]
pub(crate) struct PyColumn {
    pub(crate) array: arrow::array::ArrayRef,
    pub(crate) field: arrow::datatypes::FieldRef,
}

#[pymethods]
impl PyColumn {
    fn __len__(&self) -> usize {
        self.array.len()
    }

    /// Returns `rows` values from `start` on, in the same memory.
    fn slice(&self, start: usize, rows: usize) -> PyResult<PyColumn> {
        match start.checked_add(rows).is_some_and(|end| end <= self.array.len()) {
            true => Ok(PyColumn { array: self.array.slice(start, rows), field: self.field.clone() }),
            false => Err(fault::invalid(format!("{rows} rows from row {start} of {}", self.array.len()))),
        }
    }

    fn __getitem__<'py>(&self, py: Python<'py>, row: usize) -> PyResult<Bound<'py, PyAny>> {
        let wrong = || PyIndexError::new_err(format!("row {row} of {}", self.array.len()));
        if row >= self.array.len() {
            return Err(wrong());
        }
        to_python(py, &self.field, &self.array.slice(row, 1))?.pop().ok_or_else(wrong)
    }

    /// Returns the values as Python's.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        to_python(py, &self.field, &self.array)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<ArrayCapsules<'py>> {
        drop(requested_schema);
        export_array(py, self.array.as_ref(), &self.field)
    }

    /// Pickles the column as a tensor of its Arrow bytes: `cenote.torch` shares the memory of tensors that go to
    /// another process.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Reduced<'py, (PyTensor,)>> {
        let schema = Arc::new(Schema::new(vec![Arc::clone(&self.field)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&self.array)]).map_err(fault::arrow)?;
        let bytes = pickle::write(&schema, &[batch])?;
        let shape = vec![bytes.len() as i64];
        let tensor = PyTensor::of_bytes(Buffer::from_vec(bytes), shape, "|u1", None)?;
        Ok((pickle::maker(py, "unpickle_column")?, (tensor,)))
    }
}

/// Makes rows again from their pickled bytes.
#[pyfunction]
pub(crate) fn unpickle_rows(bytes: PyBackedBytes) -> PyResult<PyRows> {
    let (schema, batches) = pickle::read(Buffer::from(Bytes::from_owner(bytes)))?;
    Ok(PyRows::new(schema, batches))
}

/// Makes a column again from its pickled bytes.
#[pyfunction]
pub(crate) fn unpickle_column(bytes: &PyTensor) -> PyResult<PyColumn> {
    let nothing = || fault::invalid("these bytes hold no column");
    let (schema, batches) = pickle::read(bytes.buffer().ok_or_else(nothing)?)?;
    match (batches.first(), schema.fields().first()) {
        (Some(batch), Some(field)) => Ok(PyColumn { array: Arc::clone(batch.column(0)), field: Arc::clone(field) }),
        _ => Err(nothing()),
    }
}

/// A stream of batches, which can be read once, by threads that take turns.
#[pyclass(frozen, module = "cenote._native", name = "Stream")]
pub(crate) struct PyStream {
    schema: SchemaRef,
    reading: Owned<Mutex<Reading>>,
}

/// The reading state of a stream. A reader that stops waiting, for example at Ctrl-C, leaves the state as it is and
/// loses no batch.
struct Reading {
    source: BatchSource,
    /// Batches that were read but not given yet.
    held: VecDeque<RecordBatch>,
    /// The number of batches that were given one by one.
    given: u64,
}

/// The source of a stream's batches.
enum BatchSource {
    Open(RecordBatches),
    /// The source is exhausted.
    Over,
    /// Reading failed: every later read fails alike.
    Failed(Error),
    /// All batches were handed over at once.
    Gone,
}

impl Reading {
    /// Reads another batch, if there is one.
    async fn read(&mut self) -> cenote_runtime::Result<bool> {
        match &mut self.source {
            BatchSource::Open(batches) => match batches.next().await {
                Some(Ok(batch)) => {
                    self.held.push_back(batch);
                    Ok(true)
                }
                Some(Err(error)) => {
                    self.source = BatchSource::Failed(error.clone());
                    Err(error)
                }
                None => {
                    self.source = BatchSource::Over;
                    Ok(false)
                }
            },
            BatchSource::Over => Ok(false),
            BatchSource::Failed(error) => Err(error.clone()),
            BatchSource::Gone => Err(read_already()),
        }
    }

    fn is_over(&self) -> bool {
        match self.source {
            BatchSource::Gone => true,
            BatchSource::Over => self.given > 0 && self.held.is_empty(),
            BatchSource::Open(_) | BatchSource::Failed(_) => false,
        }
    }

    /// Refuses to give the rest as if it were the whole.
    fn check_whole(&self) -> cenote_runtime::Result<()> {
        if self.is_over() {
            return Err(read_already());
        }
        match self.given {
            0 => Ok(()),
            _ => Err(Error::invalid_input(
                "this result was read in part, batch by batch: run the query again to read it whole",
            )),
        }
    }
}

fn read_already() -> Error {
    Error::invalid_input("this result was read already: run the query again, or keep the rows with `.read()`")
}

impl PyStream {
    pub(crate) fn new(schema: SchemaRef, batches: RecordBatches) -> Self {
        let reading = Reading { source: BatchSource::Open(batches), held: VecDeque::new(), given: 0 };
        Self { schema, reading: Owned::new(Mutex::new(reading)) }
    }

    fn here(&self) -> PyResult<&Mutex<Reading>> {
        self.reading.here("result")
    }
}

#[pymethods]
impl PyStream {
    #[getter]
    fn schema(&self) -> interchange::PySchema {
        interchange::PySchema(SchemaRef::clone(&self.schema))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        export_schema(py, &self.schema)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        drop(requested_schema);
        let handle = process::runtime(py).map_err(fault::raise)?.handle().clone();
        let reading = self.here()?;
        let reading = process::wait(py, async {
            let mut reading = reading.lock().await;
            reading.check_whole()?;
            let gone = Reading { source: BatchSource::Gone, held: VecDeque::new(), given: 0 };
            Ok(std::mem::replace(&mut *reading, gone))
        })?;
        export_stream(py, Box::new(StreamPull { schema: SchemaRef::clone(&self.schema), reading, handle }))
    }

    /// Reads all rows.
    fn read(&self, py: Python<'_>) -> PyResult<PyRows> {
        let reading = self.here()?;
        let batches = process::wait(py, async {
            let mut reading = reading.lock().await;
            reading.check_whole()?;
            while reading.read().await? {}
            reading.source = BatchSource::Gone;
            Ok(std::mem::take(&mut reading.held))
        })?;
        Ok(PyRows::new(SchemaRef::clone(&self.schema), batches.into()))
    }

    /// Refuses to iterate over a stream that is exhausted.
    fn check_left(&self, py: Python<'_>) -> PyResult<()> {
        let reading = self.here()?;
        process::wait(py, async { if reading.lock().await.is_over() { Err(read_already()) } else { Ok(()) } })
    }

    /// Waits for the next batch, and returns whether there is one.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        let reading = self.here()?;
        process::wait(py, async {
            let mut reading = reading.lock().await;
            Ok(!reading.held.is_empty() || reading.read().await?)
        })
    }

    /// Returns `make(batch)` for the next batch, if it is ready. The batch counts as given once `make` returns and no
    /// signal interrupts.
    fn give<'py>(&self, py: Python<'py>, make: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let reading = self.here()?;
        // Another thread is reading: nothing is ready.
        let next = reading.try_lock().ok().and_then(|reading| Some((reading.held.front()?.clone(), reading.given)));
        let Some((batch, number)) = next else { return Ok(None) };
        let made = make.call1((PyRows::from(batch),))?;
        py.check_signals()?;
        let Ok(mut reading) = reading.try_lock() else { return Ok(None) };
        let mine = reading.given == number && reading.held.pop_front().is_some();
        reading.given += u64::from(mine);
        Ok(mine.then_some(made))
    }
}

/// A stream that the C interface pulls on the consumer's thread.
struct StreamPull {
    schema: SchemaRef,
    reading: Reading,
    handle: Handle,
}

impl Iterator for StreamPull {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some consumers hold the interpreter's lock here, for which operators in Python would wait.
        let (handle, reading) = (&self.handle, &mut self.reading);
        let mut pull = || {
            if reading.held.is_empty() {
                handle.block_on(reading.read())?;
            }
            Ok(reading.held.pop_front())
        };
        let batch = match Python::try_attach(|py| py.detach(&mut pull)) {
            Some(batch) => batch,
            None => pull(),
        };
        batch.map_err(|error: Error| ArrowError::ExternalError(Box::new(error))).transpose()
    }
}

impl RecordBatchReader for StreamPull {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}
