//! The binding of a step to its operator: columns to ports, names to outputs, and the shape to what the step asks for.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, Result, did_you_mean, unknown};
use cenote_operator::{BoundOperator, Definition, Port, Shape};
use cenote_store::{HIDDEN_PREFIX, PrimaryKey};

use super::step::Child;
use crate::recipe::Step;
use crate::record::error_table::ERROR_TABLE;

/// The column of a child table that numbers the rows of one parent, from 0.
const ORDINAL: &str = "ordinal";

/// Returns the column of each of the operator's input ports, all of them columns of `schema`.
pub(super) fn bind_inputs(step: &Step, definition: &Definition, schema: &Schema) -> Result<Vec<String>> {
    let ports = &definition.inputs;
    let lone = (ports.len() == 1).then(|| step.input.get("")).flatten();
    if let Some(name) = step.input.keys().find(|name| lone.is_none() && !ports.iter().any(|port| port.name == **name)) {
        let known: Vec<&str> = ports.iter().map(|port| port.name).collect();
        return Err(not_declared(step, "input", name, &known));
    }
    let bind = |port: &Port| {
        let column = lone.or_else(|| step.input.get(port.name)).ok_or_else(|| {
            Error::invalid_input(format!("operator `{}` needs a column for input `{}`", definition.name, port.name))
        })?;
        let field = schema.field_with_name(column).map_err(|_| {
            let columns = schema.fields().iter().map(|field| field.name().as_str());
            unknown("column", column, columns).context(format!("table `{}`", step.table))
        })?;
        if !port.port_type.accepts(field.data_type()) {
            return Err(Error::invalid_input(format!(
                "input `{}` of operator `{}` takes {}, and column `{column}` is {}",
                port.name,
                definition.name,
                port.port_type,
                field.data_type()
            )));
        }
        Ok(column.clone())
    };
    ports.iter().map(bind).collect()
}

/// Returns the operator's output fields under the names of their columns.
pub(super) fn name_outputs(step: &Step, operator: &BoundOperator) -> Result<Vec<Field>> {
    let fields = operator.outputs();
    if fields.is_empty() {
        return Err(Error::internal(format!("operator `{}` has no output", step.operator.name)));
    }
    let lone = (fields.len() == 1).then(|| step.output.get("")).flatten();
    if let Some(name) = step.output.keys().find(|name| lone.is_none() && !fields.iter().any(|f| f.name() == *name)) {
        let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        return Err(not_declared(step, "output", name, &known));
    }
    let rename = |field: &Field| {
        let name = lone.or_else(|| step.output.get(field.name())).unwrap_or(field.name());
        if name.starts_with(HIDDEN_PREFIX) {
            return Err(Error::invalid_input(format!("column `{name}`: names in {HIDDEN_PREFIX} are reserved")));
        }
        Ok(Field::new(name, field.data_type().clone(), true))
    };
    fields.iter().map(rename).collect()
}

/// Makes the error for a `what` (an input or an output) that the step names and its operator does not declare.
fn not_declared(step: &Step, what: &str, name: &str, known: &[&str]) -> Error {
    let hint = did_you_mean(name, known.iter().copied());
    let known = known.join(", ");
    Error::invalid_input(format!("operator `{}` has no {what} `{name}`{hint}; it has {known}", step.operator.name))
}

/// Checks that the step asks for what an operator of `shape` gives.
pub(super) fn check_shape(step: &Step, shape: Shape) -> Result<()> {
    let name = &step.operator.name;
    match (shape, &step.into, &step.keep) {
        (Shape::OneToMany, None, _) => {
            Err(Error::invalid_input(format!("operator `{name}` is one-to-many: name its child table with `into`")))
        }
        (Shape::RowWise | Shape::Filter, Some(_), _) => Err(Error::invalid_input(format!(
            "operator `{name}` gives one row for each row: it writes columns, not a table; use `output`"
        ))),
        (Shape::RowWise | Shape::OneToMany, _, Some(_)) => {
            Err(Error::invalid_input(format!("operator `{name}` is not a filter: it has no score to `keep` rows by")))
        }
        _ => Ok(()),
    }
}

/// Plans the child table `into` of a table with the key `parent`.
pub(super) fn plan_child(into: &str, parent: &PrimaryKey, outputs: &[Field]) -> Result<Child> {
    if into == ERROR_TABLE {
        return Err(Error::invalid_input(format!("table `{into}` holds the rows that failed: choose another `into`")));
    }
    let mut fields: Vec<Field> = parent.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    if fields.iter().any(|field| field.name() == ORDINAL) {
        return Err(Error::invalid_input(format!(
            "child table `{into}` numbers its rows in a column `{ORDINAL}`, and the key of the parents has one, as the \
             key of every child table does: apply the step to another table"
        )));
    }
    fields.push(Field::new(ORDINAL, DataType::Int32, false));
    if let Some(twice) = outputs.iter().find(|output| fields.iter().any(|field| field.name() == output.name())) {
        return Err(Error::invalid_input(format!(
            "output `{}` would collide with a key column of child table `{into}`: rename it with `output`",
            twice.name()
        )));
    }
    let key = fields.iter().map(|field| field.name().clone()).collect();
    fields.extend(outputs.iter().cloned());
    Ok(Child { table: into.to_owned(), schema: Arc::new(Schema::new(fields)), key })
}
