//! Python's values as Arrow's, for keys and for small tables written by hand. Values that a column cannot hold exactly
//! are refused.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal256Array, FixedSizeListArray, Float32Builder, Float64Array,
    Int64Array, LargeBinaryArray, LargeListArray, LargeStringArray, MapArray, StructArray, UInt64Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, i256};
use cenote_runtime::arrow;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyString, PyTuple};

use super::to_python::nanoseconds;
use crate::fault;

/// Characters of a value that an error shows, at most.
const VALUE_CHARS_MAX: usize = 200;

/// Makes the error for the value at a place, with the reason where the type alone does not tell.
pub(super) type MakeError<'a> = &'a dyn Fn(usize, Option<String>) -> PyErr;

pub(super) type Items<'a, 'py> = &'a [Bound<'py, PyAny>];

/// Returns a column of `field`'s type from Python's values; `None` is null.
///
/// # Errors
/// `InvalidInput` for a value of another type, or one that the column would change, with its row.
pub(crate) fn from_python(field: &Field, values: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let items = values.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    column(field, &items)
}

/// Returns `items` as [`from_python`] does.
pub(crate) fn column(field: &Field, items: Items<'_, '_>) -> PyResult<ArrayRef> {
    array(field, items, &|row, why| {
        let value = describe(&items[row], why);
        fault::invalid(format!("column `{}` is {}, and row {row} has {value}", field.name(), field.data_type()))
    })
}

/// Returns one value as a column of `field`'s type.
///
/// # Errors
/// As [`from_python`], without a row.
pub(crate) fn single(field: &Field, item: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    array(field, std::slice::from_ref(item), &|_, why| {
        let value = describe(item, why);
        fault::invalid(format!("output `{}` is declared as {}, found {value}", field.name(), field.data_type()))
    })
}

/// Describes a value that a column cannot hold, and the reason if it is known.
fn describe(value: &Bound<'_, PyAny>, why: Option<String>) -> String {
    let text = value.repr().map_or_else(|_| "a value".to_owned(), |text| text.to_string_lossy().into_owned());
    let cut = text.char_indices().nth(VALUE_CHARS_MAX).map_or(text.as_str(), |(end, _)| &text[..end]);
    format!("{cut}{}", why.map_or_else(String::new, |why| format!(": {why}")))
}

