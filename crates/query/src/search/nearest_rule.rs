//! The optimizer rule that turns `ORDER BY l2_distance(column, constant) LIMIT k` into a search of the column's index.

use std::sync::Arc;

use cenote_index::{K_MAX, Metric, is_packed_byte};
use cenote_store::Filter;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, Sort, SortExpr, TableScan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::constant;
use super::plan::{SearchKind, SearchSpec, VectorSearch, VectorSource};
use super::table::SearchTable;
use crate::scalar::canonical;
use crate::scalar::distance::DistanceFunction;
use crate::table::pinned::PinnedTable;
use crate::table::pushdown;
use crate::table::stored::StoredTable;

/// The rule that replaces the table scan under a sort with a limit by a search. The sort stays and orders the k rows by
/// their exact distances. The rule does not apply where the result could differ: with several sort keys, with nulls
/// first, or with a filter that the store does not evaluate.
#[derive(Debug, Default)]
pub(crate) struct NearestRule;

impl OptimizerRule for NearestRule {
    fn name(&self) -> &str {
        "nearest_by_index"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Sort(sort) = &plan else { return Ok(Transformed::no(plan)) };
        let Some(search) = search_of(sort) else { return Ok(Transformed::no(plan)) };
        // Only one scan is below, because `search_of` followed a path without branches.
        let input = Arc::unwrap_or_clone(Arc::clone(&sort.input)).transform_down(|node| match node {
            LogicalPlan::TableScan(scan) => {
                let source = provider_as_source(Arc::new(SearchTable::in_place(search.clone())));
                let scan = TableScan::try_new(scan.table_name, source, scan.projection, Vec::new(), None)?;
                Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let sort = Sort { expr: sort.expr.clone(), input: Arc::new(input.data), fetch: sort.fetch };
        Ok(Transformed::yes(LogicalPlan::Sort(sort)))
    }
}

/// Returns the search that finds the rows that `sort` would keep.
fn search_of(sort: &Sort) -> Option<SearchSpec> {
    let k = sort.fetch.filter(|k| (1..=K_MAX).contains(k))?;
    let [SortExpr { expr, asc, nulls_first: false }] = sort.expr.as_slice() else { return None };
    let (scan, expr) = scan_under(&sort.input, expr.clone())?;
    let table = stored(scan)?;
    let Distance { metric, nearest_is_least, column, vector } = distance(&expr)?;
    let indexed = table.indexes.iter().any(|index| index.column == column && index.metric == Some(metric));
    if !indexed || *asc != nearest_is_least || scan.fetch.is_some() {
        return None;
    }
    // A vector that the search would refuse is left to the sort, which computes the distances or reports its own error.
    let fits = cenote_index::vector_dimensions(&table.snapshot, &column).ok() == Some(vector.len())
        && vector.iter().all(|number| number.is_finite())
        && (metric != Metric::Cosine || vector.iter().any(|number| *number != 0.0))
        && (metric != Metric::Hamming || vector.iter().all(|number| is_packed_byte(*number)));
    if !fits || !scan.filters.iter().all(|filter| pushdown::is_exact(filter, table.snapshot.schema())) {
        return None;
    }
    let filter = pushdown::to_filter(&scan.filters, table.snapshot.schema()).map(Filter::from);
    let search = SearchKind::Vector(VectorSearch { column, metric, source: VectorSource::Constant(vector) });
    Some(SearchSpec { table, search, k, filter, fill: true })
}

/// Returns the table scan below `plan`, if there are only projections and aliases between them, and `expr` in terms of
/// the scan's columns.
fn scan_under(plan: &LogicalPlan, expr: Expr) -> Option<(&TableScan, Expr)> {
    match plan {
        LogicalPlan::TableScan(scan) => Some((scan, expr)),
        LogicalPlan::SubqueryAlias(alias) => {
            let below = alias.input.schema();
            let renamed = replace_columns(expr, |at| Some(Expr::from(below.qualified_field(at))), plan)?;
            scan_under(&alias.input, renamed)
        }
        LogicalPlan::Projection(projection) => {
            let computed = |at: usize| projection.expr.get(at).cloned().map(Expr::unalias);
            let replaced = replace_columns(expr, computed, plan)?;
            scan_under(&projection.input, replaced)
        }
        _ => None,
    }
}

/// Replaces each column of `expr`, which is in terms of `plan`'s output, by the expression at its position `below`.
fn replace_columns(expr: Expr, below: impl Fn(usize) -> Option<Expr>, plan: &LogicalPlan) -> Option<Expr> {
    let mut known = true;
    let replaced = expr.transform_down(|node| match &node {
        Expr::Column(column) => {
            let replacement = plan.schema().maybe_index_of_column(column).and_then(&below);
            known &= replacement.is_some();
            let jump = datafusion::common::tree_node::TreeNodeRecursion::Jump;
            Ok(Transformed::new(replacement.unwrap_or(node), true, jump))
        }
        _ => Ok(Transformed::no(node)),
    });
    replaced.ok().map(|replaced| replaced.data).filter(|_| known)
}

fn stored(scan: &TableScan) -> Option<Arc<PinnedTable>> {
    let provider = source_as_provider(&scan.source).ok()?;
    provider.as_ref().downcast_ref::<StoredTable>().map(|table| Arc::clone(table.pinned()))
}

/// A sort key that is the distance of a column from a constant vector.
struct Distance {
    metric: Metric,
    /// Whether the nearest row has the least key.
    nearest_is_least: bool,
    column: String,
    vector: Vec<f32>,
}

/// Reads the sort key `expr` as a distance.
fn distance(expr: &Expr) -> Option<Distance> {
    let expr = canonical::inner(expr);
    if let Expr::Alias(alias) = expr {
        return distance(&alias.expr);
    }
    if let Expr::Negative(inner) = expr {
        let distance = distance(inner)?;
        return Some(Distance { nearest_is_least: !distance.nearest_is_least, ..distance });
    }
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let inner: &dyn std::any::Any = func.inner().as_ref();
    let metric = inner.downcast_ref::<DistanceFunction>()?.metric();
    let [left, right] = args.as_slice() else { return None };
    let (column, vector) = match (column_of(left), column_of(right)) {
        (Some(column), None) => (column, literal_of(right)?),
        (None, Some(column)) => (column, literal_of(left)?),
        _ => return None,
    };
    Some(Distance { metric, nearest_is_least: metric != Metric::Dot, column, vector })
}

fn column_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Column(column) => Some(column.name.clone()),
        // The list's item may differ from the function's argument in its name alone, which adds a cast.
        Expr::Cast(Cast { expr, .. }) => column_of(expr),
        _ => None,
    }
}

fn literal_of(expr: &Expr) -> Option<Vec<f32>> {
    let value: &ScalarValue = match expr {
        Expr::Literal(value, _) => value,
        Expr::Cast(Cast { expr, .. }) => return literal_of(expr),
        _ => return None,
    };
    constant::vector(value)
}
