//! The preparation of a group's tables for its pass: child tables, columns to fill, and the record of how they are
//! made.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, ErrorKind, Result};
use cenote_store::{Snapshot, Store, Table, TableSpec};
use serde_json::Value;

use crate::group::StepGroup;
use crate::plan::{Child, PlannedStep};
use crate::record::dependents;
use crate::record::derivation::DERIVED_PREFIX;

/// The property of a child table that names the table of the parents.
const CHILD_OF: &str = "cenote.child_of";
/// The field of a record of how outputs were made that holds the identity of the child table.
const CHILD_IDENTITY: &str = "into_identity";

/// A child table that is ready to be filled.
struct ReadyChild {
    identity: u64,
    is_new: bool,
    /// Whether columns were added to it, which no parent has filled.
    is_wider: bool,
}

/// Creates child tables, adds the columns that `group` will fill, and records which fingerprints a change of each
/// column voids. `planned` are all steps of the recipe.
pub(crate) async fn prepare(store: &Store, group: &StepGroup, planned: &[Arc<PlannedStep>]) -> Result<()> {
    let children = prepare_children(store, group).await?;
    void_changed(group).await?;
    let snapshot = group.table.snapshot().await?;
    let missing = |name: &str| snapshot.full_schema().field_with_name(name).is_err();
    let mut fields: Vec<Field> = Vec::new();
    for step in &group.steps {
        fields.push(Field::new(&step.fingerprint_column, DataType::Int64, true));
        if step.child.is_none() {
            fields.extend(step.outputs.iter().cloned());
        }
    }
    fields.retain(|field| missing(field.name()));
    if !fields.is_empty() {
        group.table.add_own_columns(&fields).await?;
    }

    dependents::register(&group.table, planned).await?;
    let mut properties = BTreeMap::new();
    let mut set = |name: String, value: Value| {
        let value = value.to_string();
        if snapshot.properties().get(&name) != Some(&value) {
            properties.insert(name, Some(value));
        }
    };
    for step in &group.steps {
        let definition = &step.operator.definition;
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
        if let Some(identity) = children.get(step.label()) {
            made[CHILD_IDENTITY] = identity.to_string().into();
        }
        set(format!("{DERIVED_PREFIX}{}", step.label()), made);
    }
    if !properties.is_empty() {
        group.table.set_properties(properties).await?;
    }
    Ok(())
}

/// Creates the child tables of `group` and returns their identities by step label. Where a child table is not the one
/// that held the children before, no parent has any, so the fingerprints are dropped.
async fn prepare_children(store: &Store, group: &StepGroup) -> Result<BTreeMap<String, u64>> {
    let mut children = BTreeMap::new();
    for step in &group.steps {
        let Some(child) = &step.child else { continue };
        let made = made_before(&group.table.snapshot().await?, step)?;
        let ReadyChild { identity, is_new, is_wider } = ensure_child(store, step, child, made.as_ref()).await?;
        children.insert(step.label().to_owned(), identity);
        let snapshot = group.table.snapshot().await?;
        let made = made_before(&snapshot, step)?;
        let former = made.as_ref().and_then(|made| made[CHILD_IDENTITY].as_str());
        let is_another = former.map_or(is_new, |former| former != identity.to_string());
        if (is_another || is_wider) && snapshot.full_schema().field_with_name(&step.fingerprint_column).is_ok() {
            group.table.drop_columns(&[&step.fingerprint_column]).await?;
        }
    }
    Ok(children)
}

/// Creates the child table of `step`, or adds the output columns that it lacks. `made` is the record of how the
/// children were made before.
async fn ensure_child(store: &Store, step: &PlannedStep, child: &Child, made: Option<&Value>) -> Result<ReadyChild> {
    match store.table(&child.table).await {
        Ok(table) => {
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
            let is_missing = |output: &&Field| snapshot.full_schema().field_with_name(output.name()).is_err();
            let missing: Vec<Field> = step.outputs.iter().filter(is_missing).cloned().collect();
            if !missing.is_empty() {
                table.add_columns(&missing).await?;
            }
            Ok(ReadyChild { identity: snapshot.identity(), is_new: false, is_wider: !missing.is_empty() })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let spec = TableSpec::new(Arc::clone(&child.schema), child.key.clone());
            let table = match store.create_table(&child.table, spec).await {
                // Another run has created it meanwhile.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Box::pin(ensure_child(store, step, child, made)).await;
                }
                table => table?,
            };
            let snapshot = table.snapshot().await?;
            claim_child(&table, &snapshot, step, made).await?;
            Ok(ReadyChild { identity: snapshot.identity(), is_new: true, is_wider: false })
        }
        Err(error) => Err(error),
    }
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

/// Drops the fingerprints of steps that read other columns than before, or whose outputs somebody dropped.
async fn void_changed(group: &StepGroup) -> Result<()> {
    let snapshot = group.table.snapshot().await?;
    let has = |name: &str| snapshot.full_schema().field_with_name(name).is_ok();
    for step in group.steps.iter().filter(|step| has(&step.fingerprint_column)) {
        let before = made_before(&snapshot, step)?;
        let reads_others = before.is_some_and(|made| made["inputs"] != serde_json::json!(step.inputs));
        let lacks_outputs = step.child.is_none() && !step.outputs.iter().all(|output| has(output.name()));
        if reads_others || lacks_outputs {
            group.table.drop_columns(&[&step.fingerprint_column]).await?;
        }
    }
    Ok(())
}

/// Returns the table's record of how the outputs of `step` were made before.
///
/// # Errors
/// `Corrupt` for a record that no run wrote.
fn made_before(snapshot: &Snapshot, step: &PlannedStep) -> Result<Option<Value>> {
    let property = format!("{DERIVED_PREFIX}{}", step.label());
    let Some(made) = snapshot.properties().get(&property) else { return Ok(None) };
    let unreadable = |source| {
        Error::corrupt(format!("property `{property}` of table `{}` is not JSON", step.table)).with_source(source)
    };
    serde_json::from_str(made).map(Some).map_err(unreadable)
}
