//! Single values: for keys, small tables written by hand, and rows that a person looks at. Batches go by Arrow.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListBuilder, Float32Builder, Float64Array, Int64Array,
    LargeBinaryArray, StringArray, TimestampMicrosecondArray, UInt64Array, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit, UInt64Type};
use cenote_runtime::{Parameter, arrow};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDateTime, PyDict, PyList};

use crate::fault;

/// Value `row` of `array`.
pub(crate) fn to_python<'py>(py: Python<'py>, array: &ArrayRef, row: usize) -> PyResult<Bound<'py, PyAny>> {
    // An array of the type that has only nulls has no bits that say so.
    if array.is_null(row) || array.data_type() == &DataType::Null {
        return Ok(py.None().into_bound(py));
    }
    let one = array.slice(row, 1);
    let as_type = |data_type: &DataType| cast(&one, data_type).map_err(fault::arrow);
    match array.data_type() {
        DataType::Boolean => one.as_boolean().value(0).into_bound_py_any(py),
        DataType::UInt64 => one.as_primitive::<UInt64Type>().value(0).into_bound_py_any(py),
        data_type if data_type.is_integer() => {
            as_type(&DataType::Int64)?.as_primitive::<Int64Type>().value(0).into_bound_py_any(py)
        }
        data_type if data_type.is_floating() => {
            as_type(&DataType::Float64)?.as_primitive::<Float64Type>().value(0).into_bound_py_any(py)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Ok(PyBytes::new(py, as_type(&DataType::LargeBinary)?.as_binary::<i64>().value(0)).into_any())
        }
        DataType::Timestamp(_, zone) => {
            let micros = as_type(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
            let micros = as_int(&micros)?;
            let epoch = py.import("cenote._time")?.getattr(if zone.is_some() { "from_utc" } else { "from_naive" })?;
            epoch.call1((micros,))
        }
        DataType::Date32 => {
            let days = as_int(&as_type(&DataType::Int32)?)?;
            py.import("cenote._time")?.getattr("from_days")?.call1((days,))
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let item = match array.data_type() {
                DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Arc::clone(item),
                _ => return Ok(py.None().into_bound(py)),
            };
            let list = as_type(&DataType::LargeList(item))?;
            let items = list.as_list::<i64>().value(0);
            let items = (0..items.len()).map(|item| to_python(py, &items, item)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, items)?.into_any())
        }
        DataType::Struct(fields) => {
            let values = PyDict::new(py);
            for (field, column) in fields.iter().zip(one.as_struct().columns()) {
                values.set_item(field.name(), to_python(py, column, 0)?)?;
            }
            Ok(values.into_any())
        }
        _ => as_type(&DataType::Utf8)?.as_string::<i32>().value(0).into_bound_py_any(py),
    }
}

fn as_int(array: &ArrayRef) -> PyResult<i64> {
    let numbers = cast(array, &DataType::Int64).map_err(fault::arrow)?;
    Ok(numbers.as_primitive::<Int64Type>().value(0))
}

