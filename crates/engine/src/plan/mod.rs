//! Planning: a recipe is checked against the tables and the operators as a whole before anything runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use cenote_base::{Context, Error, ErrorKind, Result, did_you_mean, unknown};
use cenote_operator::{BoundOperator, Definition, Fingerprint, Port, Registry, Shape};
use cenote_store::{Filter, HIDDEN_PREFIX, PrimaryKey, Store};

use crate::recipe::{Recipe, Step};

/// The column of a child table that numbers the rows of one parent, from 0.
pub const ORDINAL: &str = "ordinal";

/// A step that was checked against its table and its operator.
pub(crate) struct PlannedStep {
    pub(crate) table: String,
    pub(crate) operator: Arc<BoundOperator>,
    /// The column of each port.
    pub(crate) inputs: Vec<String>,
    /// The column of each output field, in `table` or in the child table.
    pub(crate) outputs: Vec<Field>,
    /// The child table of a one-to-many step.
    pub(crate) child: Option<Child>,
    /// The rows that it applies to: its own predicate and the thresholds of filters before it.
    pub(crate) filter: Option<String>,
    /// The columns that `filter` compares.
    pub(crate) filter_columns: BTreeSet<String>,
    pub(crate) fingerprint: Fingerprint,
    /// The column of `table` that holds, for each row, the fingerprint by which this step's outputs were made.
    pub(crate) fingerprint_column: String,
    /// The numbers of earlier steps over the same table whose outputs it reads.
    pub(crate) reads_from: Vec<usize>,
}

/// The child table that a one-to-many step fills.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) table: String,
    /// The parent's key, the ordinal, and the outputs.
    pub(crate) schema: SchemaRef,
    pub(crate) key: Vec<String>,
}

impl PlannedStep {
    /// Returns what the step makes, for reports: its columns (`width, height`) or its child table (`chunks`).
    pub(crate) fn target(&self) -> String {
        match &self.child {
            Some(child) => child.table.clone(),
            None => self.outputs.iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", "),
        }
    }

    /// Returns the name of the step in the error table: its first output column, or its child table.
    pub(crate) fn label(&self) -> &str {
        match &self.child {
            Some(child) => &child.table,
            None => self.outputs.first().map_or("", |field| field.name()),
        }
    }
}

/// A table as it will be when the steps so far have run.
struct Shaped {
    schema: Schema,
    key: PrimaryKey,
    /// The maker of each derived column.
    made_by: HashMap<String, Maker>,
    /// Predicates of filters that ran before.
    kept: Vec<String>,
    /// The table's columns before this recipe, including hidden ones.
    stored: SchemaRef,
}

/// The output of a step that makes a column.
struct Maker {
    /// The step's number.
    step: usize,
    /// The name of the operator's output field.
    field: String,
}

impl Shaped {
    fn new(schema: Schema, key: PrimaryKey, stored: SchemaRef) -> Self {
        Self { schema, key, made_by: HashMap::new(), kept: Vec::new(), stored }
    }
}

