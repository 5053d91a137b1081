//! Operators as SQL functions, such as `embed_text('red car')`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StructArray};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use cenote_base::Error;
use cenote_operator::{BoundOperator, OperatorSpec, PortType, Registry, Rows, Shape, Worker};
use cenote_scheduler::{Actor, Cancel, Job, JobOptions, Priority, Scheduler, WorkOptions};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use super::arguments::{argument_types, coerced};
use crate::fault::external;

/// Rows of one call of an operator, at most: the images decoded from them are in memory together.
const ROWS_MAX: usize = 64;
/// Time slice after which a call gives its thread back to the scheduler, so that other work gets a turn.
const SLICE: Duration = Duration::from_millis(100);
/// Time that a worker is kept without a call.
const IDLE: Duration = Duration::from_secs(30);

/// The row-wise operators that queries can call. They run on the scheduler.
#[derive(Debug)]
pub(crate) struct OperatorFunctions(Vec<Arc<SharedOperator>>);

impl OperatorFunctions {
    /// Collects the row-wise operators of `registry`, each under its own name, to run on `scheduler`.
    pub(crate) fn new(registry: &Arc<Registry>, scheduler: &Scheduler) -> Self {
        let job = scheduler.job(JobOptions::new("sql").priority(Priority::Interactive));
        let functions = registry
            .definitions()
            .filter(|definition| definition.shape != Shape::OneToMany && !definition.inputs.is_empty())
            .map(|definition| {
                Arc::new(SharedOperator {
                    name: definition.name,
                    ports: definition.inputs.iter().map(|port| port.port_type).collect(),
                    registry: Arc::clone(registry),
                    scheduler: scheduler.clone(),
                    job: job.clone(),
                    bound: OnceLock::new(),
                    // Equal inputs give equal outputs, so a call over literals is computed once, while planning.
                    signature: Signature::user_defined(Volatility::Immutable),
                })
            });
        Self(functions.collect())
    }

    /// Returns the functions for one query; `cancel` stops their calls.
    pub(crate) fn of_query(&self, cancel: &Cancel) -> impl Iterator<Item = ScalarUDF> {
        self.0.iter().map(|shared| {
            let (shared, cancel) = (Arc::clone(shared), cancel.clone());
            ScalarUDF::new_from_impl(OperatorFunction { shared, cancel })
        })
    }
}

/// An operator as one query calls it. A row that the operator cannot process yields null.
struct OperatorFunction {
    shared: Arc<SharedOperator>,
    cancel: Cancel,
}

/// The parts of an operator that all queries share. The operator is bound when a query that names it is first planned,
/// and loads its model when such a query first runs.
struct SharedOperator {
    name: &'static str,
    ports: Vec<PortType>,
    registry: Arc<Registry>,
    scheduler: Scheduler,
    job: Job,
    bound: OnceLock<BoundWorkers>,
    signature: Signature,
}

/// A bound operator, and its workers on the scheduler.
struct BoundWorkers {
    operator: Arc<BoundOperator>,
    workers: Actor<Box<dyn Worker>>,
}

impl fmt::Debug for SharedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedOperator").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for OperatorFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorFunction").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl PartialEq for OperatorFunction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for OperatorFunction {}

impl Hash for OperatorFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shared.name.hash(state);
    }
}

impl SharedOperator {
    fn bound(&self) -> cenote_base::Result<&BoundWorkers> {
        if let Some(bound) = self.bound.get() {
            return Ok(bound);
        }
        let operator = Arc::new(self.registry.bind(&OperatorSpec::new(self.name))?);
        let options = WorkOptions::new(self.name).resources(operator.resources()).job(&self.job);
        let workers_max = self.scheduler.usage().total.cpu.ceil() as usize;
        let started = Arc::clone(&operator);
        let workers = self.scheduler.actor(options, workers_max, IDLE, move || started.worker())?;
        Ok(self.bound.get_or_init(|| BoundWorkers { operator, workers }))
    }

