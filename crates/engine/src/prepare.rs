//! The preparation of a group's tables for its pass: child tables, columns to fill, and the record of how they are
//! made.
//!
//! A run that is killed at any step of the preparation leaves it to the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, ErrorKind, Result};
use cenote_store::{DEPENDENTS_PROPERTY, Snapshot, Store, Table, TableSpec};
use serde_json::Value;

use crate::group::StepGroup;
use crate::plan::{Child, PlannedStep};
use crate::record::dependents;
use crate::record::derivation::{DERIVED_PREFIX, fingerprint_column};
use crate::record::in_turn::in_turn;

/// The property of a child table that names the table of the parents.
const CHILD_OF: &str = "cenote.child_of";
/// The field of a record of how outputs were made that holds the identity of the child table.
const CHILD_IDENTITY: &str = "into_identity";
/// The field that holds all columns that the step has made in that child table.
const CHILD_COLUMNS: &str = "into_columns";

/// A child table, before its columns are complete.
#[derive(Clone)]
struct ReadyChild {
    table: Table,
    identity: String,
    /// The columns that the step has made in it.
    made: BTreeSet<String>,
    /// The output columns that it lacks.
    missing: Vec<Field>,
}

/// The changes that a table needs before a group of steps can run over it.
#[derive(Default)]
struct Changes {
    /// Fingerprints of values that are not, or no longer, what the steps make.
    void: BTreeSet<String>,
    /// Fingerprints of steps whose outputs may hold values.
    remade: Vec<String>,
    /// Columns that are new.
    added: Vec<Field>,
    properties: BTreeMap<String, Option<String>>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.void.is_empty() && self.remade.is_empty() && self.added.is_empty() && self.properties.is_empty()
    }

    /// Makes the changes to `table`. After a crash between two of them, the next run makes the others: what is void is
    /// dropped first, and what is on record comes last.
    async fn make(self, table: &Table) -> Result<()> {
        table.drop_columns(&self.void.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        // A row that the step no longer applies to may still hold a value: a fingerprint of null would say it does not.
        table.add_void_columns(&self.remade.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        table.add_own_columns(&self.added).await?;
        if !self.properties.is_empty() {
            table.set_properties(self.properties).await?;
        }
        Ok(())
    }
}

/// Creates child tables, adds the columns that `group` will fill, and records how they are made and which fingerprints
/// a change of each column voids. `planned` are all steps of the recipe.
pub(crate) async fn prepare(store: &Store, group: &StepGroup, planned: &[Arc<PlannedStep>]) -> Result<()> {
    let records = records(group.table.name(), &group.table.snapshot().await?)?;
    let mut children = BTreeMap::new();
    for step in &group.steps {
        if let Some(child) = &step.child {
            children.insert(step.label().to_owned(), ready_child(store, step, child, records.get(step.label())).await?);
        }
    }
    if !changes(&group.table.snapshot().await?, &group.steps, planned, &children)?.is_empty() {
        let (table, steps, planned) = (group.table.clone(), group.steps.clone(), planned.to_vec());
        let children = children.clone();
        // Other runs prepare the table, too, and commit by what it says.
        let change = async move { changes(&table.snapshot().await?, &steps, &planned, &children)?.make(&table).await };
        in_turn(&group.table, |_| change).await?;
    }
    // By now the fingerprints of all parents are void, so after a crash the next run fills these columns.
    for ReadyChild { table, missing, .. } in children.into_values() {
        table.add_columns(&missing).await?;
    }
    Ok(())
}

/// Returns what must change in the table of `snapshot` before `steps` can run over it.
fn changes(
    snapshot: &Snapshot,
    steps: &[Arc<PlannedStep>],
    planned: &[Arc<PlannedStep>],
    children: &BTreeMap<String, ReadyChild>,
) -> Result<Changes> {
    let Some(table) = steps.first().map(|step| &step.table) else { return Ok(Changes::default()) };
    let mut records = records(table, snapshot)?;
    let has = |name: &str| snapshot.full_schema().field_with_name(name).is_ok();
    let mut changes = Changes::default();
    for step in steps {
        let (definition, child) = (&step.operator.definition, children.get(step.label()));
        let outputs: &[Field] = if child.is_none() { &step.outputs } else { &[] };
        let mut made = serde_json::json!({
            "operator": definition.name,
            "version": definition.version,
            "params": step.operator.params,
            "inputs": step.inputs,
            "outputs": step.outputs.iter().map(Field::name).collect::<Vec<_>>(),
            "where": step.filter,
            "into": step.child.as_ref().map(|child| &child.table),
            "fingerprint": step.fingerprint.to_string(),
        });
        if let Some(child) = child {
            let columns = step.outputs.iter().map(|output| output.name().clone());
            let columns: BTreeSet<String> = columns.chain(child.made.iter().cloned()).collect();
            made[CHILD_IDENTITY] = child.identity.clone().into();
            made[CHILD_COLUMNS] = serde_json::json!(columns);
        }
        let before = records.insert(step.label().to_owned(), made);
        // Values that were made of other columns would stay current when these change.
        let reads_others = |before: &Value| before["inputs"] != serde_json::json!(step.inputs);
        let fills_another = |before: &Value| {
            child.is_some_and(|child| before[CHILD_IDENTITY].as_str() != Some(child.identity.as_str()))
        };
        let lacks_outputs =
            child.is_some_and(|child| !child.missing.is_empty()) || !outputs.iter().all(|output| has(output.name()));
        let is_void =
            lacks_outputs || before.as_ref().is_some_and(|before| reads_others(before) || fills_another(before));
        let fingerprint = &step.fingerprint_column;
        if has(fingerprint) && is_void {
            changes.void.insert(fingerprint.clone());
        }
        if is_void || !has(fingerprint) {
            match before.is_some() || outputs.iter().any(|output| has(output.name())) {
                true => changes.remade.push(fingerprint.clone()),
                false => changes.added.push(Field::new(fingerprint, DataType::Int64, true)),
            }
        }
        changes.added.extend(outputs.iter().filter(|output| !has(output.name())).cloned());
    }
    let void = take_over(&mut records, steps).into_iter().map(|label| fingerprint_column(&label));
    changes.void.extend(void.filter(|column| has(column)));
    let properties =
        records.into_iter().map(|(label, record)| (format!("{DERIVED_PREFIX}{label}"), record.to_string()));
    let dependents = dependents::changed(snapshot, table, planned)?.map(|text| (DEPENDENTS_PROPERTY.to_owned(), text));
    let properties = properties.chain(dependents);
    changes.properties = properties
        .filter(|(name, value)| snapshot.properties().get(name) != Some(value))
        .map(|(name, value)| (name, Some(value)))
        .collect();
    Ok(changes)
}

/// Takes the columns that `steps` make out of the `records` of other steps that made them before. Returns the labels of
/// these steps.
fn take_over(records: &mut BTreeMap<String, Value>, steps: &[Arc<PlannedStep>]) -> Vec<String> {
    let is_own = |label: &str| steps.iter().any(|step| step.label() == label);
    let makes = |step: &Arc<PlannedStep>, name: &str| {
        step.child.is_none() && step.outputs.iter().any(|output| output.name() == name)
    };
    let mut others = Vec::new();
    for (label, record) in records.iter_mut().filter(|(label, record)| record["into"].is_null() && !is_own(label)) {
        let Some(outputs) = record["outputs"].as_array_mut() else { continue };
        let before = outputs.len();
        outputs.retain(|output| output.as_str().is_none_or(|name| !steps.iter().any(|step| makes(step, name))));
        if outputs.len() < before {
            others.push(label.clone());
        }
    }
    others
}

/// Returns the child table of `step`, which is created if it does not exist. `made` is the record of how the children
/// were made before.
async fn ready_child(store: &Store, step: &PlannedStep, child: &Child, made: Option<&Value>) -> Result<ReadyChild> {
    let table = match store.table(&child.table).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let spec = TableSpec::new(Arc::clone(&child.schema), child.key.clone());
            match store.create_table(&child.table, spec).await {
                // Another run has created it meanwhile.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => store.table(&child.table).await?,
                created => created?,
            }
        }
        table => table?,
    };
    let snapshot = table.snapshot().await?;
    if snapshot.primary_key().columns() != child.key {
        return Err(Error::invalid_input(format!(
            "table `{}` exists with primary key ({}), and the step needs ({}): choose another `into`",
            child.table,
            snapshot.primary_key().columns().join(", "),
            child.key.join(", ")
        )));
    }
    claim_child(&table, &snapshot, step, made).await?;
    let identity = snapshot.identity().to_string();
    let made = made.filter(|made| made[CHILD_IDENTITY].as_str() == Some(&identity));
    // Older versions recorded only the outputs.
    let columns = made.and_then(|made| made[CHILD_COLUMNS].as_array().or_else(|| made["outputs"].as_array()));
    let columns = columns.into_iter().flatten().filter_map(Value::as_str);
    let columns: BTreeSet<String> = columns.map(str::to_owned).collect();
    let (stored, missing): (Vec<&Field>, Vec<&Field>) =
        step.outputs.iter().partition(|output| snapshot.full_schema().field_with_name(output.name()).is_ok());
    if let Some(own) = stored.into_iter().find(|output| made.is_some() && !columns.contains(output.name())) {
        return Err(Error::invalid_input(format!(
            "column `{}` of child table `{}` holds data that no step made, and the step would overwrite it: rename the \
             output",
            own.name(),
            child.table
        )));
    }
    let missing = missing.into_iter().cloned().collect();
    Ok(ReadyChild { table, identity, made: columns, missing })
}

