//! The training loader: its options as Python gives them, and its batches as Python's tensors and columns.
//!
//! This part does not know PyTorch or other consumers of tensors.

mod options;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::Array;
use arrow::datatypes::Field;
use cenote_runtime::loader::{Batch, ColumnTensor, Loader, LoaderState, Next, PackedColumn, SampleSource, merge};
use cenote_runtime::{Error, Version, arrow};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::fault::raise;
use crate::process::{Owned, SIGNAL_EVERY, wait};
use crate::rows::{PyColumn, PyRows};
use crate::table::{self, PyTable};
use crate::tensor::PyTensor;

/// A source: its table, version (see `table::snapshot`), filter and weight.
type SourceArguments<'py> = (Bound<'py, PyTable>, Option<String>, Option<String>, Option<f64>);

/// A loader over tables of this process.
#[pyclass(frozen, module = "cenote._native", name = "Loader")]
pub(crate) struct PyLoader(Owned<Arc<Loader>>);

fn parse_state(text: &str) -> PyResult<LoaderState> {
    serde_json::from_str(text).map_err(|source| {
        let message = format!("this holds no state of a loader: {source}");
        raise(Error::invalid_input(message).with_source(source))
    })
}

fn write_state(state: &LoaderState) -> PyResult<String> {
    serde_json::to_string(state).map_err(|source| raise(Error::internal("write the state").with_source(source)))
}

/// Returns the state of a rank from the states of its workers, all as JSON.
#[pyfunction]
pub(crate) fn merge_states(states: Vec<String>) -> PyResult<String> {
    let states = states.iter().map(|state| parse_state(state)).collect::<PyResult<Vec<_>>>()?;
    write_state(&merge(&states).map_err(raise)?)
}

#[pymethods]
impl PyLoader {
    /// Opens a loader with `options`, a `cenote.loader._Options`. `versions`, one for each source, replace the newest
    /// ones.
    #[new]
    fn new(
        py: Python<'_>,
        sources: Vec<SourceArguments<'_>>,
        options: &Bound<'_, PyAny>,
        versions: Option<Vec<u64>>,
    ) -> PyResult<Self> {
        let options = options::read(options)?;
        let mut opened = Vec::with_capacity(sources.len());
        for (table, version, filter, weight) in &sources {
            let table = table.get().here()?;
            let version = match version {
                None => None,
                Some(_) => Some(wait(py, table::snapshot(table, version.as_deref()))?.version()),
            };
            opened.push(SampleSource { version, filter: filter.clone(), weight: *weight, ..table.source() });
        }
        let versions = to_versions(versions);
        let loader = wait(py, Loader::open_at(opened, options, versions.as_deref()))?;
        Ok(Self(Owned::new(Arc::new(loader))))
    }

    /// Begins the rest of the epoch, or the next epoch, and returns the number under which its batches are asked for.
    /// `versions` are those of `new`.
    fn begin(&self, py: Python<'_>, versions: Option<Vec<u64>>) -> PyResult<u64> {
        let versions = to_versions(versions);
        wait(py, self.here()?.begin(versions.as_deref()))
    }

    /// Returns whether `begin` reads the newest versions.
    #[getter]
    fn reads_anew(&self) -> PyResult<bool> {
        Ok(self.here()?.reads_anew())
    }

    /// Waits for the next batch, and returns whether there is one.
    fn ready(&self, py: Python<'_>, iteration: u64) -> PyResult<bool> {
        let loader = self.here()?;
        loop {
            match py.detach(|| loader.next_within(iteration, SIGNAL_EVERY)).map_err(raise)? {
                Next::Batch(_) => return Ok(true),
                Next::End => return Ok(false),
                Next::NotYet => py.check_signals()?,
            }
        }
    }