/// Returns `items` as a column of `field`'s type, with the errors of `wrong`.
pub(super) fn array<'py>(field: &Field, items: Items<'_, 'py>, wrong: MakeError<'_>) -> PyResult<ArrayRef> {
    let data_type = field.data_type();
    let made: ArrayRef = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Arc::new(LargeStringArray::from(extract::<String>(items, wrong)?))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Arc::new(bytes(data_type, items, wrong)?)
        }
        DataType::Boolean => Arc::new(BooleanArray::from(extract::<bool>(items, wrong)?)),
        DataType::Int8 if field.extension_type_name() == Some("arrow.bool8") => {
            Arc::new(BooleanArray::from(extract::<bool>(items, wrong)?))
        }
        data_type if data_type.is_integer() => {
            if let Some(row) = items.iter().position(|item| item.is_instance_of::<PyBool>()) {
                return Err(wrong(row, None));
            }
            match data_type {
                DataType::UInt64 => Arc::new(UInt64Array::from(extract::<u64>(items, wrong)?)),
                _ => Arc::new(Int64Array::from(extract::<i64>(items, wrong)?)),
            }
        }
        data_type if data_type.is_floating() => return floats(data_type, items, wrong),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let texts = told::<String>(items, "unscaled", &[i64::from(*precision), i64::from(*scale)], wrong)?;
            let numbers = texts.iter().map(|text| text.as_deref().and_then(i256::from_string));
            let decimals = numbers.collect::<Decimal256Array>().with_precision_and_scale(*precision, *scale);
            Arc::new(decimals.map_err(fault::arrow)?)
        }
        DataType::Date32 | DataType::Date64 => {
            let days = Int64Array::from(told::<i64>(items, "days", &[], wrong)?);
            cast(&cast(&days, &DataType::Int32).map_err(fault::arrow)?, &DataType::Date32).map_err(fault::arrow)?
        }
        DataType::Time32(unit) => {
            let numbers = Int64Array::from(told::<i64>(items, "time_of_day", &[nanoseconds(*unit)], wrong)?);
            cast(&numbers, &DataType::Int32).map_err(fault::arrow)?
        }
        DataType::Time64(unit) => {
            Arc::new(Int64Array::from(told::<i64>(items, "time_of_day", &[nanoseconds(*unit)], wrong)?))
        }
        DataType::Timestamp(unit, zone) => {
            let arguments = [nanoseconds(*unit), i64::from(zone.is_some())];
            Arc::new(Int64Array::from(told::<i64>(items, "timestamp", &arguments, wrong)?))
        }
        DataType::Duration(unit) => {
            Arc::new(Int64Array::from(told::<i64>(items, "duration", &[nanoseconds(*unit)], wrong)?))
        }
        DataType::FixedSizeList(item, width) => fixed_size_lists(field, item, *width, items, wrong)?,
        DataType::List(item) | DataType::LargeList(item) => {
            let FlatLists { values, lengths, nulls } = flat(item, items, wrong)?;
            let lists = LargeListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), values, nulls);
            Arc::new(lists.map_err(fault::arrow)?)
        }
        DataType::Struct(fields) => {
            let mut columns = Vec::with_capacity(fields.len());
            for field in fields {
                let value = |(row, item): (usize, &Bound<'py, PyAny>)| match item.cast::<PyDict>() {
                    Ok(values) => Ok(values.get_item(field.name())?.unwrap_or_else(|| none(item))),
                    Err(_) if item.is_none() => Ok(none(item)),
                    Err(_) => Err(wrong(row, None)),
                };
                let values = items.iter().enumerate().map(value).collect::<PyResult<Vec<_>>>()?;
                columns.push(array(field, &values, wrong)?);
            }
            for (row, item) in items.iter().enumerate() {
                let Ok(values) = item.cast::<PyDict>() else { continue };
                let names = values.keys().extract::<Vec<String>>().map_err(|_| wrong(row, None))?;
                if let Some(other) = names.iter().find(|name| fields.find(name).is_none()) {
                    return Err(wrong(row, Some(format!("there is no field `{other}`"))));
                }
            }
            let structs = StructArray::try_new_with_length(fields.clone(), columns, nulls(items), items.len());
            Arc::new(structs.map_err(fault::arrow)?)
        }
        DataType::Map(entries, ordered) => maps(entries, *ordered, items, wrong)?,
        DataType::Dictionary(_, value) => array(&field.clone().with_data_type(value.as_ref().clone()), items, wrong)?,
        _ if items.iter().all(|item| item.is_none()) => new_null_array(data_type, items.len()),
        other => {
            return Err(fault::invalid(format!(
                "column `{}` is {other}, which cannot be made from Python's values: give Arrow data",
                field.name()
            )));
        }
    };
    let whole = cast(&made, data_type).map_err(fault::arrow)?;
    match (0..whole.len()).find(|row| whole.is_null(*row) && !made.is_null(*row)) {
        Some(row) => Err(wrong(row, None)),
        None => Ok(whole),
    }
}

fn none<'py>(item: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    item.py().None().into_bound(item.py())
}

fn nulls(items: Items<'_, '_>) -> Option<NullBuffer> {
    Some(items.iter().map(|item| !item.is_none()).collect::<NullBuffer>()).filter(|nulls| nulls.null_count() > 0)
}

fn extract<'py, T: FromPyObjectOwned<'py>>(items: Items<'_, 'py>, wrong: MakeError<'_>) -> PyResult<Vec<Option<T>>> {
    let value = |(row, item): (usize, &Bound<'py, PyAny>)| match item.is_none() {
        true => Ok(None),
        false => item.extract::<T>().map(Some).map_err(|_| wrong(row, None)),
    };
    items.iter().enumerate().map(value).collect()
}

