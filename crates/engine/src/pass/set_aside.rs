//! Values that a table refuses: their rows fail, and the others go on.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::{filter, nullif};
use arrow::datatypes::{Field, UInt32Type};
use cenote_base::Result;
use cenote_operator::{Output, RowError};
use cenote_store::bad_vectors;

use crate::fault::internal;

/// Returns `output`, the columns `fields`, where the rows with vectors that a table refuses have failed. If they are
/// children, their parents have failed and have no children.
pub(super) fn set_aside(fields: &[Field], output: Output) -> Result<Output> {
    let mut reasons: BTreeMap<usize, String> = BTreeMap::new();
    for (field, column) in fields.iter().zip(&output.columns) {
        let reason = || format!("output `{}` is a vector with a number that is NaN, infinite or null", field.name());
        for row in bad_vectors(column) {
            reasons.entry(row).or_insert_with(reason);
        }
    }
    if reasons.is_empty() {
        return Ok(output);
    }
    let wrong = internal("set bad rows aside");
    let Output { columns, parents, mut errors } = output;
    let Some(parents) = parents else {
        let rows = columns.first().map_or(0, |column| column.len());
        let is_bad: BooleanArray = (0..rows).map(|row| Some(reasons.contains_key(&row))).collect();
        let columns = columns.iter().map(|column| nullif(column, &is_bad)).collect::<Result<_, _>>().map_err(wrong)?;
        errors.extend(reasons.into_iter().map(|(row, reason)| RowError { row, reason }));
        return Ok(Output { columns, parents: None, errors });
    };
    let reasons: BTreeMap<u32, String> =
        reasons.into_iter().map(|(row, reason)| (parents.value(row), reason)).collect();
    let is_kept: BooleanArray = parents.values().iter().map(|parent| Some(!reasons.contains_key(parent))).collect();
    let columns = columns.iter().map(|column| filter(column, &is_kept)).collect::<Result<_, _>>().map_err(&wrong)?;
    let parents = filter(&parents, &is_kept).map_err(wrong)?.as_primitive::<UInt32Type>().clone();
    errors.extend(reasons.into_iter().map(|(parent, reason)| RowError { row: parent as usize, reason }));
    Ok(Output { columns, parents: Some(parents), errors })
}
