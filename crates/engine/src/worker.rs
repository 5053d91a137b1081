//! Workers of one operator, made as threads need them and kept for reuse.

use std::sync::Arc;

use arrow::array::ArrayRef;
use cenote_base::{Error, Result};
use cenote_operator::{BoundOperator, Output, Rows, Worker};
use cenote_scheduler::Cancel;
use parking_lot::Mutex;

/// How often work is tried again after an error that may pass.
pub(crate) const RETRIES_MAX: u32 = 2;

/// Does an operator's work on threads of the scheduler. There are never more workers than those run at once.
pub(crate) struct Workers {
    operator: Arc<BoundOperator>,
    /// Whether they stop before the operator's kernel.
    only_prepare: bool,
    idle: Mutex<Vec<Box<dyn Worker>>>,
}

impl Workers {
    pub(crate) fn new(operator: &Arc<BoundOperator>, only_prepare: bool) -> Self {
        Self { operator: Arc::clone(operator), only_prepare, idle: Mutex::default() }
    }

    /// The operator's output, or what its kernel takes, for `inputs`, one array a port, of any type the port accepts, unless it is
    /// cancelled.
    pub(crate) fn process(&self, inputs: &[ArrayRef], cancel: &Cancel) -> Result<Output> {
        let inputs = arrive(&self.operator, inputs)?;
        let popped = self.idle.lock().pop();
        let mut worker = match (popped, self.operator.kernel()) {
            (Some(worker), _) => worker,
            (None, Some(kernel)) if self.only_prepare => (kernel.preparer)()?,
            (None, _) => self.operator.worker()?,
        };
        let output = worker.process(&Rows::new(&inputs).checked_by(&|| cancel.check()))?;
        // A worker that failed or panicked is not kept: its state is suspect.
        self.idle.lock().push(worker);
        Ok(output)
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
