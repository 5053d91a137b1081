//! The types of the arguments of a function.
//!
//! DataFusion turns an error of `coerce_types` into text, and keeps one of `return_field_from_args` as it is. So the
//! first leaves arguments of wrong types alone, and the second, which runs after it, refuses them.

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::ReturnFieldArgs;

/// Returns the types of `args`.
pub(super) fn argument_types(args: &ReturnFieldArgs) -> Vec<DataType> {
    args.arg_fields.iter().map(|field| field.data_type().clone()).collect()
}

/// Returns the types to which arguments are cast: those that `fitting` found, or the `given` ones if it refuses them.
pub(super) fn coerced(given: &[DataType], fitting: cenote_base::Result<Vec<DataType>>) -> Vec<DataType> {
    fitting.unwrap_or_else(|_| given.to_vec())
}
