//! The predicates that the store evaluates exactly as DataFusion would.

use arrow::datatypes::{DataType, Schema};
use cenote_store::{Filter, is_blob};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Between, InList, Like};
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, binary_expr};

use crate::scalar::canonical;

/// Returns whether the store finds exactly the rows that satisfy `filter`: comparisons, lists, patterns and null checks
/// of plain columns and literals, and their combinations.
pub(crate) fn is_exact(filter: &Expr, schema: &Schema) -> bool {
    for_store(filter, schema).is_some()
}

/// Joins `filters`, all of them [exact](is_exact), to one filter for the store, which names columns without their
/// table.
pub(crate) fn to_filter(filters: &[Expr], schema: &Schema) -> Option<Expr> {
    conjunction(filters.iter().filter_map(|filter| for_store(filter, schema)).map(unnormalize_col))
}

/// Returns the filter with which the store finds exactly the rows that satisfy `filter`.
fn for_store(filter: &Expr, schema: &Schema) -> Option<Expr> {
    let recurse = |expr: &Expr| for_store(expr, schema);
    if let Some(filter) = of_floats(filter, schema) {
        return Some(filter);
    }
    let operand = |expr: &Expr| is_plain_column(expr, schema) || is_literal(expr);
    let exact = match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            return Some(binary_expr(recurse(left)?, *op, recurse(right)?));
        }
        Expr::Not(inner) => return recurse(inner).map(|inner| Expr::Not(Box::new(inner))),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let compares = matches!(
                op,
                Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
            );
            compares && operand(left) && operand(right)
        }
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => {
            is_plain_column(inner, schema) || is_vector(inner, schema) || is_float(inner, schema)
        }
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
    };
    exact.then(|| filter.clone())
}

/// Returns the filter for the store that compares a float column with numbers as `filter` does. The store takes −0.0
/// for 0.0 in a literal, but a NaN with a sign for the least of all floats.
fn of_floats(filter: &Expr, schema: &Schema) -> Option<Expr> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (left, op, right) = match is_literal(left) {
                true => (right, op.swap()?, left),
                false => (left, *op, right),
            };
            let column = float_column(left, schema)?;
            let literal = float_literal(right, &column, schema)?;
            let least = || ScalarValue::Float64(Some(f64::NEG_INFINITY));
            let least = float_literal(&Expr::Literal(least(), None), &column, schema)?;
            let compared = binary_expr(column.clone(), op, literal);
            match op {
                Operator::Eq | Operator::NotEq => Some(compared),
                Operator::Lt | Operator::LtEq => Some(compared.and(column.gt_eq(least))),
                Operator::Gt | Operator::GtEq => Some(compared.or(column.lt(least))),
                _ => None,
            }
        }
        Expr::InList(InList { expr, list, negated }) => {
            let column = float_column(expr, schema)?;
            let list = list.iter().map(|item| float_literal(item, &column, schema)).collect::<Option<Vec<_>>>()?;
            Some(column.in_list(list, *negated))
        }
        Expr::Between(Between { expr, negated: false, low, high }) => {
            let column = float_column(expr, schema)?;
            Some(column.clone().between(float_literal(low, &column, schema)?, float_literal(high, &column, schema)?))
        }
        _ => None,
    }
}

/// Returns the float column of which `expr` is the canonical, perhaps wider value.
fn float_column(expr: &Expr, schema: &Schema) -> Option<Expr> {
    let column = match canonical::inner(expr) {
        Expr::Cast(cast) if cast.field.data_type().is_floating() => cast.expr.as_ref(),
        other => other,
    };
    is_float(column, schema).then(|| column.clone())
}

/// Returns the number `expr` in the type of `column`, if that type has it.
fn float_literal(expr: &Expr, column: &Expr, schema: &Schema) -> Option<Expr> {
    let (Expr::Literal(value, _), Expr::Column(column)) = (expr, column) else { return None };
    let number = |value: &ScalarValue| match value.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(number) => number,
        _ => None,
    };
    let data_type = schema.field_with_name(&column.name).ok()?.data_type();
    let narrow = value.cast_to(data_type).ok()?;
    // A NaN equals nothing, not even itself.
    (value.data_type().is_floating() && number(value)? == number(&narrow)?).then(|| Expr::Literal(narrow, None))
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

fn is_float(expr: &Expr, schema: &Schema) -> bool {
    field_is(expr, schema, |field| field.data_type().is_floating())
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

/// Returns whether the store compares values of `data_type` as DataFusion does.
fn is_plain(data_type: &DataType) -> bool {
    data_type.is_primitive() && !data_type.is_floating()
        || matches!(
            data_type,
            DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary
        )
}
