//! Tables as they will be while a recipe runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use cenote_base::{Error, Result};
use cenote_store::{Filter, PrimaryKey, Snapshot};

use super::step::Child;
use crate::recipe::Keep;
use crate::record::derivation::derivations;

/// A table as it will be when the steps so far have run.
pub(super) struct PlannedTable {
    schema: Schema,
    key: PrimaryKey,
    /// The maker of each derived column.
    made_by: HashMap<String, Maker>,
    /// The predicates of the filters so far.
    kept: Vec<String>,
    /// The table's columns before this recipe, including hidden ones.
    stored: SchemaRef,
    /// The columns that recipes have derived before.
    derived: BTreeSet<String>,
}

/// The output of a step that makes a column.
pub(super) struct Maker {
    /// The step's number.
    pub(super) step: usize,
    /// The name of the operator's output field.
    pub(super) field: String,
}

/// The rows that a step applies to.
pub(super) struct RowFilter {
    pub(super) predicate: String,
    /// The columns that the predicate compares.
    pub(super) columns: BTreeSet<String>,
}

impl PlannedTable {
    /// Plans the table of `snapshot`.
    pub(super) fn stored(snapshot: &Snapshot) -> Self {
        Self {
            schema: snapshot.schema().as_ref().clone(),
            key: snapshot.primary_key().clone(),
            made_by: HashMap::new(),
            kept: Vec::new(),
            stored: Arc::clone(snapshot.full_schema()),
            derived: derivations(snapshot).into_keys().collect(),
        }
    }

    /// Plans a child table, which is as in `stored` before the recipe, if it exists.
    ///
    /// # Errors
    /// `InvalidInput` when a column has another type than the child table needs.
    pub(super) fn child(child: &Child, stored: Option<&Snapshot>) -> Result<Self> {
        let mut fields = stored.map_or_else(Vec::new, |stored| stored.schema().fields().to_vec());
        for field in child.schema.fields() {
            match fields.iter().find(|existing| existing.name() == field.name()) {
                Some(existing) => check_type(existing, field)?,
                None => fields.push(Arc::clone(field)),
            }
        }
        Ok(Self {
            schema: Schema::new(fields),
            key: PrimaryKey::new(&child.schema, &child.key)?,
            made_by: HashMap::new(),
            kept: Vec::new(),
            stored: Arc::clone(stored.map_or(&child.schema, Snapshot::full_schema)),
            derived: stored.map_or_else(BTreeSet::new, |stored| derivations(stored).into_keys().collect()),
        })
    }

    /// Returns the visible columns.
    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns the primary key.
    pub(super) fn key(&self) -> &PrimaryKey {
        &self.key
    }

    /// Returns the maker of `column`; `None` for a column of source data.
    pub(super) fn maker(&self, column: &str) -> Option<&Maker> {
        self.made_by.get(column)
    }

    /// Returns the rows that a step with the predicate `own` applies to: those that the filters so far keep, too.
    ///
    /// # Errors
    /// `InvalidInput` for a predicate that does not fit the table.
    pub(super) fn filter(&self, own: Option<&String>) -> Result<Option<RowFilter>> {
        let schema = Arc::new(self.schema.clone());
        // Alone it must be a predicate: what closes a parenthesis of its own accord would change the meaning of others.
        own.map(|own| Filter::from(own.as_str()).compared(&schema)).transpose()?;
        // It may end with a comment.
        let predicates: Vec<String> = own.into_iter().chain(&self.kept).map(|one| format!("({one}\n)")).collect();
        if predicates.is_empty() {
            return Ok(None);
        }
        let predicate = predicates.join(" AND ");
        let columns = Filter::from(predicate.as_str()).compared(&schema)?;
        Ok(Some(RowFilter { predicate, columns }))
    }

    /// Keeps only rows with a `score` within `keep` for later steps.
    pub(super) fn keep(&mut self, keep: &Keep, score: &str) {
        self.kept.push(keep.predicate(score));
    }

    /// Adds the column `output`. A column of source data is never overwritten: a column that a step made before
    /// is told from it by the table's record of derived columns, or by the fingerprint column beside it.
    pub(super) fn add_output(&mut self, maker: Maker, output: &Field, fingerprint_column: &str) -> Result<()> {
        let name = output.name();
        // Columns and their fingerprints are added in one version, before it is on record that they are derived.
        let derived_before = self.derived.contains(name) || self.stored.field_with_name(fingerprint_column).is_ok();
        if self.made_by.contains_key(name) {
            return Err(Error::invalid_input(format!(
                "column `{name}` is made by an earlier step: rename it with `output`"
            )));
        }
        if self.key.schema().index_of(name).is_ok() {
            return Err(Error::invalid_input(format!(
                "column `{name}` is part of the primary key: rename it with `output`"
            )));
        }
        match self.schema.field_with_name(name) {
            Ok(existing) => {
                check_type(existing, output)?;
                if self.stored.field_with_name(name).is_ok() && !derived_before {
                    return Err(Error::invalid_input(format!(
                        "column `{name}` holds data that no step made, and the step would overwrite it: rename the \
                         output"
                    )));
                }
            }
            Err(_) => {
                let fields = self.schema.fields().iter().cloned().chain([Arc::new(output.clone())]);
                self.schema = Schema::new(fields.collect::<Vec<_>>());
            }
        }
        self.made_by.insert(name.clone(), maker);
        Ok(())
    }
}

/// Checks that `existing` has the type of `output`, which a step would write to it.
fn check_type(existing: &Field, output: &Field) -> Result<()> {
    if existing.data_type() == output.data_type() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "column `{}` exists as {}, and the step would make it {}: drop it or rename the output",
        output.name(),
        existing.data_type(),
        output.data_type()
    )))
}
