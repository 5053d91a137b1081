//! Constants of a query: vectors, texts and counts that are written in it or can be computed while it is planned.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Schema};
use cenote_base::Error;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use std::sync::Arc;

use crate::fault::external;

/// Computes `expr`, which names no column.
pub(super) fn evaluate(expr: &Expr, session: &dyn Session) -> Result<ScalarValue> {
    if let Expr::Literal(value, _) = expr {
        return Ok(value.clone());
    }
    let physical = session.create_physical_expr(expr.clone(), &DFSchema::empty())?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
    let array = physical.evaluate(&row)?.into_array(1)?;
    ScalarValue::try_from_array(&array, 0)
}

/// Returns `value` as a vector; `None` when it is null, or not a list of numbers without nulls.
pub(super) fn vector(value: &ScalarValue) -> Option<Vec<f32>> {
    let list: ArrayRef = value.to_array().ok()?;
    if list.is_null(0) {
        return None;
    }
    let items = match list.data_type() {
        DataType::List(_) => list.as_list::<i32>().value(0),
        DataType::LargeList(_) => list.as_list::<i64>().value(0),
        DataType::FixedSizeList(_, _) => list.as_fixed_size_list().value(0),
        _ => return None,
    };
    if !items.data_type().is_numeric() {
        return None;
    }
    let items = cast(&items, &DataType::Float32).ok()?;
    (items.null_count() == 0).then(|| items.as_primitive::<Float32Type>().values().to_vec())
}

/// Returns `value` as text.
///
/// # Errors
/// `InvalidInput` when it is not a text, which the message calls `what`.
pub(super) fn text(value: &ScalarValue, what: &str) -> Result<String> {
    match value.try_as_str() {
        Some(Some(text)) => Ok(text.to_owned()),
        _ => Err(external(Error::invalid_input(format!("{what} must be a text, found {value}")))),
    }
}

/// Returns `value` as a number of rows.
///
/// # Errors
/// `InvalidInput` when it is not a whole number from 0, which the message calls `what`.
pub(super) fn count(value: &ScalarValue, what: &str) -> Result<usize> {
    let number = match value.cast_to(&DataType::UInt64) {
        Ok(ScalarValue::UInt64(Some(number))) if value.data_type().is_integer() => usize::try_from(number).ok(),
        _ => None,
    };
    number.ok_or_else(|| external(Error::invalid_input(format!("{what} must be a whole number ≥ 1, found {value}"))))
}
