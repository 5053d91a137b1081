//! Tables as they will be while a recipe runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use cenote_base::{Error, Result};
use cenote_store::{Filter, PrimaryKey, Snapshot};

use super::step::Child;
use crate::recipe::Keep;

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
}

/// The output of a step that makes a column.
pub(super) struct Maker {
    /// The step's number.
    pub(super) step: usize,
    /// The name of the operator's output field.
    pub(super) field: String,
}

impl PlannedTable {
    /// Plans the table of `snapshot`.
    pub(super) fn stored(snapshot: &Snapshot) -> Self {
        let (schema, key) = (snapshot.schema().as_ref().clone(), snapshot.primary_key().clone());
        Self { schema, key, made_by: HashMap::new(), kept: Vec::new(), stored: Arc::clone(snapshot.full_schema()) }
    }

    /// Plans a child table, whose columns are those of `stored` before the recipe, if it exists.
    pub(super) fn child(child: &Child, stored: Option<SchemaRef>) -> Result<Self> {
        Ok(Self {
            schema: child.schema.as_ref().clone(),
            key: PrimaryKey::new(&child.schema, &child.key)?,
            made_by: HashMap::new(),
            kept: Vec::new(),
            stored: stored.unwrap_or_else(|| Arc::clone(&child.schema)),
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
    pub(super) fn filter(&self, own: Option<&String>) -> Option<String> {
        let predicates: Vec<String> = own.into_iter().chain(&self.kept).map(|one| format!("({one})")).collect();
        (!predicates.is_empty()).then(|| predicates.join(" AND "))
    }

    /// Returns the columns that `filter` compares.
    ///
    /// # Errors
    /// `InvalidInput` for a filter that does not fit the table.
    pub(super) fn filter_columns(&self, filter: Option<&str>) -> Result<BTreeSet<String>> {
        match filter {
            Some(filter) => Filter::from(filter).compared(&Arc::new(self.schema.clone())),
            None => Ok(BTreeSet::new()),
        }
    }

    /// Keeps only rows with a `score` within `keep` for later steps.
    pub(super) fn keep(&mut self, keep: &Keep, score: &str) {
        self.kept.push(keep.predicate(score));
    }

    /// Adds the column `output`. A column of source data is never overwritten: a column that a step made before
    /// is told from it by the fingerprint column beside it.
    pub(super) fn add_output(&mut self, maker: Maker, output: &Field, fingerprint_column: &str) -> Result<()> {
        let name = output.name();
        let derived_before = self.stored.field_with_name(fingerprint_column).is_ok();
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
            Ok(existing) if existing.data_type() != output.data_type() => {
                return Err(Error::invalid_input(format!(
                    "column `{name}` exists as {}, and the step would make it {}: drop it or rename the output",
                    existing.data_type(),
                    output.data_type()
                )));
            }
            Ok(_) if self.stored.field_with_name(name).is_ok() && !derived_before => {
                return Err(Error::invalid_input(format!(
                    "column `{name}` holds data that no step made, and the step would overwrite it: rename the output"
                )));
            }
            Ok(_) => {}
            Err(_) => {
                let fields = self.schema.fields().iter().cloned().chain([Arc::new(output.clone())]);
                self.schema = Schema::new(fields.collect::<Vec<_>>());
            }
        }
        self.made_by.insert(name.clone(), maker);
        Ok(())
    }
}