/// Returns what the function `name` of `_values` makes of each value.
fn told<'py, T: FromPyObjectOwned<'py>>(
    items: Items<'_, 'py>,
    name: &str,
    arguments: &[i64],
    wrong: MakeError<'_>,
) -> PyResult<Vec<Option<T>>> {
    let Some(first) = items.first() else { return Ok(Vec::new()) };
    let py = first.py();
    let function = py.import("cenote._values")?.getattr(name)?;
    let numbers = arguments.iter().map(|number| number.into_bound_py_any(py)).collect::<PyResult<Vec<_>>>()?;
    let value = |(row, item): (usize, &Bound<'py, PyAny>)| {
        if item.is_none() {
            return Ok(None);
        }
        let arguments = PyTuple::new(py, [item].into_iter().chain(&numbers).collect::<Vec<_>>())?;
        let told = function.call1(arguments).map_err(|error| {
            // Ctrl-C is not the value's fault.
            match error.is_instance_of::<PyException>(py) {
                true => wrong(row, Some(error.value(py).to_string())),
                false => error,
            }
        })?;
        match told.is_none() {
            true => Ok(None),
            false => told.extract::<T>().map(Some).map_err(|_| wrong(row, Some("it is out of range".to_owned()))),
        }
    };
    items.iter().enumerate().map(value).collect()
}

/// Returns bytes; for columns of 16 bytes, those of a `uuid.UUID` too.
fn bytes(data_type: &DataType, items: Items<'_, '_>, wrong: MakeError<'_>) -> PyResult<LargeBinaryArray> {
    let value = |(row, item): (usize, &Bound<'_, PyAny>)| {
        if item.is_none() {
            return Ok(None);
        }
        let bytes = match (data_type, item.getattr("bytes")) {
            (DataType::FixedSizeBinary(16), Ok(bytes)) => bytes,
            _ => item.clone(),
        };
        let bytes = bytes.extract::<PyBackedBytes>().map_err(|_| wrong(row, None))?;
        match data_type {
            DataType::FixedSizeBinary(width) if bytes.len() != *width as usize => {
                Err(wrong(row, Some(format!("it has {} bytes", bytes.len()))))
            }
            _ => Ok(Some(bytes)),
        }
    };
    let values = items.iter().enumerate().map(value).collect::<PyResult<Vec<_>>>()?;
    Ok(values.iter().map(|value| value.as_deref()).collect())
}

/// Returns floats: those of Python are rounded to the column's precision, and other numbers have to be there exactly.
fn floats(data_type: &DataType, items: Items<'_, '_>, wrong: MakeError<'_>) -> PyResult<ArrayRef> {
    let given = extract::<f64>(items, wrong)?;
    let floats = cast(&Float64Array::from(given.clone()), data_type).map_err(fault::arrow)?;
    let again = cast(&floats, &DataType::Float64).map_err(fault::arrow)?;
    for (row, (item, float)) in items.iter().zip(again.as_primitive::<Float64Type>()).enumerate() {
        let (Some(given), Some(float)) = (given[row], float) else { continue };
        if given.is_finite() && !float.is_finite() {
            return Err(wrong(row, Some("it is out of range".to_owned())));
        }
        if item.is_instance_of::<PyFloat>() {
            continue;
        }
        // numpy compares its integers as floats, and so finds them equal to what they were rounded to; Python does not.
        let exact = match item.call_method0("__index__") {
            Ok(integer) => integer.eq(float)?,
            Err(_) => item.eq(given)?,
        };
        if !exact {
            return Err(wrong(row, Some(format!("{float} is not the same number"))));
        }
    }
    Ok(floats)
}

/// The values of several lists, one after the other.
struct FlatLists {
    values: ArrayRef,
    lengths: Vec<usize>,
    nulls: Option<NullBuffer>,
}

/// Returns the values of the lists in `items`; a null list has none.
fn flat(item: &FieldRef, items: Items<'_, '_>, wrong: MakeError<'_>) -> PyResult<FlatLists> {
    let (mut values, mut rows, mut lengths) = (Vec::new(), Vec::new(), Vec::with_capacity(items.len()));
    for (row, list) in items.iter().enumerate() {
        let before = values.len();
        if !list.is_none() {
            // These are iterable, but not lists.
            if list.is_instance_of::<PyString>() || list.is_instance_of::<PyBytes>() || list.is_instance_of::<PyDict>()
            {
                return Err(wrong(row, None));
            }
            for value in list.try_iter().map_err(|_| wrong(row, None))? {
                values.push(value?);
                rows.push(row);
            }
        }
        lengths.push(values.len() - before);
    }
    let values = array(item, &values, &|at, why| wrong(rows[at], why))?;
    Ok(FlatLists { values, lengths, nulls: nulls(items) })
}