/// Plans the steps of `recipe`, in its order.
///
/// # Errors
/// The first thing that does not fit, with its line in the recipe.
pub(crate) async fn plan(recipe: &Recipe, store: &Store, registry: &Registry) -> Result<Vec<Arc<PlannedStep>>> {
    let mut tables: BTreeMap<String, Shaped> = BTreeMap::new();
    let mut planned: Vec<Arc<PlannedStep>> = Vec::new();
    for (number, step) in recipe.steps.iter().enumerate() {
        let at = |field| move || recipe.positions.of(number, field);
        if !tables.contains_key(&step.table) {
            let snapshot = store.table(&step.table).await.context(at("table"))?.snapshot().await?;
            let (schema, key) = (snapshot.schema().as_ref().clone(), snapshot.primary_key().clone());
            tables.insert(step.table.clone(), Shaped::new(schema, key, Arc::clone(snapshot.full_schema())));
        }
        let Some(shaped) = tables.get_mut(&step.table) else { continue };
        let definition = registry.definition(&step.operator.name).context(at("operator"))?;
        definition.check(&step.operator.params).context(at("params"))?;
        let inputs = bind_inputs(step, definition, shaped).context(at("input"))?;
        let operator = Arc::new(registry.bind(&step.operator).context(at("operator"))?);
        let outputs = name_outputs(step, &operator).context(at("output"))?;
        let shape = operator.definition.shape;
        check_shape(step, shape).context(at(if step.keep.is_some() { "keep" } else { "into" }))?;

        let upstream: Vec<String> = inputs
            .iter()
            .map(|column| match shaped.made_by.get(column) {
                Some(Maker { step, field }) => format!("{}.{field}", planned[*step].fingerprint),
                None => String::new(),
            })
            .collect();
        let mut reads_from: Vec<usize> =
            inputs.iter().filter_map(|column| shaped.made_by.get(column).map(|maker| maker.step)).collect();
        reads_from.sort_unstable();
        reads_from.dedup();
        let predicates: Vec<String> =
            step.filter.iter().chain(&shaped.kept).map(|predicate| format!("({predicate})")).collect();
        let filter = (!predicates.is_empty()).then(|| predicates.join(" AND "));
        let fingerprint = operator.fingerprint(&upstream);

        let child = match &step.into {
            Some(into) => Some(plan_child(into, &shaped.key, &outputs).context(at("into"))?),
            None => {
                let fingerprint_column = fingerprint_column(outputs.first().map_or("", |field| field.name()));
                for (field, output) in operator.outputs().iter().zip(&outputs) {
                    let maker = Maker { step: number, field: field.name().clone() };
                    add_output(shaped, maker, output, &fingerprint_column).context(at("output"))?;
                }
                None
            }
        };
        let filter_columns = match &filter {
            // The step's own outputs are there before its rows are chosen.
            Some(filter) => {
                let filter = Filter::from(filter.as_str());
                filter.compared(&Arc::new(shaped.schema.clone())).context(at("where"))?
            }
            None => BTreeSet::new(),
        };
        if let (Some(keep), Some(score)) = (&step.keep, outputs.first()) {
            shaped.kept.push(keep.predicate(score.name()));
        }
        if let Some(child) = &child {
            if tables.contains_key(&child.table) {
                let what = format!("table `{}` is made by another step or read before this one", child.table);
                return Err(Error::invalid_input(what)).context(at("into"));
            }
            let key = PrimaryKey::new(&child.schema, &child.key)?;
            let schema = child.schema.as_ref().clone();
            let stored = match store.table(&child.table).await {
                Ok(table) => Arc::clone(table.snapshot().await?.full_schema()),
                Err(error) if error.kind() == ErrorKind::NotFound => Arc::clone(&child.schema),
                Err(error) => return Err(error),
            };
            tables.insert(child.table.clone(), Shaped::new(schema, key, stored));
        }
        let label = child.as_ref().map_or_else(|| outputs[0].name().clone(), |child| child.table.clone());
        planned.push(Arc::new(PlannedStep {
            table: step.table.clone(),
            operator,
            inputs,
            outputs,
            child,
            filter,
            filter_columns,
            fingerprint,
            fingerprint_column: fingerprint_column(&label),
            reads_from,
        }));
    }
    Ok(planned)
}

/// Returns the column that holds the fingerprints of the step that makes `label`.
fn fingerprint_column(label: &str) -> String {
    format!("{HIDDEN_PREFIX}fingerprint_{label}")
}

/// Returns the column of each of the operator's input ports.
fn bind_inputs(step: &Step, definition: &Definition, shaped: &Shaped) -> Result<Vec<String>> {
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
        let field = shaped.schema.field_with_name(column).map_err(|_| {
            let columns = shaped.schema.fields().iter().map(|field| field.name().as_str());
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
fn name_outputs(step: &Step, operator: &BoundOperator) -> Result<Vec<Field>> {
    let fields = operator.outputs();
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

fn check_shape(step: &Step, shape: Shape) -> Result<()> {
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

fn plan_child(into: &str, parent: &PrimaryKey, outputs: &[Field]) -> Result<Child> {
    let mut fields: Vec<Field> = parent.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
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

/// Adds the column `output` to `shaped`. A column of source data is never overwritten: a column that a step made before
/// is told from it by the fingerprint column beside it.
fn add_output(shaped: &mut Shaped, maker: Maker, output: &Field, fingerprint_column: &str) -> Result<()> {
    let name = output.name();
    let derived_before = shaped.stored.field_with_name(fingerprint_column).is_ok();
    if shaped.made_by.contains_key(name) {
        return Err(Error::invalid_input(format!(
            "column `{name}` is made by an earlier step: rename it with `output`"
        )));
    }
    if shaped.key.schema().index_of(name).is_ok() {
        return Err(Error::invalid_input(format!(
            "column `{name}` is part of the primary key: rename it with `output`"
        )));
    }
    match shaped.schema.field_with_name(name) {
        Ok(existing) if existing.data_type() != output.data_type() => {
            return Err(Error::invalid_input(format!(
                "column `{name}` exists as {}, and the step would make it {}: drop it or rename the output",
                existing.data_type(),
                output.data_type()
            )));
        }
        Ok(_) if shaped.stored.field_with_name(name).is_ok() && !derived_before => {
            return Err(Error::invalid_input(format!(
                "column `{name}` holds data that no step made, and the step would overwrite it: rename the output"
            )));
        }
        Ok(_) => {}
        Err(_) => {
            let fields = shaped.schema.fields().iter().cloned().chain([Arc::new(output.clone())]);
            shaped.schema = Schema::new(fields.collect::<Vec<_>>());
        }
    }
    shaped.made_by.insert(name.clone(), maker);
    Ok(())
}
