//! Rows that Python holds or reads.

use arrow::array::{Array, RecordBatch, RecordBatchIterator, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use cenote_runtime::{RecordBatches, arrow};
use futures::StreamExt;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict};
use tokio::runtime::Handle;

use crate::fault;
use crate::interchange::{ArrayCapsules, Schema, export_array, export_schema, export_stream};
use crate::pickle::{self, Reduced};
use crate::process::{self, Owned};
use crate::tensor::Tensor;
use crate::values;

/// Batches in memory. They can be read as often as one likes.
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct Rows {
    pub(crate) schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Rows {
    pub(crate) fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches }
    }

    fn batch(&self) -> PyResult<RecordBatch> {
        // One batch is handed on as it is; several become one, which copies them.
        if let [batch] = self.batches.as_slice() {
            return Ok(batch.clone());
        }
        arrow::compute::concat_batches(&self.schema, &self.batches).map_err(fault::arrow)
    }
}

impl Rows {
    pub(crate) fn find(&self, name: &str) -> PyResult<Column> {
        let at = self.schema.index_of(name).map_err(|_| {
            let known = self.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            fault::raise(cenote_runtime::Error::not_found(format!("no column `{name}`; there are {known}")))
        })?;
        Ok(Column { array: self.batch()?.column(at).clone(), field: self.schema.fields()[at].clone() })
    }
}

impl From<RecordBatch> for Rows {
    fn from(batch: RecordBatch) -> Self {
        Self::new(batch.schema(), vec![batch])
    }
}

#[pymethods]
impl Rows {
    fn __len__(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[getter]
    fn schema(&self) -> Schema {
        Schema(SchemaRef::clone(&self.schema))
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A producer may ignore what was requested, and consumers cast.
        drop(requested_schema);
        let batches: Vec<Result<RecordBatch, ArrowError>> = self.batches.iter().cloned().map(Ok).collect();
        export_stream(py, Box::new(RecordBatchIterator::new(batches, SchemaRef::clone(&self.schema))))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        export_schema(py, &self.schema)
    }

    /// The first `rows` rows.
    fn head(&self, rows: usize) -> Rows {
        let mut left = rows;
        let cut = |batch: &RecordBatch| {
            let batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
            batch
        };
        Self { schema: SchemaRef::clone(&self.schema), batches: self.batches.iter().map(cut).collect() }
    }

    /// The rows as Python values, a dict each.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let mut rows = Vec::new();
        for batch in &self.batches {
            for row in 0..batch.num_rows() {
                let values = PyDict::new(py);
                for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                    values.set_item(field.name(), values::to_python(py, column, row)?)?;
                }
                rows.push(values);
            }
        }
        Ok(rows)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Reduced<'py, (Bound<'py, PyBytes>,)>> {
        pickle::reduce_rows(py, &self.schema, &self.batches)
    }

    /// Column `name` as one array.
    fn column(&self, name: &str) -> PyResult<Column> {
        self.find(name)
    }
}

/// One array, with `__arrow_c_array__`.
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct Column {
    pub(crate) array: arrow::array::ArrayRef,
    pub(crate) field: arrow::datatypes::FieldRef,
}

#[pymethods]
impl Column {
    fn __len__(&self) -> usize {
        self.array.len()
    }

    /// `rows` values from `start` on, of the same memory.
    fn slice(&self, start: usize, rows: usize) -> PyResult<Column> {
        match start + rows <= self.array.len() {
            true => Ok(Column { array: self.array.slice(start, rows), field: self.field.clone() }),
            false => Err(fault::invalid(format!("rows {start} to {} of {}", start + rows, self.array.len()))),
        }
    }

    fn __getitem__<'py>(&self, py: Python<'py>, row: usize) -> PyResult<Bound<'py, PyAny>> {
        match row < self.array.len() {
            true => values::to_python(py, &self.array, row),
            false => Err(pyo3::exceptions::PyIndexError::new_err(format!("row {row} of {}", self.array.len()))),
        }
    }

    /// The values as Python's.
    fn to_pylist<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        (0..self.array.len()).map(|row| values::to_python(py, &self.array, row)).collect()
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

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Reduced<'py, (Tensor,)>> {
        pickle::reduce_column(py, self)
    }
}

/// Batches as they come. They can be read once.
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct Stream {
    schema: SchemaRef,
    batches: Owned<Mutex<Option<RecordBatches>>>,
}

impl Stream {
    pub(crate) fn new(schema: SchemaRef, batches: RecordBatches) -> Self {
        Self { schema, batches: Owned::new(Mutex::new(Some(batches))) }
    }

    fn take(&self) -> PyResult<RecordBatches> {
        let taken = self.batches.here("result")?.lock().take();
        taken.ok_or_else(|| fault::invalid("this result was read already: ask again, or keep it with `.read()`"))
    }
}

#[pymethods]
impl Stream {
    #[getter]
    fn schema(&self) -> Schema {
        Schema(SchemaRef::clone(&self.schema))
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
        let pull = Pull { schema: SchemaRef::clone(&self.schema), batches: self.take()?, handle };
        export_stream(py, Box::new(pull))
    }

    /// All rows.
    fn read(&self, py: Python<'_>) -> PyResult<Rows> {
        let mut stream = self.take()?;
        let batches = process::wait(py, async move {
            let mut batches = Vec::new();
            while let Some(batch) = stream.next().await {
                batches.push(batch?);
            }
            Ok(batches)
        })?;
        Ok(Rows::new(SchemaRef::clone(&self.schema), batches))
    }

    /// The next batch, or none at the end.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Rows>> {
        let mut stream = match self.batches.here("result")?.lock().take() {
            Some(stream) => stream,
            None => return Ok(None),
        };
        let (batch, stream) = process::wait(py, async move {
            let batch = stream.next().await.transpose()?;
            Ok((batch, stream))
        })?;
        if batch.is_some() {
            *self.batches.here("result")?.lock() = Some(stream);
        }
        Ok(batch.map(Rows::from))
    }
}

/// A stream as the C interface pulls it: on the consumer's thread.
struct Pull {
    schema: SchemaRef,
    batches: RecordBatches,
    handle: Handle,
}

impl Iterator for Pull {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some consumers hold the interpreter's lock here, which operators in Python would wait for.
        let (handle, batches) = (&self.handle, &mut self.batches);
        let mut pull = || handle.block_on(batches.next());
        let batch = match Python::try_attach(|py| py.detach(&mut pull)) {
            Some(batch) => batch,
            None => pull(),
        }?;
        Some(batch.map_err(|error| ArrowError::ExternalError(Box::new(error))))
    }
}

impl RecordBatchReader for Pull {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}
