//! The table functions `vector_search`, `text_search`, `hybrid_search` and `more_like`.

use std::collections::HashMap;
use std::sync::Arc;

use cenote_base::Error;
use cenote_index::{IndexKind, K_MAX, Metric};
use cenote_store::Filter;
use datafusion::catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::constant;
use super::plan::{SearchKind, SearchSpec, VectorSearch, VectorSource};
use super::table::SearchTable;
use crate::fault::external;
use crate::table::pinned::{Pinned, PinnedTable};

/// One of the search functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FunctionKind {
    Vector,
    Text,
    Hybrid,
    MoreLike,
}

impl FunctionKind {
    const ALL: [Self; 4] = [Self::Vector, Self::Text, Self::Hybrid, Self::MoreLike];

    fn name(self) -> &'static str {
        match self {
            Self::Vector => "vector_search",
            Self::Text => "text_search",
            Self::Hybrid => "hybrid_search",
            Self::MoreLike => "more_like",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Vector => "vector_search('table', 'column', vector, k [, 'filter'])",
            Self::Text => "text_search('table', 'query', k [, 'filter'])",
            Self::Hybrid => "hybrid_search('table', 'column', vector, 'query', k [, 'filter'])",
            Self::MoreLike => "more_like('table', 'column', 'key' [, 'key'..], k [, 'filter'])",
        }
    }
}

/// Returns whether `name` is a search function, whose first argument names a table.
pub(crate) fn is_search(name: &str) -> bool {
    FunctionKind::ALL.iter().any(|kind| kind.name() == name)
}

/// Returns the names of the search functions.
pub(crate) fn names() -> impl Iterator<Item = String> {
    FunctionKind::ALL.iter().map(|kind| kind.name().to_owned())
}

/// Returns the search functions over the tables that one query sees.
pub(crate) fn functions(pinned: &Arc<Pinned>) -> HashMap<String, Arc<TableFunction>> {
    let function = |kind: FunctionKind| {
        let implementation = Arc::new(SearchFunction { kind, pinned: Arc::clone(pinned) });
        (kind.name().to_owned(), Arc::new(TableFunction::new(kind.name().to_owned(), implementation)))
    };
    FunctionKind::ALL.into_iter().map(function).collect()
}

/// A search function over the tables that one query sees.
#[derive(Debug)]
struct SearchFunction {
    kind: FunctionKind,
    pinned: Arc<Pinned>,
}

impl TableFunctionImpl for SearchFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let mut args = ArgumentReader { kind: self.kind, args: &args, at: 0 };
        let name = args.text("the table")?;
        // Only tables named by literals were pinned before planning.
        let table = self.pinned.get(&name).ok_or_else(|| external(self.pinned.unknown(&name)))?;
        let mut subquery = None;
        let search = match self.kind {
            FunctionKind::Vector => SearchKind::Vector(args.vector_search(&table, &mut subquery)?),
            FunctionKind::Text => SearchKind::Text { words: searchable(&table, args.text("the words")?)? },
            FunctionKind::Hybrid => SearchKind::Hybrid {
                vector: args.vector_search(&table, &mut subquery)?,
                words: searchable(&table, args.text("the words")?)?,
            },
            FunctionKind::MoreLike => {
                let (column, metric) = args.vector_column(&table)?;
                let width = table.snapshot.primary_key().columns().len();
                let key = (0..width).map(|_| args.key()).collect::<Result<Vec<_>>>()?;
                SearchKind::Vector(VectorSearch { column, metric, source: VectorSource::Row(key) })
            }
        };
        let k = args.count("k")?;
        let filter = match args.is_done() {
            true => None,
            false => Some(Filter::Sql(args.text("the filter")?)),
        };
        if !args.is_done() {
            return Err(args.wrong("too many arguments"));
        }
        let spec = SearchSpec { table, search, k, filter, fill: false };
        Ok(Arc::new(SearchTable::new(spec, subquery)))
    }
}

