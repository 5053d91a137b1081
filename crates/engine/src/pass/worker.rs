//! The worker of one operator, kept as the state of an actor.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::ArrayRef;
use cenote_base::{Error, Result};
use cenote_operator::{BoundOperator, Output, Rows, Worker};
use cenote_scheduler::Cancel;

/// Retries of a task after an error that may pass.
pub(super) const RETRIES_MAX: u32 = 2;
/// The time that a worker is kept without work. A pass that goes on hands it the next piece sooner.
pub(super) const WORKER_IDLE: Duration = Duration::from_secs(60);

/// Does an operator's work, with a worker that is made when it is first needed.
pub(super) struct StepWorker {
    operator: Arc<BoundOperator>,
    worker: Option<Box<dyn Worker>>,
}

impl StepWorker {
    pub(super) fn new(operator: &Arc<BoundOperator>) -> Self {
        Self { operator: Arc::clone(operator), worker: None }
    }

    /// Returns the operator's output for `inputs`: one array for each port, of any type that the port accepts.
    ///
    /// # Errors
    /// `Cancelled`, or what fails the whole batch.
    pub(super) fn process(&mut self, inputs: &[ArrayRef], cancel: &Cancel) -> Result<Output> {
        let worker = match &mut self.worker {
            Some(worker) => worker,
            None => self.worker.insert(self.operator.worker()?),
        };
        process(worker.as_mut(), &self.operator, inputs, cancel)
    }
}

/// Returns the output of `worker` for `inputs`, which are cast to the types of the ports of `operator`.
pub(super) fn process(
    worker: &mut dyn Worker,
    operator: &BoundOperator,
    inputs: &[ArrayRef],
    cancel: &Cancel,
) -> Result<Output> {
    let inputs = cast_to_ports(operator, inputs)?;
    worker.process(&Rows::new(&inputs).checked_by(&|| cancel.check()))
}

fn cast_to_ports(operator: &BoundOperator, inputs: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
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
