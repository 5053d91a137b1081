//! Operators written in Python: each has a definition, and workers that are child processes.
//!
//! A Python function runs beside this process, not in it: it shares no interpreter lock with others, and may crash or
//! exhaust its memory without harm. The row on which it does so is set aside like any other bad row.
//!
//! This part does not know lakes or tables.

pub(crate) mod child;
pub(crate) mod gpu;

use std::future::ready;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_empty_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema};
use cenote_runtime::operator::{Definition, Operator, Output, Port, PortType, RowError, Rows, Worker};
use cenote_runtime::scheduler::{BadRow, ChildProcess, ProcessOptions, Sifted, SiftedOutput, Value, sift};
use cenote_runtime::sync::Mutex;
use cenote_runtime::{ByteSize, Error, ErrorKind, Resources, Result, arrow};
use futures::executor::block_on;
use pyo3::prelude::*;

use crate::fault::{self, raise};
use crate::interchange;

/// Consecutive rows that may each cost a worker a child process. Beyond them the operator is to blame.
const LOST_ROWS_MAX: usize = 16;

/// Time that a child has to start, at least: for the interpreter and its imports.
const START_MAX_LEAST: Duration = Duration::from_secs(60);

/// The operators declared in this process, which every lake opened afterwards knows. The lock is only held under the
/// interpreter's.
static DECLARED: Mutex<Vec<Definition>> = Mutex::new(Vec::new());

/// Returns the declared operators.
pub(crate) fn registered(_attached: Python<'_>) -> Vec<Definition> {
    DECLARED.lock().clone()
}

/// The resources of one worker, and its limits.
#[derive(FromPyObject)]
pub(crate) struct ChildLimits {
    cpu: f32,
    gpu: f32,
    memory: String,
    /// Seconds that a call may take.
    timeout: f64,
}

/// Declares an operator. `launch` returns the program and arguments of a child, and the bytes that it receives first.
#[pyfunction]
pub(crate) fn register(
    name: String,
    version: u32,
    summary: String,
    inputs: Vec<(String, String)>,
    outputs: &Bound<'_, PyAny>,
    launch: Py<PyAny>,
    limits: ChildLimits,
) -> PyResult<()> {
    let outputs = interchange::schema(outputs)?;
    let fields = outputs.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    if !(limits.gpu >= 0.0 && limits.gpu <= 1.0) {
        return Err(fault::invalid(format!("gpu must be a share of one GPU, from 0 to 1, found {}", limits.gpu)));
    }
    let timeout = Duration::try_from_secs_f64(limits.timeout).map_err(|error| {
        fault::invalid(format!("timeout must be a number of seconds, found {}: {error}", limits.timeout))
    })?;
    let operator = Arc::new(DeclaredOperator {
        name: name.clone(),
        fields,
        ports: inputs.len(),
        memory_max: limits.memory.parse().map_err(raise)?,
        cpu: limits.cpu,
        gpu: limits.gpu,
        timeout,
        launch,
        launched: OnceLock::new(),
    });
    let bind = move |_: &_| Ok(Box::new(PythonOperator(Arc::clone(&operator))) as Box<dyn Operator>);
    let mut definition = Definition::new(keep(name), version, keep(summary), bind);
    for (port, kind) in inputs {
        let port_type = match kind.as_str() {
            "media" | "bytes" => PortType::Bytes,
            "string" => PortType::Text,
            "number" => PortType::Number,
            kind if kind.starts_with("vector") => PortType::Vector,
            other => {
                return Err(fault::invalid(format!(
                    "input `{port}` must be media, bytes, text, a number or a vector, found `{other}`"
                )));
            }
        };
        definition = definition.input(Port::new(keep(port), port_type));
    }
    let mut declared = DECLARED.lock();
    declared.retain(|other| other.name != definition.name);
    declared.push(definition);
    Ok(())
}

/// Keeps `text` for the life of the process: an operator is declared once and never forgotten.
fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

struct DeclaredOperator {
    name: String,
    fields: Vec<Field>,
    ports: usize,
    cpu: f32,
    gpu: f32,
    memory_max: ByteSize,
    timeout: Duration,
    launch: Py<PyAny>,
    /// Set by the first worker, because a function may use what is defined after it.
    launched: OnceLock<ChildCommand>,
}

#[derive(FromPyObject)]
struct ChildCommand {
    program: PathBuf,
    arguments: Vec<String>,
    first: Vec<u8>,
}

struct PythonOperator(Arc<DeclaredOperator>);

