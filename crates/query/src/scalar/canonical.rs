//! The function that makes floats comparable bit by bit: −0.0 becomes 0.0, and every NaN the same NaN.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, LargeListArray, ListArray, StructArray,
};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Returns `expr` with canonical floats.
pub(crate) fn canonical(expr: Expr) -> Expr {
    let function = ScalarUDF::from(Canonical { signature: Signature::any(1, Volatility::Immutable) });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![expr]))
}

/// Returns the expression whose floats `expr` makes canonical; `expr` itself if it is not such a call.
pub(crate) fn inner(expr: &Expr) -> &Expr {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let function: &dyn std::any::Any = func.inner().as_ref();
            match (function.is::<Canonical>(), args.as_slice()) {
                (true, [arg]) => arg,
                _ => expr,
            }
        }
        _ => expr,
    }
}

/// Returns whether values of `data_type` are or contain floats.
pub(crate) fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_floats(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        other => other.is_floating(),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Canonical {
    signature: Signature,
}

impl ScalarUDFImpl for Canonical {
    fn name(&self) -> &str {
        "canonical_floats"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Scalar(value)] => {
                let array = canonical_array(&value.to_array()?)?;
                datafusion::common::ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar)
            }
            [ColumnarValue::Array(array)] => canonical_array(array).map(ColumnarValue::Array),
            _ => datafusion::common::internal_err!("{} takes one argument", self.name()),
        }
    }
}

fn canonical_array(array: &ArrayRef) -> Result<ArrayRef> {
    // The sum of −0.0 and 0.0 is 0.0.
    macro_rules! floats {
        ($arrow:ty) => {{
            type Number = <$arrow as ArrowPrimitiveType>::Native;
            let number = |number: Number| if number.is_nan() { Number::NAN } else { number + Number::default() };
            Arc::new(array.as_primitive::<$arrow>().unary::<_, $arrow>(number)) as ArrayRef
        }};
    }
    Ok(match array.data_type() {
        DataType::Float16 => floats!(Float16Type),
        DataType::Float32 => floats!(Float32Type),
        DataType::Float64 => floats!(Float64Type),
        other if !has_floats(other) => Arc::clone(array),
        DataType::List(item) => {
            let lists = array.as_list::<i32>();
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Arc::new(ListArray::try_new(Arc::clone(item), offsets, canonical_array(lists.values())?, nulls)?)
        }
        DataType::LargeList(item) => {
            let lists = array.as_list::<i64>();
            let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
            Arc::new(LargeListArray::try_new(Arc::clone(item), offsets, canonical_array(lists.values())?, nulls)?)
        }
        DataType::FixedSizeList(item, width) => {
            let lists = array.as_fixed_size_list();
            let (values, nulls) = (canonical_array(lists.values())?, lists.nulls().cloned());
            Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *width, values, nulls)?)
        }
        DataType::Struct(fields) => {
            let structs = array.as_struct();
            let columns = structs.columns().iter().map(canonical_array).collect::<Result<Vec<_>>>()?;
            Arc::new(StructArray::try_new(fields.clone(), columns, structs.nulls().cloned())?)
        }
        _ => Arc::clone(array),
    })
}