    /// Returns the types to which arguments of `given` types are cast.
    ///
    /// # Errors
    /// `InvalidInput` for arguments that the operator's ports do not accept.
    fn port_types(&self, given: &[DataType]) -> cenote_base::Result<Vec<DataType>> {
        let ports = &self.ports;
        let wanted = || ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let wrong = |what: String| Err(Error::invalid_input(format!("{}: {what}", self.name)));
        if given.len() != ports.len() {
            return wrong(format!("it takes {} ({}), found {}", ports.len(), wanted(), given.len()));
        }
        let mut types = Vec::with_capacity(given.len());
        for (port, given) in ports.iter().zip(given) {
            let plain = match given {
                DataType::Utf8View => DataType::Utf8,
                DataType::BinaryView => DataType::LargeBinary,
                DataType::Null => match port {
                    PortType::Text => DataType::Utf8,
                    PortType::Bytes => DataType::LargeBinary,
                    PortType::Number => DataType::Float64,
                    PortType::Vector => return wrong("a vector cannot be a bare NULL".to_owned()),
                },
                other => other.clone(),
            };
            if !port.accepts(&plain) {
                return wrong(format!("it takes {}, found {given}", wanted()));
            }
            types.push(port.arrives_as(&plain));
        }
        Ok(types)
    }
}

impl OperatorFunction {
    fn operator(&self) -> Result<&Arc<BoundOperator>> {
        self.shared.bound().map(|bound| &bound.operator).map_err(external)
    }

    fn output_type(&self) -> Result<DataType> {
        Ok(match self.operator()?.outputs() {
            [single] => single.data_type().clone(),
            several => DataType::Struct(Fields::from(several.to_vec())),
        })
    }

    /// Computes the outputs of `rows` rows on the scheduler's threads, and blocks this thread, one of the query
    /// engine's, until they are done.
    fn process(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let operator = self.operator()?;
        let pieces = block_in_place(|| Handle::current().block_on(self.pieces(columns, rows))).map_err(external)?;
        let mut outputs = Vec::with_capacity(operator.outputs().len());
        for number in 0..operator.outputs().len() {
            let pieces: Vec<_> = pieces.iter().map(|piece| piece[number].as_ref()).collect();
            outputs.push(concat(&pieces)?);
        }
        if outputs.len() == 1 {
            return Ok(outputs.remove(0));
        }
        let fields = Fields::from(operator.outputs().to_vec());
        Ok(Arc::new(StructArray::try_new(fields, outputs, None)?))
    }

    async fn pieces(&self, columns: &[ArrayRef], rows: usize) -> cenote_base::Result<Vec<Vec<ArrayRef>>> {
        let workers = &self.shared.bound()?.workers;
        let mut pieces = Vec::new();
        let mut start = 0;
        // Also called for no rows: the operator then makes empty columns of the right types.
        while start < rows || pieces.is_empty() {
            let (columns, cancel) = (columns.to_vec(), self.cancel.clone());
            let call = workers.call(move |worker, _| slice(worker.as_mut(), &columns, start..rows, &cancel));
            let (made, end) = tokio::select! {
                made = call => made?,
                () = self.cancel.cancelled() => return Err(Error::cancelled("the query was cancelled")),
            };
            pieces.extend(made);
            start = end;
        }
        Ok(pieces)
    }
}

/// Processes `rows` of `columns` from the first one on, piece by piece, until [`SLICE`] has passed. Returns the outputs
/// of each piece, and the index of the first row that is left.
fn slice(
    worker: &mut dyn Worker,
    columns: &[ArrayRef],
    rows: Range<usize>,
    cancel: &Cancel,
) -> cenote_base::Result<(Vec<Vec<ArrayRef>>, usize)> {
    let (began, check) = (Instant::now(), || cancel.check());
    let (mut pieces, mut start) = (Vec::new(), rows.start);
    while pieces.is_empty() || (start < rows.end && began.elapsed() < SLICE) {
        let length = ROWS_MAX.min(rows.end - start);
        let inputs: Vec<ArrayRef> = columns.iter().map(|column| column.slice(start, length)).collect();
        pieces.push(worker.process(&Rows::new(&inputs).checked_by(&check))?.columns);
        start += length;
    }
    Ok((pieces, start))
}

impl ScalarUDFImpl for OperatorFunction {
    fn name(&self) -> &str {
        self.shared.name
    }

    fn signature(&self) -> &Signature {
        &self.shared.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        self.output_type()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.shared.port_types(&argument_types(&args)).map_err(external)?;
        Ok(Arc::new(Field::new(self.shared.name, self.output_type()?, true)))
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(coerced(arg_types, self.shared.port_types(arg_types)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns = args.args.into_iter().map(|arg| arg.into_array(rows)).collect::<Result<Vec<_>>>()?;
        let output = self.process(&columns, rows)?;
        match constant {
            true => ScalarValue::try_from_array(&output, 0).map(ColumnarValue::Scalar),
            false => Ok(ColumnarValue::Array(output)),
        }
    }
}
