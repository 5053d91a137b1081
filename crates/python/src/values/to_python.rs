//! Arrow's values as Python's, equal to those of pyarrow's `to_pylist`: for keys, and for rows that people look at.
//! Batches stay in Arrow.

use arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray, make_array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Field, Float64Type, Int64Type,
    TimeUnit, UInt64Type,
};
use cenote_runtime::arrow;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::fault;
use crate::interchange::ArrowArray;

/// Values, in the order of rows.
type Values<'py> = PyResult<Vec<Bound<'py, PyAny>>>;

/// Returns the values of `array`, which is a column of type `field`; a null is `None`.
///
/// # Errors
/// `InvalidInput` for a value that Python's types cannot hold, such as a date after the year 9999.
pub(crate) fn to_python<'py>(py: Python<'py>, field: &Field, array: &dyn Array) -> Values<'py> {
    let as_type = |data_type: &DataType| cast(array, data_type).map_err(fault::arrow);
    let bytes = |make: &dyn Fn(&[u8]) -> PyResult<Bound<'py, PyAny>>| {
        each(py, as_type(&DataType::LargeBinary)?.as_binary::<i64>().iter(), make)
    };
    // Calls `make` with each number.
    let numbers = |make: Bound<'py, PyAny>| {
        let integers = match array.data_type() {
            DataType::Date64 => cast(&as_type(&DataType::Date32)?, &DataType::Int32),
            DataType::Date32 | DataType::Time32(_) => cast(array, &DataType::Int32),
            _ => cast(array, &DataType::Int64),
        };
        let integers = cast(&integers.map_err(fault::arrow)?, &DataType::Int64).map_err(fault::arrow)?;
        each(py, integers.as_primitive::<Int64Type>().iter(), |number| {
            make.call1((number,)).map_err(|error| {
                // Ctrl-C is not the value's fault.
                if !error.is_instance_of::<PyException>(py) {
                    return error;
                }
                let (name, data_type, reason) = (field.name(), field.data_type(), error.value(py));
                fault::invalid(format!("column `{name}` is {data_type} and has {number}: {reason}; read it as Arrow"))
            })
        })
    };
    let module = || py.import("cenote._values");
    match array.data_type() {
        DataType::Null => Ok(vec![py.None().into_bound(py); array.len()]),
        DataType::Boolean => each(py, array.as_boolean().iter(), |value| value.into_bound_py_any(py)),
        DataType::Int8 if field.extension_type_name() == Some("arrow.bool8") => {
            each(py, as_type(&DataType::Boolean)?.as_boolean().iter(), |value| value.into_bound_py_any(py))
        }
        DataType::UInt64 => each(py, array.as_primitive::<UInt64Type>().iter(), |value| value.into_bound_py_any(py)),
        data_type if data_type.is_integer() => {
            let integers = as_type(&DataType::Int64)?;
            each(py, integers.as_primitive::<Int64Type>().iter(), |value| value.into_bound_py_any(py))
        }
        data_type if data_type.is_floating() => {
            let floats = as_type(&DataType::Float64)?;
            each(py, floats.as_primitive::<Float64Type>().iter(), |value| value.into_bound_py_any(py))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = as_type(&DataType::LargeUtf8)?;
            each(py, texts.as_string::<i64>().iter(), |text| text.into_bound_py_any(py))
        }
        DataType::FixedSizeBinary(16) if field.extension_type_name() == Some("arrow.uuid") => {
            let class = py.import("uuid")?.getattr("UUID")?;
            bytes(&|value| class.call1((py.None(), PyBytes::new(py, value))))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            bytes(&|value| Ok(PyBytes::new(py, value).into_any()))
        }
        DataType::Decimal32(..) => decimals(py, array.as_primitive::<Decimal32Type>()),
        DataType::Decimal64(..) => decimals(py, array.as_primitive::<Decimal64Type>()),
        DataType::Decimal128(..) => decimals(py, array.as_primitive::<Decimal128Type>()),
        DataType::Decimal256(..) => decimals(py, array.as_primitive::<Decimal256Type>()),
        DataType::Date32 | DataType::Date64 => numbers(module()?.getattr("from_days")?),
        DataType::Time32(unit) | DataType::Time64(unit) => {
            numbers(module()?.call_method1("times", (nanoseconds(*unit),))?)
        }
        DataType::Timestamp(unit, zone) => {
            numbers(module()?.call_method1("timestamps", (nanoseconds(*unit), zone.as_deref()))?)
        }
        DataType::Duration(unit) => numbers(module()?.call_method1("durations", (nanoseconds(*unit),))?),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            let lists = as_type(&DataType::LargeList(item.clone()))?;
            let lists = lists.as_list::<i64>();
            let offsets: Vec<usize> = lists.value_offsets().iter().map(|offset| *offset as usize).collect();
            let (first, last) = (offsets[0], offsets[lists.len()]);
            let items = to_python(py, item, &lists.values().slice(first, last - first))?;
            whole(py, lists, |row| {
                Ok(PyList::new(py, &items[offsets[row] - first..offsets[row + 1] - first])?.into_any())
            })
        }
        DataType::Map(entries, _) => {
            let (maps, DataType::Struct(pair)) = (array.as_map(), entries.data_type()) else {
                return Err(fault::arrow("the entries of a map are not structs"));
            };
            let offsets: Vec<usize> = maps.value_offsets().iter().map(|offset| *offset as usize).collect();
            let (first, last) = (offsets[0], offsets[maps.len()]);
            let keys = to_python(py, &pair[0], &maps.keys().slice(first, last - first))?;
            let values = to_python(py, &pair[1], &maps.values().slice(first, last - first))?;
            let pairs = keys.into_iter().zip(values).map(|pair| pair.into_pyobject(py));
            let pairs = pairs.collect::<PyResult<Vec<Bound<'py, PyTuple>>>>()?;
            whole(py, maps, |row| {
                Ok(PyList::new(py, &pairs[offsets[row] - first..offsets[row + 1] - first])?.into_any())
            })
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let columns = columns.map(|(field, column)| to_python(py, field, column)).collect::<PyResult<Vec<_>>>()?;
            whole(py, array, |row| {
                let values = PyDict::new(py);
                for (field, column) in fields.iter().zip(&columns) {
                    values.set_item(field.name(), &column[row])?;
                }
                Ok(values.into_any())
            })
        }
        DataType::Dictionary(_, value) => {
            to_python(py, &field.clone().with_data_type(value.as_ref().clone()), &as_type(value)?)
        }
        DataType::RunEndEncoded(_, value) => to_python(py, value, &as_type(value.data_type())?),
        // pyarrow has Python types for intervals and unions, which only SQL returns.
        DataType::Interval(_) | DataType::Union(..) => {
            let pyarrow = py.import("pyarrow").map_err(|_| {
                fault::invalid(format!(
                    "column `{}` is {}, which needs pyarrow: install it",
                    field.name(),
                    field.data_type()
                ))
            })?;
            let array = ArrowArray::new(make_array(array.to_data()), field.clone());
            pyarrow.call_method1("array", (array,))?.call_method0("to_pylist")?.extract()
        }
        // Types that the guards above have taken.
        other => Err(fault::arrow(format!("{other} has no values in Python"))),
    }
}

/// Calls `make` with each value that is not null.
fn each<'py, T>(
    py: Python<'py>,
    values: impl Iterator<Item = Option<T>>,
    make: impl Fn(T) -> PyResult<Bound<'py, PyAny>>,
) -> Values<'py> {
    values.map(|value| value.map_or_else(|| Ok(py.None().into_bound(py)), &make)).collect()
}

/// Calls `make` with each row of `array` that is not null.
fn whole<'py>(py: Python<'py>, array: &dyn Array, make: impl Fn(usize) -> PyResult<Bound<'py, PyAny>>) -> Values<'py> {
    each(py, (0..array.len()).map(|row| array.is_valid(row).then_some(row)), make)
}

fn decimals<'py, T: ArrowPrimitiveType + DecimalType>(py: Python<'py>, array: &PrimitiveArray<T>) -> Values<'py> {
    let class = py.import("decimal")?.getattr("Decimal")?;
    whole(py, array, |row| class.call1((array.value_as_string(row),)))
}

/// Returns the nanoseconds of a unit.
pub(crate) fn nanoseconds(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}