fn fixed_size_lists(
    field: &Field,
    item: &FieldRef,
    width: i32,
    items: Items<'_, '_>,
    wrong: MakeError<'_>,
) -> PyResult<ArrayRef> {
    let check = |row: usize, found: usize| match found == width as usize {
        true => Ok(()),
        false => Err(fault::invalid(format!(
            "column `{}` holds vectors of {width} numbers, and row {row} has {found}",
            field.name()
        ))),
    };
    let values = match item.data_type() {
        DataType::Float32 => vectors(items, width as usize, check)?,
        _ => None,
    };
    let values = match values {
        Some(values) => values,
        None => {
            let FlatLists { values, lengths, .. } = flat(item, items, wrong)?;
            let (mut places, mut next) = (Vec::with_capacity(items.len() * width as usize), 0);
            for (row, length) in lengths.into_iter().enumerate() {
                if items[row].is_none() {
                    places.extend((0..width).map(|_| None));
                    continue;
                }
                check(row, length)?;
                places.extend((next..next + length as u64).map(Some));
                next += length as u64;
            }
            take(&values, &UInt64Array::from(places), None).map_err(fault::arrow)?
        }
    };
    let lists = FixedSizeListArray::try_new(item.clone(), width, values, nulls(items));
    Ok(Arc::new(lists.map_err(fault::arrow)?))
}

/// The largest integer up to which 32-bit floats hold all integers exactly.
const EXACT_MAX: f64 = (1 << 24) as f64;

/// Returns the numbers of vectors, row by row, because there may be many; `None` if one needs the checks of [`floats`].
fn vectors(
    items: Items<'_, '_>,
    width: usize,
    check: impl Fn(usize, usize) -> PyResult<()>,
) -> PyResult<Option<ArrayRef>> {
    let mut numbers = Float32Builder::with_capacity(items.len() * width);
    for (row, item) in items.iter().enumerate() {
        if item.is_none() {
            numbers.append_nulls(width);
            continue;
        }
        let Ok(vector) = item.extract::<Vec<f64>>() else { return Ok(None) };
        check(row, vector.len())?;
        if vector.iter().any(|number| number.is_finite() && number.abs() > EXACT_MAX) {
            return Ok(None);
        }
        vector.iter().for_each(|number| numbers.append_value(*number as f32));
    }
    Ok(Some(Arc::new(numbers.finish())))
}

/// Returns maps from dicts or lists of pairs.
fn maps(entries: &FieldRef, ordered: bool, items: Items<'_, '_>, wrong: MakeError<'_>) -> PyResult<ArrayRef> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(fault::arrow("the entries of a map are not structs"));
    };
    let (mut keys, mut values, mut rows, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, map) in items.iter().enumerate() {
        let before = rows.len();
        if !map.is_none() {
            let pairs = map.cast::<PyDict>().map_or_else(|_| map.clone(), |map| map.items().into_any());
            for pair in pairs.try_iter().map_err(|_| wrong(row, None))? {
                let (key, value) = pair?.extract().map_err(|_: PyErr| wrong(row, None))?;
                keys.push(key);
                values.push(value);
                rows.push(row);
            }
        }
        lengths.push(rows.len() - before);
    }
    let wrong: MakeError<'_> = &|at, why| wrong(rows[at], why);
    let columns = vec![array(&pair[0], &keys, wrong)?, array(&pair[1], &values, wrong)?];
    let structs = StructArray::try_new(pair.clone(), columns, None).map_err(fault::arrow)?;
    let maps = MapArray::try_new(entries.clone(), OffsetBuffer::from_lengths(lengths), structs, nulls(items), ordered);
    Ok(Arc::new(maps.map_err(fault::arrow)?))
}
