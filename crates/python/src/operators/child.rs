//! The child process of an operator in Python: rows come in, the function's answers go out.
//!
//! The parent's side is `mod.rs`, Python's part is `cenote._child`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, new_empty_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use cenote_runtime::scheduler::{Value, serve_calls};
use cenote_runtime::{Error, arrow};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::fault::raise;
use crate::rows::PyColumn;
use crate::values::from_python::{column, single};
use crate::{fault, interchange};

/// The function's answer for consecutive rows: their number, the values of each output, and (row, reason) of each row
/// that failed.
type CallAnswer<'py> = (usize, Vec<Bound<'py, PyAny>>, Vec<(usize, String)>);

/// The operator, which arrives with the first call.
struct ReadyOperator {
    outputs: SchemaRef,
    call: Py<PyAny>,
}

/// Serves the parent until it closes the connection. `set_up` turns the first bytes into the schema of the outputs and
/// the function that is called with columns.
#[pyfunction]
pub(crate) fn serve(py: Python<'_>, set_up: Py<PyAny>) -> PyResult<()> {
    let mut ready: Option<ReadyOperator> = None;
    let work = |input: &Value| {
        Python::attach(|py| match (input, &ready) {
            (Value::Bytes(bytes), _) => {
                let (outputs, call): (Bound<'_, PyAny>, Py<PyAny>) =
                    set_up.call1(py, (PyBytes::new(py, bytes),))?.extract(py)?;
                ready = Some(ReadyOperator { outputs: interchange::schema(&outputs)?, call });
                Ok(Value::from(Vec::new()))
            }
            (Value::Batch(rows), Some(ready)) => ready.answer(py, rows).map(Value::Batch),
            (Value::Batch(_), None) => Err(raise(Error::internal("rows came before the operator"))),
        })
        .map_err(failed)
    };
    py.detach(|| serve_calls(work)).map_err(raise)
}

impl ReadyOperator {
    /// Returns a column for each output, and a last column with the reason why a row has no values.
    fn answer(&self, py: Python<'_>, rows: &RecordBatch) -> PyResult<RecordBatch> {
        let schema = rows.schema();
        let columns = rows.columns().iter().zip(schema.fields());
        let columns =
            columns.map(|(array, field)| Py::new(py, PyColumn { array: array.clone(), field: field.clone() }));
        let columns = columns.collect::<PyResult<Vec<_>>>()?;
        let fields = self.outputs.fields();
        let mut pieces: Vec<Vec<ArrayRef>> =
            fields.iter().map(|field| vec![new_empty_array(field.data_type())]).collect();
        let (mut done, mut reasons) = (0, vec![None; rows.num_rows()]);
        for piece in self.call.call1(py, (columns,))?.bind(py).try_iter()? {
            let (rows, values, failures): CallAnswer<'_> = piece?.extract()?;
            for (row, reason) in failures {
                reasons[done + row] = Some(reason);
            }
            for ((field, values), pieces) in fields.iter().zip(&values).zip(&mut pieces) {
                pieces.extend(arrays(field, values, &mut reasons[done..done + rows])?);
            }
            done += rows;
        }
        let mut columns = Vec::with_capacity(pieces.len() + 1);
        for (pieces, field) in pieces.iter().zip(fields) {
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            columns.push(concat(&pieces).map_err(|error| {
                fault::invalid(format!("output `{}` is declared as {}: {error}", field.name(), field.data_type()))
            })?);
        }
        columns.push(Arc::new(StringArray::from(reasons)));
        let names = fields.iter().map(|field| field.name().clone()).chain(["reason".to_owned()]);
        let fields = names.zip(&columns).map(|(name, column)| Field::new(name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns).map_err(fault::arrow)
    }
}

/// Returns the values of one output, given as an Arrow array of its type or as any iterable. Rows with a value that the
/// output cannot hold get null, and the reason in `reasons`.
fn arrays(field: &Field, values: &Bound<'_, PyAny>, reasons: &mut [Option<String>]) -> PyResult<Vec<ArrayRef>> {
    if !values.hasattr("__arrow_c_array__")? {
        let items = values.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        if let Ok(array) = column(field, &items) {
            return Ok(vec![array]);
        }
        let value = |(item, reason): (&Bound<'_, PyAny>, &mut Option<String>)| {
            single(field, item).unwrap_or_else(|error| {
                reason.get_or_insert_with(|| error.value(item.py()).to_string());
                new_null_array(field.data_type(), 1)
            })
        };
        return Ok(items.iter().zip(reasons).map(value).collect());
    }
    let array = interchange::array(values)?;
    match array.data_type() {
        found if found == field.data_type() => Ok(vec![array]),
        // All rows failed, or all values are null.
        DataType::Null => Ok(vec![new_null_array(field.data_type(), array.len())]),
        found => {
            let (name, declared) = (field.name(), field.data_type());
            Err(fault::invalid(format!("it returned {found} for output `{name}`, which is declared as {declared}")))
        }
    }
}

/// Turns an exception into the error that the parent receives.
fn failed(error: PyErr) -> Error {
    let out_of_memory = Python::attach(|py| error.is_instance_of::<pyo3::exceptions::PyMemoryError>(py));
    let message = Python::attach(|py| error.value(py).to_string());
    if out_of_memory { Error::resource_exhausted(message) } else { Error::invalid_input(message) }
}
