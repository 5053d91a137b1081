//! Lakes.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use cenote_runtime::{ByteSize, Cancel, Lake, LakeOptions, Recipe, RunOptions, Silent, TableSpec, arrow};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::fault::raise;
use crate::interchange;
use crate::operators::{self, gpu};
use crate::process::{Owned, wait};
use crate::rows::{PyRows, PyStream};
use crate::table::PyTable;
use crate::values::parameter::to_parameter;

/// A flag that cancels a run when the wait for it ends, however it ends: the run stops at its last commit.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Returns `schema` with the columns of the key made not nullable.
fn key_not_null(schema: &SchemaRef, key: &[String]) -> SchemaRef {
    let field = |field: &Arc<arrow::datatypes::Field>| match key.contains(field.name()) {
        true => Arc::new(field.as_ref().clone().with_nullable(false)),
        false => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Creates an empty lake.
#[pyfunction]
pub(crate) fn init(py: Python<'_>, location: PathBuf) -> PyResult<()> {
    wait(py, Lake::init(location))
}

/// Opens a lake.
#[pyfunction]
#[pyo3(signature = (location, memory=None, cpus=None, seed=0, cache=None, device="cpu"))]
pub(crate) fn open(
    py: Python<'_>,
    location: PathBuf,
    memory: Option<&str>,
    cpus: Option<f32>,
    seed: u64,
    cache: Option<&str>,
    device: &str,
) -> PyResult<PyLake> {
    let size = |text: Option<&str>| text.map(str::parse::<ByteSize>).transpose().map_err(raise);
    let options = LakeOptions::default()
        .memory_max(size(memory)?)
        .cache_max(size(cache)?)
        .cpus(cpus)
        .device(device.parse().map_err(raise)?)
        .seed(seed)
        .named(gpu::offered())
        .operators(operators::registered(py));
    let lake = wait(py, Lake::open(location, options))?;
    Ok(PyLake(Owned::new(lake)))
}

/// An open lake.
#[pyclass(frozen, module = "cenote._native", name = "Lake")]
pub(crate) struct PyLake(Owned<Lake>);

impl PyLake {
    fn here(&self) -> PyResult<&Lake> {
        self.0.here("lake")
    }
}

#[pymethods]
impl PyLake {
    fn create_table(
        &self,
        py: Python<'_>,
        name: &str,
        schema: &Bound<'_, PyAny>,
        primary_key: Vec<String>,
        properties: std::collections::BTreeMap<String, String>,
    ) -> PyResult<PyTable> {
        let schema = interchange::schema(schema)?;
        let spec = TableSpec { properties, ..TableSpec::new(key_not_null(&schema, &primary_key), primary_key) };
        let lake = self.here()?;
        Ok(PyTable::new(wait(py, lake.create_table(name, spec))?, lake.clone()))
    }

    fn table(&self, py: Python<'_>, name: &str) -> PyResult<PyTable> {
        let lake = self.here()?;
        Ok(PyTable::new(wait(py, lake.table(name))?, lake.clone()))
    }

    fn tables(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        wait(py, self.here()?.tables())
    }

    fn drop_table(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        wait(py, self.here()?.drop_table(name))
    }

    fn sql(&self, py: Python<'_>, text: &str, values: Vec<Bound<'_, PyAny>>) -> PyResult<PyStream> {
        let parameters = values.iter().enumerate().map(|(at, value)| to_parameter(at + 1, value));
        let values = parameters.collect::<PyResult<Vec<_>>>()?;
        let result = wait(py, self.here()?.sql_with(text, &values))?;
        Ok(PyStream::new(result.schema, result.stream))
    }

    fn ingest<'py>(&self, py: Python<'py>, table: &str, paths: Vec<PathBuf>) -> PyResult<Bound<'py, PyDict>> {
        let report = wait(py, self.here()?.ingest(table, &paths, &Silent))?;
        let answer = PyDict::new(py);
        answer.set_item("files", report.files)?;
        answer.set_item("inserted", report.inserted)?;
        answer.set_item("updated", report.updated)?;
        answer.set_item("unchanged", report.unchanged)?;
        let skipped = report.skipped.iter().map(|file| (file.path.display().to_string(), file.reason.clone()));
        answer.set_item("skipped", skipped.collect::<Vec<_>>())?;
        Ok(answer)
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        recipe: &str,
        origin: &str,
        dry_run: Option<usize>,
        retry_errors: bool,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let recipe = Recipe::from_yaml(recipe, origin).map_err(raise)?;
        let options = RunOptions { dry_run_rows: dry_run, retry_errors, ..RunOptions::default() };
        let _stop = CancelOnDrop(options.cancel.clone());
        let report = wait(py, self.here()?.run(&recipe, &options))?;
        let step = |step: &cenote_runtime::StepReport| {
            let answer = PyDict::new(py);
            answer.set_item("table", &step.table)?;
            answer.set_item("operator", &step.operator)?;
            answer.set_item("target", &step.target)?;
            answer.set_item("rows_total", step.rows_total)?;
            answer.set_item("rows_processed", step.rows_processed)?;
            answer.set_item("rows_failed", step.rows_failed)?;
            answer.set_item("rows_cleared", step.rows_cleared)?;
            answer.set_item("child_rows_written", step.child_rows_written)?;
            answer.set_item("child_rows_removed", step.child_rows_removed)?;
            answer.set_item("seconds", step.seconds)?;
            Ok(answer)
        };
        report.steps.iter().map(step).collect()
    }

    fn errors(&self, py: Python<'_>, table: &str) -> PyResult<PyRows> {
        wait(py, self.here()?.errors(table)).map(PyRows::from)
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let status = wait(py, self.here()?.status())?;
        let table = |table: &cenote_runtime::TableStatus| {
            let answer = PyDict::new(py);
            answer.set_item("name", &table.name)?;
            answer.set_item("rows", table.rows)?;
            answer.set_item("version", table.version.0)?;
            answer.set_item("oldest", table.oldest.0)?;
            answer.set_item("bytes", table.bytes)?;
            answer.set_item("errors", table.errors)?;
            let indexes = table.indexes.iter().map(|index| crate::table::index(py, index));
            answer.set_item("indexes", indexes.collect::<PyResult<Vec<_>>>()?)?;
            Ok(answer)
        };
        status.tables.iter().map(table).collect()
    }

    fn embed_text(&self, py: Python<'_>, text: &str) -> PyResult<Vec<f32>> {
        wait(py, self.here()?.embed_text(text))
    }

    fn embed_image(&self, py: Python<'_>, picture: &[u8], dimensions: usize) -> PyResult<Vec<f32>> {
        wait(py, self.here()?.embed_image(picture, dimensions))
    }

    fn operators(&self) -> PyResult<Vec<(String, String)>> {
        let definitions = self.here()?.registry().definitions();
        Ok(definitions.map(|definition| (definition.name.to_owned(), definition.summary.to_owned())).collect())
    }

    fn models(&self) -> PyResult<Vec<(String, String, usize)>> {
        let models = self.here()?.models().status().into_iter();
        Ok(models.filter_map(|model| Some((model.name, model.provider?.to_owned(), model.sessions))).collect())
    }

    fn release(&self, py: Python<'_>) -> PyResult<()> {
        // A child of a fork has nothing to release.
        match self.0.get() {
            Some(lake) => wait(py, lake.release()),
            None => Ok(()),
        }
    }
}
