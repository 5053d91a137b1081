//! The worker of one operator, as a state of an actor keeps it.

use std::sync::Arc;

use arrow::array::ArrayRef;
use cenote_base::{Error, Result};
use cenote_operator::{BoundOperator, Output, Rows, Worker};
use cenote_scheduler::Cancel;

/// How often work is tried again after an error that may pass.
pub(crate) const RETRIES_MAX: u32 = 2;

/// Does an operator's work, with a worker that is made when it is first needed.
pub(crate) struct StepWorker {
    operator: Arc<BoundOperator>,
    worker: Option<Box<dyn Worker>>,
}

impl StepWorker {
    pub(crate) fn new(operator: &Arc<BoundOperator>) -> Self {
        Self { operator: Arc::clone(operator), worker: None }
    }

    /// Returns the operator's output for `inputs`, one array a port, of any type the port accepts, unless it is
    /// cancelled.
    pub(crate) fn process(&mut self, inputs: &[ArrayRef], cancel: &Cancel) -> Result<Output> {
        let worker = match &mut self.worker {
            Some(worker) => worker,
            None => self.worker.insert(self.operator.worker()?),
        };
        process(worker.as_mut(), &self.operator, inputs, cancel)
    }
}

/// Returns what `worker`, which takes what `operator` takes, makes of `inputs`.
pub(crate) fn process(
    worker: &mut dyn Worker,
    operator: &BoundOperator,
    inputs: &[ArrayRef],
    cancel: &Cancel,
) -> Result<Output> {
    let inputs = arrive(operator, inputs)?;
    worker.process(&Rows::new(&inputs).checked_by(&|| cancel.check()))
}

fn arrive(operator: &BoundOperator, inputs: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    let ports = operator.definition.inputs.iter();
    ports
        .zip(inputs)
        .map(|(port, column)| {
            arrow::compute::cast(column, &port.port_type.arrives_as(column.data_type())).map_err(|source| {
                Error::invalid_input(format!("input `{}` of operator `{}`", port.name, operator.definition.name))
                    .with_source(source)
            })
        })
        .collect()
}
