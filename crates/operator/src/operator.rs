//! A bound operator, its workers, and what they take and give.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, SchemaRef};
use cenote_base::{Error, Resources, Result};

use crate::definition::{Definition, Shape};
use crate::spec::{Fingerprint, Params};

/// Input rows: one array for each port, in the order of [`Definition::inputs`], all of one length, typed as
/// [`PortType::arrives_as`](crate::PortType::arrives_as) says.
pub struct Rows<'a> {
    columns: &'a [ArrayRef],
    check: &'a (dyn Fn() -> Result<()> + Sync),
}

impl<'a> Rows<'a> {
    /// Rows over `columns`, which have one length.
    pub fn new(columns: &'a [ArrayRef]) -> Self {
        debug_assert!(columns.windows(2).all(|pair| pair[0].len() == pair[1].len()));
        Self { columns, check: &|| Ok(()) }
    }

    /// The same rows, the work on which `check` ends with the error that it gives.
    pub fn checked_by(self, check: &'a (dyn Fn() -> Result<()> + Sync)) -> Self {
        Self { check, ..self }
    }

    /// Whether to go on: an operator that takes long for a row asks between rows, or more often, and gives the error back.
    ///
    /// # Errors
    /// `Cancelled` when nobody waits for the output any more.
    pub fn check(&self) -> Result<()> {
        (self.check)()
    }

    /// The array of port number `port`.
    pub fn column(&self, port: usize) -> &'a ArrayRef {
        &self.columns[port]
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |column| column.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An input row that could not be processed: its outputs are null (or absent, in a one-to-many operator).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The row's position in the input.
    pub row: usize,
    /// What was wrong with it, for the person who will look at the row.
    pub reason: String,
}

/// What a worker made of some rows.
#[derive(Debug, Clone)]
pub struct Output {
    /// One array for each output field. Row-wise: as long as the input.
    pub columns: Vec<ArrayRef>,
    /// One-to-many only: the input row of each output row, ascending.
    pub parents: Option<UInt32Array>,
    /// The rows that failed, ascending.
    pub errors: Vec<RowError>,
}

impl From<Vec<ArrayRef>> for Output {
    fn from(columns: Vec<ArrayRef>) -> Self {
        Self { columns, parents: None, errors: Vec::new() }
    }
}

impl Output {
    /// The same output, in which `errors` say why some rows are null.
    pub fn with_errors(mut self, errors: Vec<RowError>) -> Self {
        self.errors = errors;
        self
    }
}

/// The second half of an operator's work, which devices may have too: from a batch of what workers prepared to the outputs, row
/// for row.
#[derive(Clone)]
pub struct Kernel {
    /// What devices call theirs.
    pub name: &'static str,
    /// What it takes.
    pub input: SchemaRef,
    /// Starts a worker that prepares rows: its columns are what the kernel takes.
    pub preparer: Arc<Start>,
    /// Does it on the calling thread. A device agrees with it within a tolerance that the operator states.
    pub on_cpu: Arc<OnCpu>,
}

type Start = dyn Fn() -> Result<Box<dyn Worker>> + Send + Sync;
type OnCpu = dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync;

impl Kernel {
    /// A worker that prepares rows and does the rest on the same thread.
    ///
    /// # Errors
    /// As the preparer's start.
    pub fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(Whole { kernel: self.clone(), worker: (self.preparer)()? }))
    }

    /// What workers prepared as the kernel takes it.
    ///
    /// # Errors
    /// `Internal` when they are other columns than [`input`](Self::input) names.
    pub fn batch(&self, prepared: Vec<ArrayRef>) -> Result<RecordBatch> {
        let what = || format!("prepare rows for kernel `{}`", self.name);
        RecordBatch::try_new(Arc::clone(&self.input), prepared)
            .map_err(|source| Error::internal(what()).with_source(source))
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name).field("input", &self.input).finish_non_exhaustive()
    }
}

/// An operator bound to its parameters and models: what it outputs, what it needs, and workers that do it.
pub trait Operator: Send + Sync {
    /// The output columns, named as a recipe may rename them; all nullable.
    fn outputs(&self) -> &[Field];

    /// A worker with state of its own, which does all of the work. Called once a thread; models and tables are shared behind it.
    fn worker(&self) -> Result<Box<dyn Worker>>;

    /// The same work in two halves, the second of which may go to a device. A row-wise operator alone may have one.
    fn kernel(&self) -> Option<&Kernel> {
        None
    }

    /// The hash of the model behind the operator, if there is one: part of every fingerprint.
    fn model_hash(&self) -> Option<&str> {
        None
    }

    /// What one worker holds while it runs.
    fn resources(&self) -> Resources {
        Resources::default()
    }
}

/// Does an operator's work on one thread.
pub trait Worker: Send {
    /// Processes `rows`. A bad row is data: null outputs and a [`RowError`]. An `Err` fails the whole batch and is meant
    /// for what no row is to blame for: a model that cannot run, memory that cannot be had.
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output>;
}