    /// Returns what `convert` makes of the next batch, if it is ready. The batch counts as given once it is converted
    /// without an interruption.
    fn give<'py>(
        &self,
        py: Python<'py>,
        iteration: u64,
        convert: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let loader = self.here()?;
        let next = py.detach(|| loader.next_within(iteration, Duration::ZERO)).map_err(raise)?;
        let Next::Batch(offer) = next else { return Ok(None) };
        let converted = convert.call1((PyBatch::new(py, offer.batch.clone())?,))?;
        py.check_signals()?;
        Ok(loader.accept(&offer).then_some(converted))
    }

    fn take(&self, py: Python<'_>, rows: Vec<u64>) -> PyResult<PyBatch> {
        PyBatch::new(py, wait(py, self.here()?.take(&rows))?)
    }

    fn state(&self) -> PyResult<String> {
        write_state(&self.here()?.state())
    }

    fn restore(&self, py: Python<'_>, state: &str) -> PyResult<()> {
        wait(py, self.here()?.restore(&parse_state(state)?))
    }

    fn set_epoch(&self, epoch: u64) -> PyResult<()> {
        self.here()?.set_epoch(epoch);
        Ok(())
    }

    #[getter]
    fn epoch(&self) -> PyResult<u64> {
        Ok(self.here()?.epoch())
    }

    #[getter]
    fn epoch_rows(&self) -> PyResult<u64> {
        Ok(self.here()?.epoch_rows())
    }

    #[getter]
    fn epoch_batches(&self) -> PyResult<u64> {
        Ok(self.here()?.epoch_batches())
    }

    #[getter]
    fn batches_left(&self) -> PyResult<u64> {
        Ok(self.here()?.batches_left())
    }

    #[getter]
    fn rows(&self) -> PyResult<u64> {
        Ok(self.here()?.rows())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.here()?.stats();
        let cache = self.here()?.cache().unwrap_or_default();
        let answer = PyDict::new(py);
        answer.set_item("batches", stats.batches)?;
        answer.set_item("rows", stats.rows)?;
        answer.set_item("errors", stats.errors)?;
        answer.set_item("bytes", stats.bytes)?;
        answer.set_item("wait_seconds", stats.wait.as_secs_f64())?;
        answer.set_item("read_seconds", stats.read.as_secs_f64())?;
        answer.set_item("decode_seconds", stats.decode.as_secs_f64())?;
        answer.set_item("ready_bytes", stats.ready_bytes)?;
        answer.set_item("cache_hit_bytes", cache.hit_bytes)?;
        answer.set_item("cache_missed_bytes", cache.missed_bytes)?;
        Ok(answer)
    }
}

impl PyLoader {
    fn here(&self) -> PyResult<&Arc<Loader>> {
        self.0.here("loader")
    }
}

fn to_versions(versions: Option<Vec<u64>>) -> Option<Vec<Version>> {
    versions.map(|versions| versions.into_iter().map(Version).collect())
}

/// The rows of one step.
#[pyclass(frozen, module = "cenote._native", name = "Batch")]
pub(crate) struct PyBatch {
    #[pyo3(get)]
    epoch: u64,
    #[pyo3(get)]
    step: u64,
    #[pyo3(get)]
    repeated: usize,
    #[pyo3(get)]
    errors: Vec<(usize, String)>,
    rows: PyRows,
    packed: Vec<PackedColumn>,
    tensors: Vec<(String, Py<PyTensor>)>,
    len: usize,
}

impl PyBatch {
    fn new(py: Python<'_>, batch: Batch) -> PyResult<Self> {
        let len = batch.len();
        let tensor = |tensor: ColumnTensor| Ok((tensor.name.clone(), Py::new(py, PyTensor::new(tensor))?));
        let tensors = batch.tensors.into_iter().map(tensor).collect::<PyResult<Vec<_>>>()?;
        Ok(Self {
            epoch: batch.epoch,
            step: batch.step,
            repeated: batch.repeated,
            errors: batch.failures.into_iter().map(|failure| (failure.row, failure.reason)).collect(),
            rows: PyRows::from(batch.rows),
            packed: batch.packed,
            tensors,
            len,
        })
    }
}

#[pymethods]
impl PyBatch {
    fn __len__(&self) -> usize {
        self.len
    }

    /// Returns the columns: the transformed ones, then the packed ones, then the others.
    fn columns(&self) -> Vec<String> {
        let rest = self.rows.schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let packed = self.packed.iter().map(|column| column.name.clone());
        self.tensors.iter().map(|(name, _)| name.clone()).chain(packed).chain(rest).collect()
    }

    /// Returns a column as a tensor; `None` when its type, which alone decides, is not made of numbers.
    fn tensor(&self, py: Python<'_>, name: &str) -> PyResult<Option<Py<PyTensor>>> {
        if let Some((_, tensor)) = self.tensors.iter().find(|(column, _)| column == name) {
            return Ok(Some(tensor.clone_ref(py)));
        }
        let column = self.column(name)?;
        PyTensor::of_column(&column.array, column.field.is_nullable()).map(|tensor| Py::new(py, tensor)).transpose()
    }

    /// Returns a column that was not transformed, as Arrow.
    fn column(&self, name: &str) -> PyResult<PyColumn> {
        match self.packed.iter().find(|column| column.name == name) {
            Some(PackedColumn { blocks, .. }) => {
                let field = Field::new(name, blocks.data_type().clone(), false);
                Ok(PyColumn { array: Arc::clone(blocks), field: Arc::new(field) })
            }
            None => self.rows.find(name),
        }
    }
}