/// Checks that `table` has a full-text index, before anything runs; returns `words`.
fn searchable(table: &PinnedTable, words: String) -> Result<String> {
    if table.indexes.iter().any(|index| matches!(index.kind, IndexKind::FullText { .. })) {
        return Ok(words);
    }
    Err(external(Error::not_found(format!(
        "table `{0}` has no full-text index; make one with `CREATE INDEX ON {0} USING text (COLUMN)`",
        table.name
    ))))
}

/// The arguments of a call, read one after the other.
struct ArgumentReader<'a, 'e, 's> {
    kind: FunctionKind,
    args: &'a TableFunctionArgs<'e, 's>,
    at: usize,
}

impl ArgumentReader<'_, '_, '_> {
    fn is_done(&self) -> bool {
        self.at >= self.args.exprs().len()
    }

    fn wrong(&self, what: impl std::fmt::Display) -> datafusion::error::DataFusionError {
        external(Error::invalid_input(format!("{}: {what}; write {}", self.kind.name(), self.kind.usage())))
    }

    fn next(&mut self, what: &str) -> Result<&Expr> {
        let expr = self.args.exprs().get(self.at).ok_or_else(|| self.wrong(format!("{what} is missing")))?;
        self.at += 1;
        Ok(expr)
    }

    fn value(&mut self, what: &str) -> Result<datafusion::common::ScalarValue> {
        let session = self.args.session();
        constant::evaluate(self.next(what)?, session)
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let value = self.value(what)?;
        constant::text(&value, what).map_err(|error| self.explain(error))
    }

    fn count(&mut self, what: &str) -> Result<usize> {
        let value = self.value(what)?;
        let count = constant::count(&value, what).map_err(|error| self.explain(error))?;
        match (1..=K_MAX).contains(&count) {
            true => Ok(count),
            false => Err(self.wrong(format!("{what} must be from 1 to {K_MAX}, found {count}"))),
        }
    }

    fn key(&mut self) -> Result<String> {
        let value = self.value("the key")?;
        match value.is_null() {
            true => Err(self.wrong("a key is never null")),
            false => Ok(value.to_string()),
        }
    }

    /// Reads the name of a column of vectors, and a vector or the subquery for one.
    fn vector_search(&mut self, table: &PinnedTable, subquery: &mut Option<LogicalPlan>) -> Result<VectorSearch> {
        let (column, metric) = self.vector_column(table)?;
        let source = self.vector(table, &column, subquery)?;
        Ok(VectorSearch { column, metric, source })
    }

    /// Reads the name of a column of vectors; returns it with the metric of its index.
    fn vector_column(&mut self, table: &PinnedTable) -> Result<(String, Metric)> {
        let column = self.text("the column")?;
        cenote_index::vector_dimensions(&table.snapshot, &column)
            .map_err(|error| external(error.context(format!("table `{}`", table.name))))?;
        let metric = table.indexes.iter().filter(|index| index.column == column).find_map(|index| index.metric);
        Ok((column, metric.unwrap_or_default()))
    }

    fn vector(
        &mut self,
        table: &PinnedTable,
        column: &str,
        subquery: &mut Option<LogicalPlan>,
    ) -> Result<VectorSource> {
        if let Some(Expr::ScalarSubquery(scalar)) = self.args.exprs().get(self.at) {
            self.at += 1;
            *subquery = Some(scalar.subquery.as_ref().clone());
            // A placeholder: the subquery's plan replaces it when the query is planned.
            return Ok(VectorSource::Constant(Vec::new()));
        }
        let value = self.value("the vector")?;
        let vector = constant::vector(&value)
            .ok_or_else(|| self.wrong(format!("{} is not a vector of numbers", value.data_type())))?;
        let dimensions = cenote_index::vector_dimensions(&table.snapshot, column).map_err(external)?;
        match vector.len() == dimensions {
            true => Ok(VectorSource::Constant(vector)),
            false => Err(external(Error::invalid_input(format!(
                "the query vector has {} numbers, and column `{column}` has vectors of {dimensions}",
                vector.len()
            )))),
        }
    }

    fn explain(&self, error: datafusion::error::DataFusionError) -> datafusion::error::DataFusionError {
        self.wrong(crate::fault::query_error(error))
    }
}
