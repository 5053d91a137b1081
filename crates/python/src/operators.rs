//! Operators written in Python: a definition each, whose workers call back.

use std::sync::Arc;

use arrow::datatypes::Field;
use cenote_runtime::operator::{Definition, Operator, Output, Port, PortType, RowError, Rows, Worker};
use cenote_runtime::{Error, Result, arrow};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::interchange;
use crate::rows::Column;
use crate::{fault, values};

/// What was declared in this process; every lake that is opened afterwards knows it. Held only under the interpreter's lock.
static DECLARED: Mutex<Vec<Definition>> = Mutex::new(Vec::new());

/// All that was declared.
pub(crate) fn registered(_attached: Python<'_>) -> Vec<Definition> {
    DECLARED.lock().clone()
}

/// Declares an operator. `make` gives what one thread calls: `call(columns)`, which answers (values of each output, errors of rows).
#[pyfunction]
#[pyo3(signature = (name, version, summary, inputs, outputs, make, cpu))]
pub(crate) fn register(
    name: String,
    version: u32,
    summary: String,
    inputs: Vec<(String, String)>,
    outputs: &Bound<'_, PyAny>,
    make: Py<PyAny>,
    cpu: f32,
) -> PyResult<()> {
    let outputs = interchange::schema(outputs)?;
    let make = Arc::new(make);
    let bind = {
        let (name, ports) = (name.clone(), inputs.len());
        move |_: &_| {
            let fields = outputs.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
            let operator = PythonOperator { name: name.clone(), fields, make: Arc::clone(&make), ports, cpu };
            Ok(Box::new(operator) as Box<dyn Operator>)
        }
    };
    let mut definition = Definition::new(keep(name), version, keep(summary), bind);
    for (port, kind) in inputs {
        let port_type = match kind.as_str() {
            "media" | "bytes" => PortType::Bytes,
            "string" => PortType::Text,
            "number" => PortType::Number,
            _ if kind.starts_with("vector") => PortType::Vector,
            _ => {
                let what = format!(
                    "input `{port}` has type `{kind}`: an operator takes media, bytes, texts, vectors or numbers"
                );
                return Err(fault::invalid(what));
            }
        };
        definition = definition.input(Port::new(keep(port), port_type));
    }
    let mut declared = DECLARED.lock();
    declared.retain(|other| other.name != definition.name);
    declared.push(definition);
    Ok(())
}

/// `text` for as long as the process lives: an operator is declared once, and never forgotten.
fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

struct PythonOperator {
    name: String,
    fields: Vec<Field>,
    make: Arc<Py<PyAny>>,
    ports: usize,
    cpu: f32,
}

impl Operator for PythonOperator {
    fn outputs(&self) -> &[Field] {
        &self.fields
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        let call = Python::attach(|py| self.make.call0(py)).map_err(|error| failed(&self.name, error))?;
        Ok(Box::new(PythonWorker { name: self.name.clone(), fields: self.fields.clone(), ports: self.ports, call }))
    }

    fn resources(&self) -> cenote_runtime::Resources {
        cenote_runtime::Resources::cpu(self.cpu)
    }
}

struct PythonWorker {
    name: String,
    fields: Vec<Field>,
    ports: usize,
    call: Py<PyAny>,
}

impl Worker for PythonWorker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        Python::attach(|py| self.call(py, rows)).map_err(|error| failed(&self.name, error))
    }
}

impl PythonWorker {
    fn call(&self, py: Python<'_>, rows: &Rows<'_>) -> PyResult<Output> {
        let column = |port| {
            let array = Arc::clone(rows.column(port));
            let field = Arc::new(Field::new("input", array.data_type().clone(), true));
            Py::new(py, Column { array, field })
        };
        let columns = (0..self.ports).map(column).collect::<PyResult<Vec<_>>>()?;
        let answer = self.call.call1(py, (columns,))?;
        let (values, errors): (Vec<Bound<'_, PyAny>>, Vec<(usize, String)>) = answer.extract(py)?;
        let mut arrays = Vec::new();
        for (field, values) in self.fields.iter().zip(&values) {
            arrays.push(match values.hasattr("__arrow_c_array__")? {
                true => interchange::array(values)?,
                false => values::from_python(field, values)?,
            });
        }
        let errors = errors.into_iter().map(|(row, reason)| RowError { row, reason }).collect();
        Ok(Output::from(arrays).with_errors(errors))
    }
}

fn failed(name: &str, error: PyErr) -> Error {
    let kind = Python::attach(|py| error.is_instance_of::<pyo3::exceptions::PyMemoryError>(py));
    let message = format!("operator `{name}`: {error}");
    let error_of = if kind { Error::resource_exhausted(message) } else { Error::invalid_input(message) };
    error_of.with_source(error)
}