/// A stateless operator from a function: `outputs` names its columns.
pub fn row_wise<F>(outputs: Vec<Field>, process: F) -> Box<dyn Operator>
where
    F: Fn(&Rows<'_>) -> Result<Output> + Send + Sync + 'static,
{
    Box::new(Stateless { outputs, process: Arc::new(process) })
}

struct Stateless<F> {
    outputs: Vec<Field>,
    process: Arc<F>,
}

struct StatelessWorker<F>(Arc<F>);

impl<F> Operator for Stateless<F>
where
    F: Fn(&Rows<'_>) -> Result<Output> + Send + Sync + 'static,
{
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(StatelessWorker(Arc::clone(&self.process))))
    }
}

impl<F> Worker for StatelessWorker<F>
where
    F: Fn(&Rows<'_>) -> Result<Output> + Send + Sync,
{
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        (self.0)(rows)
    }
}

/// An operator together with the definition and the parameters it was bound from.
pub struct BoundOperator {
    /// The registered definition.
    pub definition: Definition,
    /// The parameters, defaults filled in.
    pub params: Params,
    operator: Box<dyn Operator>,
}

impl BoundOperator {
    pub(crate) fn new(definition: Definition, params: Params, operator: Box<dyn Operator>) -> Self {
        Self { definition, params, operator }
    }

    /// The output columns.
    pub fn outputs(&self) -> &[Field] {
        self.operator.outputs()
    }

    /// What one worker holds while it runs.
    pub fn resources(&self) -> Resources {
        self.operator.resources()
    }

    /// Names how this operator derives: name, version, parameters, model, and the fingerprints of what its inputs were
    /// derived by (`upstream`, in port order; empty text for a source column).
    pub fn fingerprint(&self, upstream: &[String]) -> Fingerprint {
        // A map of JSON values always serialises: keys are strings.
        let params = serde_json::to_string(&self.params).unwrap_or_default();
        let version = self.definition.version.to_le_bytes();
        let model = self.operator.model_hash().unwrap_or_default();
        let own = [self.definition.name.as_bytes(), &version, params.as_bytes(), model.as_bytes()];
        Fingerprint::of(own.into_iter().chain(upstream.iter().map(String::as_bytes)))
    }

    /// A worker whose outputs are checked against the contract of the operator's shape.
    pub fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(Checked { contract: self.contract(), inner: self.operator.worker()? }))
    }

    fn contract(&self) -> Contract {
        Contract { name: self.definition.name, shape: self.definition.shape, fields: self.outputs().to_vec() }
    }

    /// What a device made of `rows` prepared rows, checked as a worker's outputs are.
    pub fn check(&self, rows: usize, output: Output) -> Result<Output> {
        self.contract().check(rows, output)
    }

    /// The second half of the work, where it may go to a device.
    pub fn kernel(&self) -> Option<&Kernel> {
        self.operator.kernel()
    }
}

/// A worker and the kernel behind it, on one thread.
struct Whole {
    kernel: Kernel,
    worker: Box<dyn Worker>,
}

impl Worker for Whole {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let prepared = self.worker.process(rows)?;
        let output = (self.kernel.on_cpu)(&self.kernel.batch(prepared.columns)?)?;
        Ok(Output { columns: output.columns().to_vec(), ..prepared })
    }
}

/// What an operator promised of its outputs.
struct Contract {
    name: &'static str,
    shape: Shape,
    fields: Vec<Field>,
}

/// Turns an operator's broken promise into an error at the batch where it broke, instead of shifted rows in a table.
struct Checked {
    contract: Contract,
    inner: Box<dyn Worker>,
}

impl Worker for Checked {
    fn process(&mut self, rows: &Rows<'_>) -> Result<Output> {
        let output = self.inner.process(rows)?;
        self.contract.check(rows.len(), output)
    }
}

impl Contract {
    fn check(&self, rows: usize, output: Output) -> Result<Output> {
        let broken = |what: String| Err(Error::internal(format!("operator `{}` {what}", self.name)));
        if output.columns.len() != self.fields.len() {
            return broken(format!("gave {} columns, declared {}", output.columns.len(), self.fields.len()));
        }
        let rows_out = match (self.shape, &output.parents) {
            (Shape::OneToMany, Some(parents)) => {
                if parents.null_count() > 0
                    || parents.values().iter().any(|&parent| parent as usize >= rows)
                    || !parents.values().is_sorted()
                {
                    return broken("gave parents that are not ascending input rows".to_owned());
                }
                parents.len()
            }
            (Shape::OneToMany, None) => return broken("is one-to-many and gave no parents".to_owned()),
            (_, Some(_)) => return broken("is row-wise and gave parents".to_owned()),
            (_, None) => rows,
        };
        for (field, column) in self.fields.iter().zip(&output.columns) {
            if column.len() != rows_out {
                return broken(format!("gave {} rows in `{}`, expected {rows_out}", column.len(), field.name()));
            }
            if column.data_type() != field.data_type() {
                return broken(format!(
                    "gave {} in `{}`, declared {}",
                    column.data_type(),
                    field.name(),
                    field.data_type()
                ));
            }
        }
        Ok(output)
    }
}