/// Marks `child` as the table of the children that `step` makes.
///
/// # Errors
/// `InvalidInput` when it has rows of somebody else, which the step would remove as orphans.
async fn claim_child(child: &Table, snapshot: &Snapshot, step: &PlannedStep, made: Option<&Value>) -> Result<()> {
    let name = step.label();
    match snapshot.properties().get(CHILD_OF) {
        Some(parents) if *parents == step.table => return Ok(()),
        Some(parents) => {
            return Err(Error::invalid_input(format!(
                "table `{name}` holds children of table `{parents}`, which the step would remove: choose another `into`"
            )));
        }
        None => {}
    }
    let identity = snapshot.identity().to_string();
    let is_ours = made.is_some_and(|made| made[CHILD_IDENTITY].as_str() == Some(&identity));
    if !is_ours && snapshot.count(None).await? > 0 {
        return Err(Error::invalid_input(format!(
            "table `{name}` holds rows that no step made, which the step would remove: choose another `into`"
        )));
    }
    child.set_properties(BTreeMap::from([(CHILD_OF.to_owned(), Some(step.table.clone()))])).await.map(drop)
}

/// Returns the records of how derived columns and child tables of the table called `table` were made, by step label.
///
/// # Errors
/// `Corrupt` for a record that no run wrote.
fn records(table: &str, snapshot: &Snapshot) -> Result<BTreeMap<String, Value>> {
    let records =
        snapshot.properties().iter().filter_map(|(name, text)| Some((name.strip_prefix(DERIVED_PREFIX)?, text)));
    let parse = |(label, text): (&str, &String)| {
        let unreadable = |source| {
            Error::corrupt(format!("property `{DERIVED_PREFIX}{label}` of table `{table}` is not JSON"))
                .with_source(source)
        };
        Ok((label.to_owned(), serde_json::from_str(text).map_err(unreadable)?))
    };
    records.map(parse).collect()
}
