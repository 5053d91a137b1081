//! Lossless casts of callers' values to the types of columns.
//!
//! A value fits if casting it back gives the same value, also inside lists and structs. Two kinds of values are judged
//! differently:
//!
//! - A float is rounded to a narrower float type, since even 0.1 is exact in none of them, unless it becomes infinite.
//! - Text is parsed. It need not be spelled like its value (`007`), but must not say more than the type holds: no
//!   microseconds for a column of seconds. A numeral for a float column is rounded like a literal.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, OffsetSizeTrait,
    StructArray, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use cenote_base::{Error, Result};

/// Characters of a value that an error shows.
const SHOWN_CHARS: usize = 60;

/// A cast array; `None` when a value would be lost.
type Cast = std::result::Result<Option<ArrayRef>, ArrowError>;

/// Casts `column` to the type of `field`.
///
/// # Errors
/// `InvalidInput` naming the column, and the first row whose value does not fit with that value.
pub(crate) fn exact(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let (name, wanted, given) = (field.name(), field.data_type(), column.data_type());
    let error = match values(column, wanted) {
        Ok(Some(column)) => return Ok(column),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let what = if can_cast_types(given, wanted) {
        let row = first_lost(column, wanted);
        format!("column `{name}` is {wanted} and cannot hold {} of row {row} as it is", shown(column, row))
    } else {
        format!("column `{name}` is {wanted}, found {given}")
    };
    let refused = Error::invalid_input(what);
    Err(match error {
        Some(source) => refused.with_source(source),
        None => refused,
    })
}

/// Returns the first row of `column` whose value does not fit, given that there is one.
fn first_lost(column: &ArrayRef, wanted: &DataType) -> usize {
    let (mut first, mut rows) = (0, column.len());
    while rows > 1 {
        let half = rows / 2;
        match values(&column.slice(first, half), wanted) {
            Ok(Some(_)) => (first, rows) = (first + half, rows - half),
            _ => rows = half,
        }
    }
    first
}

fn shown(column: &ArrayRef, row: usize) -> String {
    let text = array_value_to_string(column, row).unwrap_or_else(|_| format!("the {}", column.data_type()));
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn values(array: &ArrayRef, wanted: &DataType) -> Cast {
    use DataType::{Dictionary, FixedSizeList, LargeList, List, Map, Null, RunEndEncoded, Struct};
    match (array.data_type(), wanted) {
        (given, wanted) if given == wanted => Ok(Some(Arc::clone(array))),
        (Null, _) => cast(array, wanted).map(Some),
        (Dictionary(_, plain), _) => values(&cast(array, plain)?, wanted),
        (RunEndEncoded(_, plain), _) => values(&cast(array, plain.data_type())?, wanted),
        (List(_) | LargeList(_) | FixedSizeList(..), List(item) | LargeList(item) | FixedSizeList(item, _)) => {
            let list = match array.data_type() {
                List(_) => list(array.as_list::<i32>(), item)?,
                LargeList(_) => list(array.as_list::<i64>(), item)?,
                _ => fixed_size_list(array.as_fixed_size_list(), item)?,
            };
            let Some(list) = list else { return Ok(None) };
            keeping_nulls(array, cast(&list, wanted)?)
        }
        (Struct(_), Struct(fields)) => {
            let given = array.as_struct();
            let mut columns = Vec::with_capacity(fields.len());
            for field in fields {
                let Some(column) = given.column_by_name(field.name()) else {
                    return Err(ArrowError::CastError(format!("no field `{}`", field.name())));
                };
                let Some(column) = values(column, field.data_type())? else { return Ok(None) };
                columns.push(column);
            }
            if given.num_columns() > fields.len() {
                return Err(ArrowError::CastError("a field that the column lacks".to_owned()));
            }
            let array = StructArray::try_new(fields.clone(), columns, given.nulls().cloned())?;
            Ok(Some(Arc::new(array)))
        }
        (Map(entries, true), Map(..)) => {
            let unordered = array.to_data().into_builder().data_type(Map(Arc::clone(entries), false)).build()?;
            values(&make_array(unordered), wanted)
        }
        _ => leaves(array, wanted),
    }
}

fn list<O: OffsetSizeTrait>(list: &GenericListArray<O>, item: &Arc<Field>) -> Cast {
    let offsets = list.offsets();
    // Items outside this range are not part of the array.
    let (first, last) = (offsets[0], offsets[list.len()]);
    let items = list.values().slice(first.as_usize(), (last - first).as_usize());
    let Some(items) = values(&items, item.data_type())? else { return Ok(None) };
    let offsets = OffsetBuffer::new(offsets.iter().map(|offset| *offset - first).collect());
    let list = GenericListArray::try_new(Arc::clone(item), offsets, items, list.nulls().cloned())?;
    Ok(Some(Arc::new(list)))
}

fn fixed_size_list(list: &FixedSizeListArray, item: &Arc<Field>) -> Cast {
    let Some(items) = values(list.values(), item.data_type())? else { return Ok(None) };
    let list = FixedSizeListArray::try_new_with_length(
        Arc::clone(item),
        list.value_length(),
        items,
        list.nulls().cloned(),
        list.len(),
    )?;
    Ok(Some(Arc::new(list)))
}

fn leaves(array: &ArrayRef, wanted: &DataType) -> Cast {
    let given = array.data_type();
    if given.is_floating() && wanted.is_floating() {
        return rounded(array, wanted);
    }
    let array = &positive_zeros(array);
    let Some(converted) = keeping_nulls(array, convert(array, wanted)?)? else { return Ok(None) };
    let is_kept = match (given, wanted) {
        _ if is_text(given) && (wanted.is_primitive() || wanted == &DataType::Boolean) => parses(array, &converted)?,
        // Their types differ only in the layout of bytes.
        _ if is_text(given) && is_text(wanted) || is_bytes(given) && is_bytes(wanted) => true,
        _ => cast(&converted, given).is_ok_and(|back| back.as_ref() == array.as_ref()),
    };
    Ok(is_kept.then_some(converted))
}

/// Casts as Arrow does, but with a check for overflow when dates become timestamps.
fn convert(array: &ArrayRef, wanted: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    match (array.data_type(), wanted) {
        (DataType::Date32 | DataType::Date64, DataType::Timestamp(..)) => {
            cast(&cast(array, &DataType::Timestamp(TimeUnit::Millisecond, None))?, wanted)
        }
        _ => cast(array, wanted),
    }
}

/// Returns `converted`, unless it has a null where `array` has a value, as casts have for values that the type cannot
/// represent.
fn keeping_nulls(array: &ArrayRef, converted: ArrayRef) -> Cast {
    Ok((converted.logical_null_count() == array.logical_null_count()).then_some(converted))
}

/// Casts `array` to another float type.
fn rounded(array: &ArrayRef, wanted: &DataType) -> Cast {
    let converted = cast(array, wanted)?;
    let (before, after) = (cast(array, &DataType::Float64)?, cast(&converted, &DataType::Float64)?);
    let (before, after) = (before.as_primitive::<Float64Type>(), after.as_primitive::<Float64Type>());
    let overflows = |(before, after): (Option<f64>, Option<f64>)| {
        before.is_some_and(f64::is_finite) && !after.is_some_and(f64::is_finite)
    };
    Ok((!before.iter().zip(after).any(overflows)).then_some(converted))
}

/// Returns `array` with 0.0 for -0.0, which is equal but has other bits.
fn positive_zeros(array: &ArrayRef) -> ArrayRef {
    fn map<T: ArrowPrimitiveType>(array: &ArrayRef, op: impl Fn(T::Native) -> T::Native) -> ArrayRef {
        Arc::new(array.as_primitive::<T>().unary::<_, T>(op))
    }
    match array.data_type() {
        DataType::Float32 => map::<Float32Type>(array, |number| number + 0.0),
        DataType::Float64 => map::<Float64Type>(array, |number| number + 0.0),
        _ => Arc::clone(array),
    }
}

/// Returns whether no text says more than the value that was parsed from it.
fn parses(texts: &ArrayRef, parsed: &ArrayRef) -> std::result::Result<bool, ArrowError> {
    let widest = match parsed.data_type() {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Nanosecond),
        data_type if data_type.is_decimal() => DataType::Decimal256(76, 38),
        data_type if data_type.is_floating() => DataType::Float64,
        // Other types are parsed completely or not at all.
        _ => return Ok(true),
    };
    let (said, kept) = (cast(texts, &widest)?, convert(parsed, &widest)?);
    let fits: BooleanArray = match kept.as_primitive_opt::<Float64Type>() {
        Some(kept) => kept.iter().map(|number| number.map(|number| !number.is_infinite())).collect(),
        None => not_distinct(&said, &kept)?,
    };
    // A value beyond the range of the widest type is judged by its spelling.
    let respelled = cast(parsed, texts.data_type())?;
    let spelled = not_distinct(texts, &respelled)?;
    let judged = said.nulls();
    Ok((0..texts.len()).all(|row| {
        texts.is_null(row) || spelled.value(row) || fits.value(row) && judged.is_none_or(|judged| judged.is_valid(row))
    }))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, FixedSizeBinary, LargeBinary};
    matches!(data_type, Binary | LargeBinary | BinaryView | FixedSizeBinary(_))
}

#[cfg(test)]
mod tests;
