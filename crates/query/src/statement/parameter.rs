//! Values for the placeholders `$1`, `$2` … of a statement, put into its syntax tree before it is planned. So a
//! placeholder may stand wherever a constant may, also as an argument of a table function, and no text is ever parsed
//! as SQL.

use std::ops::ControlFlow;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::DataType;
use cenote_base::{Error, Result};
use datafusion::common::ScalarValue;
use datafusion::error::Result as FusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr as PlanExpr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan, visit_expressions_mut};

use super::literal;
use crate::fault::query_error;

/// A value for a placeholder of a statement: an array of one row, whose type is the type of the placeholder.
#[derive(Debug, Clone)]
pub struct Parameter(ArrayRef);

impl Parameter {
    /// Makes a parameter of the one row of `array`.
    ///
    /// # Errors
    /// `InvalidInput` when `array` has another number of rows.
    pub fn new(array: ArrayRef) -> Result<Self> {
        match array.len() {
            1 => Ok(Self(array)),
            rows => Err(Error::invalid_input(format!("a parameter is one value, found an array of {rows}"))),
        }
    }

    /// Returns the expression that stands for the parameter `name`. Texts are literals because the name of a searched
    /// table is read from the syntax tree; other values keep their type as a function without arguments, which the
    /// planner evaluates.
    fn expression(&self, name: &str) -> Expr {
        match self.0.data_type() {
            DataType::Utf8 if self.0.is_valid(0) => {
                Expr::value(Value::SingleQuotedString(self.0.as_string::<i32>().value(0).to_owned()))
            }
            _ => literal::call(name, Vec::new()),
        }
    }
}

/// Returns the functions `$1`, `$2` … for the values of `parameters`.
pub(crate) fn functions(parameters: &[Parameter]) -> Result<Vec<ScalarUDF>> {
    let function = |(at, parameter): (usize, &Parameter)| {
        let value = ScalarValue::try_from_array(&parameter.0, 0).map_err(query_error)?;
        let signature = Signature::nullary(Volatility::Immutable);
        Ok(ScalarUDF::from(ParameterFunction { name: format!("${}", at + 1), value, signature }))
    };
    parameters.iter().enumerate().map(function).collect()
}

/// The function that returns the value of a parameter.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ParameterFunction {
    name: String,
    value: ScalarValue,
    signature: Signature,
}

impl ScalarUDFImpl for ParameterFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn display_name(&self, _args: &[PlanExpr]) -> FusionResult<String> {
        Ok(self.name.clone())
    }

    fn schema_name(&self, _args: &[PlanExpr]) -> FusionResult<String> {
        Ok(self.name.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> FusionResult<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> FusionResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

/// Replaces `$1` and so on by `parameters`, and literals of timestamps by what they say.
///
/// # Errors
/// `InvalidInput` for a placeholder without a parameter, or a parameter without a placeholder.
pub(crate) fn bind(statement: &mut Statement, parameters: &[Parameter]) -> Result<()> {
    let mut inner = statement;
    while let Statement::Explain(explain) = inner {
        inner = &mut explain.statement;
    }
    let Statement::Statement(ast) = inner else { return Ok(()) };
    let mut used = vec![false; parameters.len()];
    let bound = visit_expressions_mut(ast, |expression: &mut Expr| {
        let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expression else {
            if let Some(exact) = literal::exact(expression) {
                *expression = exact;
            }
            return ControlFlow::Continue(());
        };
        let at = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()).and_then(|n| n.checked_sub(1));
        match at.and_then(|at| Some((at, parameters.get(at)?))) {
            Some((at, parameter)) => {
                used[at] = true;
                *expression = parameter.expression(name);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(Error::invalid_input(format!(
                "the statement has a placeholder {name}, and {} parameters were given: write $1, $2 and so on, and \
                 give as many",
                parameters.len()
            ))),
        }
    });
    if let ControlFlow::Break(error) = bound {
        return Err(error);
    }
    match used.iter().position(|used| !used) {
        Some(unused) => {
            Err(Error::invalid_input(format!("parameter {} was given, and the statement has no ${0}", unused + 1)))
        }
        None => Ok(()),
    }
}
