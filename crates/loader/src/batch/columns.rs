//! The columns of batches and their transforms, checked against the sources.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result, unknown};
use cenote_store::is_blob;

use super::packing::Packing;
use super::transform::{Transform, TransformChain};
use crate::sources::selection::SourceSelection;

/// Returns whether the column may hold nulls in any source.
pub(crate) fn is_nullable(sources: &[SourceSelection], column: &str) -> bool {
    sources.iter().any(|source| source.snapshot().full_schema().field_with_name(column).is_ok_and(Field::is_nullable))
}

/// Returns the columns of the batches: all visible ones, or those of `wanted`.
///
/// # Errors
/// `NotFound` for a column that a source lacks; `InvalidInput` for one whose type differs between sources.
pub(crate) fn columns(selections: &[SourceSelection], wanted: Option<&[String]>) -> Result<Vec<String>> {
    let Some(first) = selections.first() else {
        return Err(Error::invalid_input("a loader needs at least one source"));
    };
    let mut seen = HashSet::new();
    let columns: Vec<String> = match wanted {
        // A column that is named twice comes once, as in every other read.
        Some(wanted) => wanted.iter().filter(|column| seen.insert(*column)).cloned().collect(),
        None => first.snapshot().schema().fields().iter().map(|field| field.name().clone()).collect(),
    };
    for column in &columns {
        let mut types = selections.iter().map(|selection| {
            let schema = selection.snapshot().full_schema();
            schema.field_with_name(column).map(|field| field.data_type()).map_err(|_| {
                let known = selection.snapshot().schema().fields().iter().map(|field| field.name().as_str());
                unknown("column", column, known)
            })
        });
        let Some(expected) = types.next().transpose()? else { continue };
        for other in types {
            let other = other?;
            if other != expected {
                return Err(Error::invalid_input(format!(
                    "column `{column}` is {expected} in one source and {other} in another"
                )));
            }
        }
    }
    Ok(columns)
}

/// Returns the checked transforms of media columns.
///
/// # Errors
/// `InvalidInput` for a column that holds no media or is not read, and for transforms that do not fit together.
pub(crate) fn chains(
    selections: &[SourceSelection],
    columns: &[String],
    transforms: &[&(String, Vec<Transform>)],
) -> Result<Vec<(String, TransformChain)>> {
    let chain = |(name, steps): &&(String, Vec<Transform>)| {
        let field = first_field(selections, name);
        let is_bytes = field.is_some_and(|field| {
            is_blob(field) || matches!(field.data_type(), DataType::Binary | DataType::LargeBinary)
        });
        if !is_bytes || !columns.contains(name) {
            return Err(Error::invalid_input(format!("column `{name}` holds no pictures that this loader reads")));
        }
        Ok((name.clone(), TransformChain::new(steps.clone())?))
    };
    transforms.iter().map(chain).collect()
}

/// Returns the checked packing of columns.
///
/// # Errors
/// `InvalidInput` for a column that is not read or does not hold lists of whole numbers.
pub(crate) fn packings(
    selections: &[SourceSelection],
    columns: &[String],
    transforms: &[&(String, Vec<Transform>)],
) -> Result<Vec<(String, Packing)>> {
    let packing = |(name, steps): &&(String, Vec<Transform>)| {
        let field = first_field(selections, name);
        let (Some(field), [Transform::Pack { length, pad }], true) = (field, &steps[..], columns.contains(name)) else {
            return Err(Error::invalid_input(format!("pack: this loader reads no column `{name}`")));
        };
        Ok((name.clone(), Packing::new(*length, *pad, field)?))
    };
    transforms.iter().map(packing).collect()
}

/// Returns the field of a column in the first source; all others have one of the same type.
fn first_field<'a>(selections: &'a [SourceSelection], column: &str) -> Option<&'a Field> {
    selections.first()?.snapshot().full_schema().field_with_name(column).ok()
}