impl Operator for PythonOperator {
    fn outputs(&self) -> &[Field] {
        &self.0.fields
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        let shared = &self.0;
        let launched = match shared.launched.get() {
            Some(launched) => launched,
            None => {
                let launched = Python::attach(|py| shared.launch.call0(py)?.extract(py)).map_err(|error: PyErr| {
                    Error::invalid_input(format!("operator `{}` cannot go to a child process: {error}", shared.name))
                        .with_source(error)
                })?;
                shared.launched.get_or_init(|| launched)
            }
        };
        let mut options = ProcessOptions::new(&launched.program);
        options.arguments = launched.arguments.iter().map(Into::into).collect();
        options.memory_max = shared.memory_max;
        options.call_max = shared.timeout;
        options.start_max = shared.timeout.max(START_MAX_LEAST);
        options.first = Some(Value::from(launched.first.as_slice()));
        let lease = if shared.gpu > 0.0 { gpu::lease(shared.gpu) } else { None };
        // Without a share, no device is visible.
        let device = lease.as_ref().map_or("", |lease| &lease.device);
        options.environment.push((gpu::VARIABLE.into(), device.into()));
        let child = ChildProcess::new(&shared.name, options);
        Ok(Box::new(PythonWorker { shared: Arc::clone(shared), child: Mutex::new(child), lost: 0, _lease: lease }))
    }

    fn resources(&self) -> Resources {
        let (gpu, thousandths) = gpu::asked(self.0.gpu);
        Resources::cpu(self.0.cpu).with_memory_bytes(self.0.memory_max.0).with_named(gpu, thousandths)
    }
}

struct PythonWorker {
    shared: Arc<DeclaredOperator>,
    child: Mutex<ChildProcess>,
    /// Consecutive rows that were lost.
    lost: usize,
    _lease: Option<gpu::GpuLease>,
}

impl Worker for PythonWorker {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        if rows.is_empty() {
            return Ok(self
                .shared
                .fields
                .iter()
                .map(|field| new_empty_array(field.data_type()))
                .collect::<Vec<_>>()
                .into());
        }
        let check = || rows.check();
        // No row is to blame for a child that does not start.
        self.child.get_mut().start(&check)?;
        let columns: Vec<ArrayRef> = (0..self.shared.ports).map(|port| Arc::clone(rows.column(port))).collect();
        let fields = columns.iter().map(|column| Field::new("input", column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let input = RecordBatch::try_new(schema, columns).map_err(internal)?;

        // A child's answer is final, even an error; rows are only retried in parts when a child was lost on them.
        let refused = Mutex::new(None);
        let call = |rows| {
            let answer = self.child.lock().call(&Value::Batch(rows), &check).and_then(|value| value.batch().cloned());
            ready(answer.map_err(|error| match error.kind() {
                ErrorKind::Unavailable | ErrorKind::ResourceExhausted | ErrorKind::Corrupt => error,
                _ => {
                    *refused.lock() = Some(error);
                    Error::cancelled("the operator refused its rows")
                }
            }))
        };
        let sifted = block_on(sift(&input, LOST_ROWS_MAX, call));
        if let Some(error) = refused.into_inner() {
            return Err(error);
        }
        // Not retryable: more rows than may be bad were tried one by one.
        let sifted = sifted.map_err(|error| {
            Error::internal(format!("operator `{}`: {}", self.shared.name, error.message())).with_source(error)
        })?;
        self.lost = if sifted.outputs.is_empty() { self.lost + sifted.bad.len() } else { 0 };
        if self.lost > LOST_ROWS_MAX
            && let Some(BadRow { error, .. }) = sifted.bad.last()
        {
            let what = format!("after {LOST_ROWS_MAX} bad rows, which is the limit: {error}");
            return Err(Error::internal(format!("operator `{}`: {what}", self.shared.name)));
        }
        join(&self.shared.fields, sifted)
    }
}

/// Joins the answers for the parts of a batch in order. The last column of each tells why a row has no values.
fn join(fields: &[Field], sifted: Sifted) -> Result<Output> {
    let (mut pieces, mut errors) = (Vec::new(), Vec::new());
    for SiftedOutput { rows, output } in sifted.outputs {
        let Some((reasons, values)) = output.columns().split_last() else { continue };
        for (row, reason) in reasons.as_string::<i32>().iter().enumerate() {
            errors.extend(reason.map(|reason| RowError { row: rows.start + row, reason: reason.to_owned() }));
        }
        pieces.push((rows.start, values.to_vec()));
    }
    for BadRow { row, error } in sifted.bad {
        errors.push(RowError { row, reason: error.to_string() });
        pieces.push((row, fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect()));
    }
    pieces.sort_by_key(|(row, _)| *row);
    errors.sort_by_key(|error| error.row);
    let column = |number: usize| {
        let parts: Vec<&dyn Array> = pieces.iter().map(|(_, values)| values[number].as_ref()).collect();
        concat(&parts).map_err(internal)
    };
    let columns = (0..fields.len()).map(column).collect::<Result<Vec<_>>>()?;
    Ok(Output::from(columns).with_errors(errors))
}

fn internal(source: arrow::error::ArrowError) -> Error {
    Error::internal("rows between a process and its child").with_source(source)
}
