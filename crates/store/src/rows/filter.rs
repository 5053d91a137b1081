//! Filters: which rows a scan wants.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use cenote_base::{Error, Result};
use lance::dataset::scanner::Scanner;
use lance::deps::datafusion::common::tree_node::TreeNode;
use lance::deps::datafusion::logical_expr::Volatility;
use lance::deps::datafusion::physical_plan::PhysicalExpr;
use lance::deps::datafusion::prelude::Expr;
use lance_datafusion::planner::Planner;

use crate::errors::lance_error;
use crate::rows::sql;

/// A condition on rows: a SQL predicate over the table's columns, or an expression of the query engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// A SQL predicate such as `width >= 640 AND format = 'jpeg'`.
    Sql(String),
    /// An expression that a planner pushes down.
    Expr(Box<Expr>),
}

impl From<&str> for Filter {
    fn from(text: &str) -> Self {
        Self::Sql(text.to_owned())
    }
}

impl From<String> for Filter {
    fn from(text: String) -> Self {
        Self::Sql(text)
    }
}

impl From<Expr> for Filter {
    fn from(expr: Expr) -> Self {
        Self::Expr(Box::new(expr))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(text) => text.fmt(f),
            Self::Expr(expr) => expr.fmt(f),
        }
    }
}

impl Filter {
    /// Checks that the filter is a condition on rows of `schema`, and returns the columns that it compares.
    ///
    /// # Errors
    /// `InvalidInput` when it does not parse, names another column, compares other types, or is not a condition.
    pub fn compared(&self, schema: &SchemaRef) -> Result<BTreeSet<String>> {
        let kind = self.predicate(schema)?.data_type(schema);
        match kind.map_err(|source| lance_error(source.into()).context(format!("filter `{self}`")))? {
            DataType::Boolean => Ok(self.columns(schema)?.into_iter().collect()),
            _ => Err(Error::invalid_input(format!("filter `{self}` is not a condition"))),
        }
    }

    /// Returns the filter as a physical expression over rows of `schema`.
    pub(crate) fn predicate(&self, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
        let planner = Planner::new(Arc::clone(schema));
        let expression = planner.optimize_expr(self.expression(schema)?);
        let predicate = expression.and_then(|expression| planner.create_physical_expr(&expression));
        predicate.map_err(|source| lance_error(source).context(format!("filter `{self}`")))
    }

    /// Returns whether the filter gives the same result for a row each time, that is, whether it depends neither on the
    /// time nor on chance.
    pub(crate) fn is_steady(&self, schema: &SchemaRef) -> Result<bool> {
        let varies = |node: &Expr| {
            Ok(matches!(node, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable))
        };
        let varies = self.expression(schema)?.exists(varies);
        varies
            .map(|varies| !varies)
            .map_err(|source| Error::internal(format!("read filter `{self}`")).with_source(source))
    }

    /// Returns the names of the columns that it compares.
    pub(crate) fn columns(&self, schema: &SchemaRef) -> Result<HashSet<String>> {
        Ok(self.expression(schema)?.column_refs().into_iter().map(|column| column.name.clone()).collect())
    }

    /// Returns the filter as a DataFusion expression, with the columns and types of `schema`.
    pub(crate) fn expression(&self, schema: &Schema) -> Result<Expr> {
        match self {
            Self::Sql(text) => sql::plan(text, schema).map_err(|error| error.context(format!("filter `{self}`"))),
            Self::Expr(expression) => Ok(expression.as_ref().clone()),
        }
    }

    /// Returns the error of a filter that fails on a row, with `source`.
    pub(crate) fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::invalid_input(format!("filter `{self}` fails on a row: {source}")).with_source(source)
    }

    /// Makes `scanner`, of a table with the columns of `schema`, scan only the rows that satisfy the filter.
    ///
    /// # Errors
    /// `InvalidInput` when it does not parse.
    pub fn apply(&self, scanner: &mut Scanner, schema: &Schema) -> Result<()> {
        scanner.filter_expr(self.expression(schema)?);
        Ok(())
    }
}
