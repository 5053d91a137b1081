//! Values of queries: vectors and parameters.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields, TimeUnit};
use cenote_runtime::{Parameter, arrow};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDate, PyDateTime, PyDelta, PyDict, PyInt, PyString, PyTime};

use super::from_python;
use crate::fault;

/// Years whose times 64-bit nanoseconds hold.
const NANOSECOND_YEARS: std::ops::Range<i32> = 1678..2262;

/// Returns a query vector, given as any sequence of numbers.
pub(crate) fn vector(values: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let numbers = values.extract::<Vec<f32>>();
    numbers.map_err(|_| fault::invalid("a vector must be a sequence of numbers, such as a list or a numpy array"))
}

/// Returns the parameter `$number` of a statement.
///
/// # Errors
/// `InvalidInput` for a value that no type of Arrow holds exactly, with its place and type.
pub(crate) fn to_parameter(number: usize, value: &Bound<'_, PyAny>) -> PyResult<Parameter> {
    let wrong = |_row: usize, why: Option<String>| {
        let text = value.repr().map_or_else(|_| "a value".to_owned(), |text| text.to_string());
        let class = value.get_type().name().map_or_else(|_| String::new(), |name| format!(", of type {name}"));
        let why = why.unwrap_or_else(|| "its type is not one of SQL's".to_owned());
        fault::invalid(format!("parameter ${number} is {text}{class}: {why}"))
    };
    let data_type = natural_type(value)?.ok_or_else(|| {
        let why = "give None, a bool, number, str, bytes, date, time, datetime, timedelta or UUID, or a list or dict \
                   of such values, all items of one type";
        wrong(0, Some(why.to_owned()))
    })?;
    let field = Field::new(format!("${number}"), data_type, true);
    let array = from_python::array(&field, std::slice::from_ref(value), &wrong)?;
    Parameter::new(array).map_err(fault::raise)
}

/// Returns the type that holds `value` exactly; `None` if there is not one.
fn natural_type(value: &Bound<'_, PyAny>) -> PyResult<Option<DataType>> {
    let py = value.py();
    let module = || py.import("cenote._values");
    Ok(Some(if value.is_none() {
        DataType::Null
    } else if value.is_instance_of::<PyString>() {
        DataType::Utf8
    } else if value.is_instance_of::<PyBytes>() || value.is_instance_of::<PyByteArray>() {
        DataType::Binary
    } else if value.is_instance_of::<PyDateTime>() {
        // pandas' `NaT` has no year.
        let year = value.getattr("year")?.extract::<i32>();
        let zone = (!value.getattr("tzinfo")?.is_none()).then(|| "UTC".into());
        // Comparisons truncate to the coarser unit, so the finer is exact beside every column.
        match year.is_ok_and(|year| !NANOSECOND_YEARS.contains(&year)) {
            true => DataType::Timestamp(TimeUnit::Microsecond, zone),
            false => DataType::Timestamp(TimeUnit::Nanosecond, zone),
        }
    } else if value.is_instance_of::<PyDate>() {
        DataType::Date32
    } else if value.is_instance_of::<PyTime>() {
        DataType::Time64(TimeUnit::Microsecond)
    } else if value.is_instance_of::<PyDelta>() {
        match value.getattr("nanoseconds") {
            Ok(rest) if rest.is_truthy()? => DataType::Duration(TimeUnit::Nanosecond),
            _ => DataType::Duration(TimeUnit::Microsecond),
        }
    } else if value.is_instance(&py.import("uuid")?.getattr("UUID")?)? {
        DataType::FixedSizeBinary(16)
    } else if let Ok(values) = value.cast::<PyDict>() {
        let mut fields = Vec::with_capacity(values.len());
        for (name, value) in values {
            let (Ok(name), Some(data_type)) = (name.extract::<String>(), natural_type(&value)?) else {
                return Ok(None);
            };
            fields.push(Field::new(name, data_type, true));
        }
        DataType::Struct(Fields::from(fields))
    } else if value.len().is_ok() {
        let mut item = DataType::Null;
        for value in value.try_iter()? {
            let Some(common) = natural_type(&value?)?.and_then(|other| common_type(item, other)) else {
                return Ok(None);
            };
            item = common;
        }
        DataType::List(Arc::new(Field::new_list_field(item, true)))
    } else if let Some(kind) = numpy_time(value) {
        match kind {
            'M' => DataType::Timestamp(TimeUnit::Nanosecond, None),
            _ => DataType::Duration(TimeUnit::Nanosecond),
        }
    } else if value.extract::<bool>().is_ok() {
        DataType::Boolean
    } else if value.extract::<i64>().is_ok() {
        DataType::Int64
    } else if value.extract::<u64>().is_ok() {
        DataType::UInt64
    } else if value.is_instance_of::<PyInt>() || value.is_instance(&py.import("decimal")?.getattr("Decimal")?)? {
        match module()?.call_method1("digits", (value,))?.extract::<Option<(u8, i8)>>() {
            Ok(Some((precision, scale))) if precision <= DECIMAL128_MAX_PRECISION => {
                DataType::Decimal128(precision, scale)
            }
            Ok(Some((precision, scale))) => DataType::Decimal256(precision, scale),
            _ => return Ok(None),
        }
    } else if value.extract::<f64>().is_ok() {
        DataType::Float64
    } else {
        return Ok(None);
    }))
}

/// Returns `M` for a `numpy.datetime64` and `m` for a `numpy.timedelta64`.
fn numpy_time(value: &Bound<'_, PyAny>) -> Option<char> {
    let kind = value.getattr("dtype").and_then(|dtype| dtype.getattr("kind")?.extract::<char>()).ok()?;
    matches!(kind, 'M' | 'm').then_some(kind)
}

/// Returns the type of a list that has items of both types.
fn common_type(left: DataType, right: DataType) -> Option<DataType> {
    Some(match (left, right) {
        (DataType::Null, other) | (other, DataType::Null) => other,
        (left, right) if left == right => left,
        (DataType::Int64 | DataType::UInt64, DataType::Int64 | DataType::UInt64) => DataType::UInt64,
        (DataType::Int64 | DataType::UInt64 | DataType::Float64, DataType::Float64)
        | (DataType::Float64, DataType::Int64 | DataType::UInt64) => DataType::Float64,
        (DataType::Timestamp(_, left), DataType::Timestamp(_, right)) if left == right => {
            DataType::Timestamp(TimeUnit::Microsecond, left)
        }
        (DataType::Duration(_), DataType::Duration(_)) => DataType::Duration(TimeUnit::Nanosecond),
        (DataType::Decimal128(p, s), DataType::Decimal128(q, t)) => {
            let scale = s.max(t);
            let whole = (i16::from(p) - i16::from(s)).max(i16::from(q) - i16::from(t));
            let precision = u8::try_from(whole + i16::from(scale)).ok()?;
            (precision <= DECIMAL128_MAX_PRECISION).then_some(DataType::Decimal128(precision, scale))?
        }
        (DataType::List(left), DataType::List(right)) => {
            let item = common_type(left.data_type().clone(), right.data_type().clone())?;
            DataType::List(Arc::new(Field::new_list_field(item, true)))
        }
        _ => return None,
    })
}
