//! The analyzer rule that gives floats one order, the order of PostgreSQL: −0.0 equals 0.0, and every NaN equals every
//! other and is greater than all numbers. Arrow's kernels compare floats bit by bit, so the rule makes the operands of
//! comparisons, and the keys of joins, groups and sorts, canonical.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{AggregateFunction, InSubquery, ScalarFunction, SetComparison, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Case, Distinct, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Subquery,
};
use datafusion::optimizer::AnalyzerRule;

use super::canonical::{canonical, has_floats};

/// Functions that compare their arguments.
const COMPARING: [&str; 14] = [
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_all",
    "array_distinct",
    "array_except",
    "array_intersect",
    "array_union",
    "nullif",
    "greatest",
    "least",
];

/// The rule. It runs after types are coerced, so both sides of a comparison have one type.
#[derive(Debug, Default)]
pub(crate) struct FloatOrder;

impl AnalyzerRule for FloatOrder {
    fn name(&self) -> &str {
        "float_order"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| rewrite_plan(plan).map(Transformed::yes)).map(|plan| plan.data)
    }
}

fn rewrite_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let is_sort = matches!(plan, LogicalPlan::Sort(_));
    let has_keys = is_sort || matches!(plan, LogicalPlan::Join(_) | LogicalPlan::Aggregate(_));
    let plan = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_up(|expr| rewrite(expr, &schema).map(Transformed::yes))?.data;
        let expr = match expr {
            // An aggregate is a result, not a key.
            Expr::AggregateFunction(_) => expr,
            Expr::Alias(ref alias) if matches!(*alias.expr, Expr::AggregateFunction(_)) => expr,
            Expr::GroupingSet(_) => {
                expr.map_children(|key| {
                    let name = names.save(&key);
                    Ok(Transformed::yes(name.restore(operand(key, &schema)?)))
                })?
                .data
            }
            expr if has_keys => operand(expr, &schema)?,
            expr => expr,
        };
        Ok(Transformed::yes(if is_sort { expr } else { name.restore(expr) }))
    })?;
    match plan.data {
        LogicalPlan::Distinct(Distinct::All(input)) => {
            Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(canonical_rows(input)?))))
        }
        LogicalPlan::Distinct(Distinct::On(mut distinct)) => {
            let key = |expr: Expr| operand(expr, distinct.input.schema());
            distinct.on_expr = distinct.on_expr.into_iter().map(key).collect::<Result<_>>()?;
            for sort in distinct.sort_expr.iter_mut().flatten() {
                sort.expr = operand(sort.expr.clone(), distinct.input.schema())?;
            }
            Ok(LogicalPlan::Distinct(Distinct::On(distinct)))
        }
        plan => Ok(plan),
    }
}

/// Makes the operands of `expr` canonical if it compares them.
fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let boxed = |expr: Box<Expr>| operand(*expr, schema).map(Box::new);
    let all = |exprs: Vec<Expr>| exprs.into_iter().map(|expr| operand(expr, schema)).collect::<Result<Vec<_>>>();
    Ok(match expr {
        // DataFusion can only make a join of a correlated subquery that compares a plain column.
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if compares(op) && !left.contains_outer() && !right.contains_outer() =>
        {
            Expr::BinaryExpr(BinaryExpr { left: boxed(left)?, op, right: boxed(right)? })
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            Expr::Between(Between { expr: boxed(expr)?, negated, low: boxed(low)?, high: boxed(high)? })
        }
        Expr::InList(mut list) => {
            (list.expr, list.list) = (boxed(list.expr)?, all(list.list)?);
            Expr::InList(list)
        }
        Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
            Expr::InSubquery(InSubquery { expr: boxed(expr)?, subquery: canonical_subquery(subquery)?, negated })
        }
        Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) => {
            let (expr, subquery) = (boxed(expr)?, canonical_subquery(subquery)?);
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier })
        }
        Expr::Case(Case { expr: Some(expr), when_then_expr, else_expr }) => {
            let branches = when_then_expr.into_iter().map(|(when, then)| Ok((boxed(when)?, then)));
            let when_then_expr = branches.collect::<Result<Vec<_>>>()?;
            Expr::Case(Case { expr: Some(boxed(expr)?), when_then_expr, else_expr })
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if COMPARING.contains(&func.name()) => {
            Expr::ScalarFunction(ScalarFunction { func, args: all(args)? })
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
            if params.distinct || matches!(func.name(), "min" | "max") {
                params.args = all(params.args)?;
            }
            for sort in &mut params.order_by {
                sort.expr = operand(sort.expr.clone(), schema)?;
            }
            Expr::AggregateFunction(AggregateFunction { func, params })
        }
        Expr::WindowFunction(window) => {
            let WindowFunction { fun, mut params } = *window;
            if params.distinct || matches!(fun.name(), "min" | "max") {
                params.args = all(params.args)?;
            }
            params.partition_by = all(params.partition_by)?;
            for sort in &mut params.order_by {
                sort.expr = operand(sort.expr.clone(), schema)?;
            }
            Expr::WindowFunction(Box::new(WindowFunction { fun, params }))
        }
        other => other,
    })
}

fn compares(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Returns `expr`, made canonical if it has floats.
fn operand(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let data_type: DataType = expr.get_type(schema)?;
    Ok(if has_floats(&data_type) { canonical(expr) } else { expr })
}

/// Returns the rows of `plan`, with the same names and canonical floats.
fn canonical_rows(plan: Arc<LogicalPlan>) -> Result<LogicalPlan> {
    let plan = Arc::unwrap_or_clone(plan);
    if !plan.schema().fields().iter().any(|field| has_floats(field.data_type())) {
        return Ok(plan);
    }
    let column = |(qualifier, field): (Option<&_>, &Arc<_>)| {
        let column = Expr::from((qualifier, field));
        let renamed = NamePreserver::new_for_projection().save(&column);
        Ok(renamed.restore(operand(column, plan.schema())?))
    };
    let columns = plan.schema().iter().map(column).collect::<Result<Vec<_>>>()?;
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

fn canonical_subquery(subquery: Subquery) -> Result<Subquery> {
    Ok(Subquery { subquery: Arc::new(canonical_rows(subquery.subquery)?), ..subquery })
}
