//! The predicates that the store evaluates exactly as DataFusion would.

use arrow::datatypes::{DataType, Schema};
use cenote_store::{Filter, is_blob};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Between, InList, Like};
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// Returns whether the store finds exactly the rows that satisfy `filter`: comparisons, lists, patterns and null checks
/// of plain columns and literals, and their combinations.
pub(crate) fn is_exact(filter: &Expr, schema: &Schema) -> bool {
    let recurse = |expr: &Expr| is_exact(expr, schema);
    let operand = |expr: &Expr| is_plain_column(expr, schema) || is_literal(expr);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            recurse(left) && recurse(right)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let compares = matches!(
                op,
                Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
            );
            compares && operand(left) && operand(right)
        }
        Expr::Not(inner) => recurse(inner),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => is_plain_column(inner, schema) || is_vector(inner, schema),
        Expr::IsTrue(inner) | Expr::IsFalse(inner) => is_boolean(inner, schema),
        Expr::InList(InList { expr, list, .. }) => is_plain_column(expr, schema) && list.iter().all(is_literal),
        Expr::Like(Like { expr, pattern, escape_char: None, .. }) => {
            is_plain_column(expr, schema) && is_literal(pattern)
        }
        Expr::Between(Between { expr, low, high, .. }) => {
            is_plain_column(expr, schema) && is_literal(low) && is_literal(high)
        }
        column @ Expr::Column(_) => is_boolean(column, schema),
        _ => false,
    }
}

/// Joins `filters` to one filter for the store, which names columns without their table.
pub(crate) fn to_filter(filters: &[Expr]) -> Option<Expr> {
    conjunction(filters.iter().cloned().map(unnormalize_col))
}

/// Returns the text that EXPLAIN shows for `filter`.
pub(crate) fn show(filter: &Filter) -> String {
    match filter {
        Filter::Sql(text) => text.clone(),
        Filter::Expr(expr) => expr.human_display().to_string(),
    }
}

fn field_is(expr: &Expr, schema: &Schema, fits: impl Fn(&arrow::datatypes::Field) -> bool) -> bool {
    let Expr::Column(column) = expr else { return false };
    // The store would read a dot and other signs as a path into a nested column.
    column.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && schema.fields().find(&column.name).is_some_and(|(_, field)| !is_blob(field) && fits(field))
}

fn is_plain_column(expr: &Expr, schema: &Schema) -> bool {
    field_is(expr, schema, |field| is_plain(field.data_type()))
}

fn is_boolean(expr: &Expr, schema: &Schema) -> bool {
    field_is(expr, schema, |field| field.data_type() == &DataType::Boolean)
}

fn is_vector(expr: &Expr, schema: &Schema) -> bool {
    field_is(expr, schema, |field| matches!(field.data_type(), DataType::FixedSizeList(_, _)))
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if is_plain(&value.data_type()) && !matches!(value, ScalarValue::Null))
}

fn is_plain(data_type: &DataType) -> bool {
    data_type.is_primitive()
        || matches!(
            data_type,
            DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary
        )
}
