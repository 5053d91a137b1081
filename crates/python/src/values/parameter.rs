//! Values of queries: vectors and parameters.

use cenote_runtime::Parameter;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDateTime};

use crate::fault;

/// Returns a query vector, given as any sequence of numbers.
pub(crate) fn vector(values: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let numbers = values.extract::<Vec<f32>>();
    numbers.map_err(|_| fault::invalid("a vector must be a sequence of numbers, such as a list or a numpy array"))
}

/// Returns the parameter of a statement.
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
    if let Ok(number) = value.extract::<f64>() {
        if !number.is_nan() && !value.eq(number)? {
            let what = value.repr()?;
            return Err(fault::invalid(format!(
                "{what} is neither a 64-bit integer nor a float: give its text and cast it, as in \
                 CAST($1 AS DECIMAL(20, 2))"
            )));
        }
        return Ok(Parameter::Number(number));
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
            "a parameter must be None, a bool, a number, a str, bytes, a datetime or a vector, found {what}"
        ))
    })
}
