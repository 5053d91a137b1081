//! The training loader.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::Field;
use cenote_runtime::loader::{
    Batch as LoaderBatch, Loader as RustLoader, LoaderOptions, LoaderState, Next, OnError, Source, Tail, Transform,
    merge,
};
use cenote_runtime::{ByteSize, Error, Version, arrow, loader};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;

use crate::fault::{self, raise};
use crate::process::{Owned, SIGNAL_EVERY, wait};
use crate::rows::{Column, Rows};
use crate::table::{self, Table};
use crate::tensor::Tensor;

/// A source: table, version (see `table::snapshot`), filter, weight.
type SourceArguments<'py> = (Bound<'py, Table>, Option<String>, Option<String>, Option<f64>);

/// A loader over tables of this process.
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct Loader(Owned<Arc<RustLoader>>);

fn json<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|error| fault::invalid(format!("this is no {what}: {error}")))
}

fn to_json(state: &LoaderState) -> PyResult<String> {
    serde_json::to_string(state).map_err(|error| raise(Error::internal(format!("write the state: {error}"))))
}

/// The state of a rank from those of its workers, all as JSON.
#[pyfunction]
pub(crate) fn merge_states(states: Vec<String>) -> PyResult<String> {
    let states = states.iter().map(|state| json(state, "state of a loader")).collect::<PyResult<Vec<LoaderState>>>()?;
    to_json(&merge(&states).map_err(raise)?)
}

#[pymethods]
impl Loader {
    /// `options` is a JSON object; what it lacks has its default. `versions` stand for the newest ones, one a source.
    #[new]
    fn new(
        py: Python<'_>,
        sources: Vec<SourceArguments<'_>>,
        options: &str,
        versions: Option<Vec<u64>>,
    ) -> PyResult<Self> {
        let options = parse_options(&json::<Value>(options, "object of options")?)?;
        let mut opened = Vec::with_capacity(sources.len());
        for (table, version, filter, weight) in &sources {
            let table = table.get().here()?;
            let version = match version {
                None => None,
                Some(_) => Some(wait(py, table::snapshot(table, version.as_deref()))?.version()),
            };
            opened.push(Source { version, filter: filter.clone(), weight: *weight, ..table.source() });
        }
        let versions = numbered(versions);
        let loader = wait(py, RustLoader::open_at(opened, options, versions.as_deref()))?;
        Ok(Self(Owned::new(Arc::new(loader))))
    }

    /// Begins to read what is left of the epoch, or the next one; the number under which batches are asked for. See
    /// `versions` of `new`.
    fn begin(&self, py: Python<'_>, versions: Option<Vec<u64>>) -> PyResult<u64> {
        let versions = numbered(versions);
        wait(py, self.here()?.begin(versions.as_deref()))
    }

    /// Whether `begin` reads the newest versions.
    #[getter]
    fn reads_anew(&self) -> PyResult<bool> {
        Ok(self.here()?.reads_anew())
    }

    /// Waits for the next batch; whether there is one.
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

