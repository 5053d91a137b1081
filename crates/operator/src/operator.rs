//! The trait of a bound operator, and row-wise operators from a function.

use std::sync::Arc;

use arrow::datatypes::Field;
use cenote_base::{Resources, Result};

use crate::kernel::Kernel;
use crate::worker::{Output, Rows, Worker};

/// An operator bound to its parameters and models.
pub trait Operator: Send + Sync {
    /// Returns the output columns, all nullable. A recipe may rename them.
    fn outputs(&self) -> &[Field];

    /// Starts a worker with state of its own, which does all of the work. Called once per thread; workers share models.
    fn worker(&self) -> Result<Box<dyn Worker>>;

    /// Returns the kernel of an operator whose work can be split in two halves, the second of which may go to a device.
    /// Only a row-wise operator may have one.
    fn kernel(&self) -> Option<&Kernel> {
        None
    }

    /// Returns the hash of the operator's model, if it has one: part of every fingerprint.
    fn model_hash(&self) -> Option<&str> {
        None
    }

    /// Returns the resources that one worker holds while it runs.
    fn resources(&self) -> Resources {
        Resources::default()
    }
}

/// Makes a stateless operator of the function `process`, with the output columns `outputs`.
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