/// A column of `field`'s type from Python's values; `None` is null.
pub(crate) fn from_python(field: &Field, values: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let items = values.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    let wrong = |row: usize| {
        let value = items[row].repr().map_or_else(|_| "a value".to_owned(), |text| text.to_string());
        fault::invalid(format!("column `{}` is {}, and row {row} has {value}", field.name(), field.data_type()))
    };
    let array: ArrayRef = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Arc::new(StringArray::from(extract::<String>(&items, wrong)?)),
        DataType::Binary | DataType::LargeBinary => {
            let values = extract::<pyo3::pybacked::PyBackedBytes>(&items, wrong)?;
            Arc::new(values.iter().map(|value| value.as_deref()).collect::<LargeBinaryArray>())
        }
        DataType::Boolean => Arc::new(BooleanArray::from(extract::<bool>(&items, wrong)?)),
        DataType::UInt64 => Arc::new(UInt64Array::from(extract::<u64>(&items, wrong)?)),
        data_type if data_type.is_integer() => Arc::new(Int64Array::from(extract::<i64>(&items, wrong)?)),
        data_type if data_type.is_floating() => Arc::new(Float64Array::from(extract::<f64>(&items, wrong)?)),
        DataType::Timestamp(_, zone) => {
            let name = if zone.is_some() { "to_utc" } else { "to_naive" };
            let micros = |(row, value): (usize, &Bound<'_, PyAny>)| {
                if value.is_none() {
                    return Ok(None);
                }
                let time = value.cast::<PyDateTime>().map_err(|_| wrong(row))?;
                time.py().import("cenote._time")?.getattr(name)?.call1((time,))?.extract().map(Some)
            };
            let micros = items.iter().enumerate().map(micros).collect::<PyResult<Vec<Option<i64>>>>()?;
            Arc::new(TimestampMicrosecondArray::from(micros).with_timezone_opt(zone.clone()))
        }
        DataType::FixedSizeList(item, width) if item.data_type() == &DataType::Float32 => {
            let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), *width).with_field(Arc::clone(item));
            for (row, value) in extract::<Vec<f32>>(&items, wrong)?.into_iter().enumerate() {
                match value {
                    Some(value) if value.len() == *width as usize => {
                        builder.values().append_slice(&value);
                        builder.append(true);
                    }
                    Some(value) => {
                        let found = value.len();
                        return Err(fault::invalid(format!(
                            "column `{}` holds vectors of {width} numbers, and row {row} has {found}",
                            field.name()
                        )));
                    }
                    None => {
                        builder.values().append_nulls(*width as usize);
                        builder.append(false);
                    }
                }
            }
            Arc::new(builder.finish())
        }
        _ if items.iter().all(|item| item.is_none()) => new_null_array(field.data_type(), items.len()),
        other => {
            return Err(fault::invalid(format!(
                "column `{}` is {other}, which is not made from Python's values: give Arrow data",
                field.name()
            )));
        }
    };
    let whole = cast(&array, field.data_type()).map_err(fault::arrow)?;
    match (0..whole.len()).find(|row| whole.is_null(*row) && !array.is_null(*row)) {
        Some(row) => Err(wrong(row)),
        None => Ok(whole),
    }
}

fn extract<'py, T: FromPyObjectOwned<'py>>(
    items: &[Bound<'py, PyAny>],
    wrong: impl Fn(usize) -> PyErr,
) -> PyResult<Vec<Option<T>>> {
    let value = |(row, item): (usize, &Bound<'py, PyAny>)| match item.is_none() {
        true => Ok(None),
        false => item.extract::<T>().map(Some).map_err(|_| wrong(row)),
    };
    items.iter().enumerate().map(value).collect()
}

/// A query vector: any sequence of numbers.
pub(crate) fn vector(values: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let numbers = values.extract::<Vec<f32>>();
    numbers.map_err(|_| fault::invalid("a vector is a sequence of numbers, such as a list or a numpy array"))
}

/// A parameter of a statement.
pub(crate) fn to_parameter(value: &Bound<'_, PyAny>) -> PyResult<Parameter> {
    if value.is_none() {
        return Ok(Parameter::Null);
    }
    if let Ok(value) = value.cast::<PyBool>() {
        return Ok(Parameter::Boolean(value.is_true()));
    }
    if let Ok(time) = value.cast::<PyDateTime>() {
        return Ok(Parameter::Time(time.call_method0("isoformat")?.extract()?));
    }
    if let Ok(value) = value.extract::<i64>() {
        return Ok(Parameter::Integer(value));
    }
    if let Ok(value) = value.extract::<f64>() {
        return Ok(Parameter::Number(value));
    }
    if let Ok(value) = value.extract::<String>() {
        return Ok(Parameter::Text(value));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Parameter::Bytes(bytes.as_bytes().to_vec()));
    }
    value.extract::<Vec<f32>>().map(Parameter::Vector).map_err(|_| {
        let what = value.get_type().to_string();
        fault::invalid(format!(
            "a parameter is None, a bool, a number, a text, bytes, a datetime or a vector, found {what}"
        ))
    })
}