    /// What `make` makes of the next batch, if it is ready. It counts as given when that is made and nothing
    /// interrupts.
    fn give<'py>(
        &self,
        py: Python<'py>,
        iteration: u64,
        make: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let loader = self.here()?;
        let next = py.detach(|| loader.next_within(iteration, Duration::ZERO)).map_err(raise)?;
        let Next::Batch(offer) = next else { return Ok(None) };
        let made = make.call1((Batch::new(py, offer.batch.clone())?,))?;
        py.check_signals()?;
        Ok(loader.accept(&offer).then_some(made))
    }

    fn take(&self, py: Python<'_>, rows: Vec<u64>) -> PyResult<Batch> {
        Batch::new(py, wait(py, self.here()?.take(&rows))?)
    }

    fn state(&self) -> PyResult<String> {
        to_json(&self.here()?.state())
    }

    fn restore(&self, py: Python<'_>, state: &str) -> PyResult<()> {
        let state: LoaderState = json(state, "state of a loader")?;
        wait(py, self.here()?.restore(&state))
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

impl Loader {
    fn here(&self) -> PyResult<&Arc<RustLoader>> {
        self.0.here("loader")
    }
}

fn numbered(versions: Option<Vec<u64>>) -> Option<Vec<Version>> {
    versions.map(|versions| versions.into_iter().map(Version).collect())
}

fn parse_options(given: &Value) -> PyResult<LoaderOptions> {
    let number = |name: &str| match &given[name] {
        Value::Null => Ok(None),
        value => value
            .as_u64()
            .map(Some)
            .ok_or_else(|| fault::invalid(format!("{name} is a whole number, 0 or more, found {value}"))),
    };
    let count =
        |name: &str, default: usize| -> PyResult<usize> { Ok(number(name)?.map_or(default, |number| number as usize)) };
    let size = |name: &str| match &given[name] {
        Value::Null => Ok(None),
        Value::String(text) => text.parse::<ByteSize>().map(Some).map_err(|error| raise(error.context(name))),
        value => value
            .as_u64()
            .map(|bytes| Some(ByteSize(bytes)))
            .ok_or_else(|| fault::invalid(format!("{name} is a size such as 256 MiB, found {value}"))),
    };
    let text = |name: &str, default: &'static str| match &given[name] {
        Value::Null => Ok(default.to_owned()),
        Value::String(text) => Ok(text.clone()),
        value => Err(fault::invalid(format!("{name} is a text such as {default}, found {value}"))),
    };
    let defaults = LoaderOptions::default();
    let columns = match &given["columns"] {
        Value::Null => None,
        columns => Some(json(&columns.to_string(), "list of columns")?),
    };
    let transforms: Vec<(String, Vec<Transform>)> = match &given["transforms"] {
        Value::Null => Vec::new(),
        transforms => json(&transforms.to_string(), "list of transforms")?,
    };
    Ok(LoaderOptions {
        columns,
        batch_rows: count("batch_size", defaults.batch_rows)?,
        shuffle: number("seed")?,
        window: size("window")?,
        buckets: match &given["buckets"] {
            Value::Null => None,
            buckets => Some(json(&buckets.to_string(), "way to put lengths together")?),
        },
        rank: count("rank", 0)?,
        world_size: count("world_size", 1)?,
        worker: count("worker", 0)?,
        workers: count("workers", 1)?,
        tail: text("last", "short")?.parse::<Tail>().map_err(raise)?,
        transforms,
        epoch_rows: number("epoch_rows")?,
        on_error: match text("on_error", "raise")?.as_str() {
            "raise" => OnError::Raise,
            "zero" => OnError::Zero,
            other => return Err(fault::invalid(format!("on_error is raise or zero, found {other}"))),
        },
        prefetch_bytes_max: size("prefetch")?.unwrap_or(defaults.prefetch_bytes_max),
        threads: count("threads", 0)?,
        follow: match &given["follow"] {
            Value::Null => false,
            Value::Bool(follow) => *follow,
            value => return Err(fault::invalid(format!("follow is true or false, found {value}"))),
        },
    })
}

/// Rows for one step.
#[pyclass(frozen, module = "cenote._native")]
pub(crate) struct Batch {
    #[pyo3(get)]
    epoch: u64,
    #[pyo3(get)]
    step: u64,
    #[pyo3(get)]
    repeated: usize,
    #[pyo3(get)]
    errors: Vec<(usize, String)>,
    rows: Rows,
    blocks: Vec<(String, ArrayRef)>,
    tensors: Vec<(String, Py<Tensor>)>,
    len: usize,
}

impl Batch {
    fn new(py: Python<'_>, batch: LoaderBatch) -> PyResult<Self> {
        let len = batch.len();
        let tensor = |tensor: loader::Tensor| Ok((tensor.name.clone(), Py::new(py, Tensor::new(tensor))?));
        let tensors = batch.tensors.into_iter().map(tensor).collect::<PyResult<Vec<_>>>()?;
        Ok(Self {
            epoch: batch.epoch,
            step: batch.step,
            repeated: batch.repeated,
            errors: batch.errors,
            rows: Rows::from(batch.rows),
            blocks: batch.blocks,
            tensors,
            len,
        })
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.len
    }

    /// The columns in order: first those that were transformed.
    fn columns(&self) -> Vec<String> {
        let rest = self.rows.schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let blocks = self.blocks.iter().map(|(name, _)| name.clone());
        self.tensors.iter().map(|(name, _)| name.clone()).chain(blocks).chain(rest).collect()
    }

    /// A column as a tensor, which is told by its type alone; none when that is not made of numbers.
    fn tensor(&self, py: Python<'_>, name: &str) -> PyResult<Option<Py<Tensor>>> {
        if let Some((_, tensor)) = self.tensors.iter().find(|(column, _)| column == name) {
            return Ok(Some(tensor.clone_ref(py)));
        }
        let column = self.column(name)?;
        Tensor::of_column(&column.array, column.field.is_nullable()).map(|tensor| Py::new(py, tensor)).transpose()
    }

    /// A column that was not transformed, as Arrow.
    fn column(&self, name: &str) -> PyResult<Column> {
        match self.blocks.iter().find(|(column, _)| column == name) {
            Some((_, array)) => {
                let field = Field::new(name, array.data_type().clone(), false);
                Ok(Column { array: Arc::clone(array), field: Arc::new(field) })
            }
            None => self.rows.find(name),
        }
    }
}
