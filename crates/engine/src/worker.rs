//! Workers of one operator, made as threads need them and kept for reuse.

use std::sync::Arc;

use arrow::array::ArrayRef;
use cenote_base::{Error, Result};
use cenote_operator::{BoundOperator, Output, Rows, Worker};
use cenote_scheduler::{Cancel, Scheduler, WorkOptions};
use parking_lot::Mutex;

const RETRIES_MAX: u32 = 2;

/// Runs one operator through the scheduler. There are never more workers than the scheduler runs at once.
pub(crate) struct Workers {
    operator: Arc<BoundOperator>,
    options: WorkOptions,
    idle: Arc<Mutex<Vec<Box<dyn Worker>>>>,
}

impl Workers {
    pub(crate) fn new(operator: &Arc<BoundOperator>, cancel: &Cancel) -> Self {
        let options = WorkOptions::new(operator.definition.name)
            .resources(operator.resources())
            .retries(RETRIES_MAX)
            .cancel(cancel);
        Self { operator: Arc::clone(operator), options, idle: Arc::default() }
    }

    /// The operator's output for `inputs`, one array a port, of any type the port accepts.
    pub(crate) async fn process(&self, scheduler: &Scheduler, inputs: Vec<ArrayRef>) -> Result<Output> {
        let (operator, idle) = (Arc::clone(&self.operator), Arc::clone(&self.idle));
        scheduler
            .run(&self.options, move |_context| {
                let inputs = arrive(&operator, &inputs)?;
                let popped = idle.lock().pop();
                let mut worker = match popped {
                    Some(worker) => worker,
                    None => operator.worker()?,
                };
                let output = worker.process(&Rows::new(&inputs))?;
                // A worker that failed or panicked is not kept: its state is suspect.
                idle.lock().push(worker);
                Ok(output)
            })
            .await
    }
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
