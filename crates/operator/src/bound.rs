//! An operator bound by the registry, whose workers are held to the operator's contract.

use arrow::array::Array;
use arrow::datatypes::Field;
use cenote_base::{Error, Resources, Result};
use serde_json::Value;

use crate::definition::{Definition, Shape};
use crate::kernel::Kernel;
use crate::operator::Operator;
use crate::spec::{Fingerprint, Params};
use crate::worker::{Output, Rows, Worker};

/// An operator with the definition and the parameters that it was bound from.
pub struct BoundOperator {
    /// The registered definition.
    pub definition: Definition,
    /// The parameters, with defaults filled in.
    pub params: Params,
    operator: Box<dyn Operator>,
}

impl BoundOperator {
    pub(crate) fn new(definition: Definition, params: Params, operator: Box<dyn Operator>) -> Self {
        Self { definition, params, operator }
    }

    /// Returns the output columns.
    pub fn outputs(&self) -> &[Field] {
        self.operator.outputs()
    }

    /// Returns the resources that one worker holds while it runs.
    pub fn resources(&self) -> Resources {
        self.operator.resources()
    }

    /// Returns the fingerprint of what this operator derives: name, version, parameters, model, and `bindings`, which
    /// say what its inputs are and how its outputs are named, in port order.
    pub fn fingerprint(&self, bindings: &[String]) -> Fingerprint {
        let params = Value::Object(self.params.0.clone().into_iter().collect()).to_string();
        let version = self.definition.version.to_le_bytes();
        let model = self.operator.model_hash().unwrap_or_default();
        let own = [self.definition.name.as_bytes(), &version, params.as_bytes(), model.as_bytes()];
        Fingerprint::of(own.into_iter().chain(bindings.iter().map(String::as_bytes)))
    }

    /// Starts a worker whose outputs are checked against the operator's contract.
    pub fn worker(&self) -> Result<Box<dyn Worker>> {
        Ok(Box::new(CheckedWorker { contract: self.contract(), inner: self.operator.worker()? }))
    }

    fn contract(&self) -> Contract {
        Contract { name: self.definition.name, shape: self.definition.shape, fields: self.outputs().to_vec() }
    }

    /// Checks what a device made of `rows` prepared rows, as a worker's outputs are checked.
    pub fn check(&self, rows: usize, output: Output) -> Result<Output> {
        self.contract().check(rows, output)
    }

    /// Returns the second half of the work, if it may go to a device.
    pub fn kernel(&self) -> Option<&Kernel> {
        self.operator.kernel()
    }
}

/// The promises of an operator about its outputs.
struct Contract {
    name: &'static str,
    shape: Shape,
    fields: Vec<Field>,
}

/// A worker whose broken promise is an error at the batch where it broke, instead of shifted rows in a table.
struct CheckedWorker {
    contract: Contract,
    inner: Box<dyn Worker>,
}

impl Worker for CheckedWorker {
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
