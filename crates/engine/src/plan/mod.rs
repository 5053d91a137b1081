//! Planning: a recipe is checked against the tables and the operators as a whole before anything runs.
//!
//! A plan says what each step reads and makes. It does not know which rows are stale, or how steps share a pass, and
//! planning writes nothing.

mod binding;
mod step;
mod table;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use binding::{bind_inputs, check_shape, name_outputs, plan_child};
use cenote_base::{Context, Error, ErrorKind, Result};
use cenote_operator::Registry;
use cenote_store::Store;
use table::{Maker, PlannedTable, RowFilter};

pub(crate) use step::{Child, PlannedStep};

use crate::recipe::Recipe;
use crate::record::derivation::fingerprint_column;

/// Plans the steps of `recipe`, in its order.
///
/// # Errors
/// The first thing that does not fit, with its line in the recipe.
pub(crate) async fn plan(recipe: &Recipe, store: &Store, registry: &Registry) -> Result<Vec<Arc<PlannedStep>>> {
    let mut tables: BTreeMap<String, PlannedTable> = BTreeMap::new();
    let mut planned: Vec<Arc<PlannedStep>> = Vec::new();
    for (number, step) in recipe.steps.iter().enumerate() {
        let at = |field| move || recipe.positions.of(number, field);
        let table = match tables.entry(step.table.clone()) {
            Entry::Occupied(table) => table.into_mut(),
            Entry::Vacant(place) => {
                let snapshot = store.table(&step.table).await.context(at("table"))?.snapshot().await?;
                place.insert(PlannedTable::stored(&snapshot))
            }
        };
        let definition = registry.definition(&step.operator.name).context(at("operator"))?;
        definition.check(&step.operator.params).context(at("params"))?;
        let inputs = bind_inputs(step, definition, table.schema()).context(at("input"))?;
        let operator = Arc::new(registry.bind(&step.operator).context(at("operator"))?);
        let outputs = name_outputs(step, &operator).context(at("output"))?;
        check_shape(step, operator.definition.shape).context(at(if step.keep.is_some() { "keep" } else { "into" }))?;

        let read = inputs.iter().map(|column| match table.maker(column) {
            Some(Maker { step, field }) => format!("in: {}.{field}", planned[*step].fingerprint),
            None => format!("in: column {column}"),
        });
        let named = operator.outputs().iter().zip(&outputs);
        let named = named.map(|(field, output)| format!("out: {} as {}", field.name(), output.name()));
        let fingerprint = operator.fingerprint(&read.chain(named).collect::<Vec<_>>());
        let makers = inputs.iter().filter_map(|column| table.maker(column));
        let mut reads_from: Vec<usize> = makers.map(|maker| maker.step).collect();
        reads_from.sort_unstable();
        reads_from.dedup();

        let first = outputs[0].name().clone();
        let child = match &step.into {
            Some(into) => Some(plan_child(into, table.key(), &outputs).context(at("into"))?),
            None => {
                let fingerprint_column = fingerprint_column(&first);
                for (field, output) in operator.outputs().iter().zip(&outputs) {
                    let reads_it = |earlier: &Arc<PlannedStep>| {
                        earlier.table == step.table && earlier.inputs.contains(output.name())
                    };
                    if planned.iter().any(reads_it) {
                        let what = format!(
                            "column `{}` is read by an earlier step: put the step that makes it first",
                            output.name()
                        );
                        return Err(Error::invalid_input(what)).context(at("output"));
                    }
                    let maker = Maker { step: number, field: field.name().clone() };
                    table.add_output(maker, output, &fingerprint_column).context(at("output"))?;
                }
                None
            }
        };
        // The step's own outputs are there before its rows are chosen.
        let filter = table.filter(step.filter.as_ref()).context(at("where"))?;
        let (filter, filter_columns) =
            filter.map_or_else(Default::default, |RowFilter { predicate, columns }| (Some(predicate), columns));
        if let Some(keep) = &step.keep {
            table.keep(keep, &first);
        }
        if let Some(child) = &child {
            if tables.contains_key(&child.table) {
                let what = format!("table `{}` is made by another step or read before this one", child.table);
                return Err(Error::invalid_input(what)).context(at("into"));
            }
            let stored = match store.table(&child.table).await {
                Ok(table) => Some(table.snapshot().await?),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let planned = PlannedTable::child(child, stored.as_ref()).context(at("into"))?;
            tables.insert(child.table.clone(), planned);
        }
        let label = child.as_ref().map_or(&first, |child| &child.table);
        planned.push(Arc::new(PlannedStep {
            table: step.table.clone(),
            fingerprint_column: fingerprint_column(label),
            operator,
            inputs,
            outputs,
            child,
            filter,
            filter_columns,
            fingerprint,
            reads_from,
        }));
    }
    Ok(planned)
}
