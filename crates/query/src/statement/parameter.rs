//! Values for the placeholders `$1`, `$2` … of a statement, put into its syntax tree before it is planned. So a
//! placeholder may stand wherever a constant may, also as an argument of a table function, and no text is ever parsed
//! as SQL.

use std::ops::ControlFlow;

use cenote_base::{Error, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Array, DataType, Expr, TimezoneInfo, TypedString, UnaryOperator, Value, ValueWithSpan, visit_expressions_mut,
};

/// A value for a placeholder of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Number(f64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A time, as `2026-01-31T12:00:00.000000`.
    Time(String),
    /// A vector.
    Vector(Vec<f32>),
}

/// Replaces `$1` and so on by `parameters`.
///
/// # Errors
/// `InvalidInput` for a placeholder without a parameter, a parameter without a placeholder, or a number that is not
/// finite.
pub(crate) fn bind(statement: &mut Statement, parameters: &[Parameter]) -> Result<()> {
    let mut inner = statement;
    while let Statement::Explain(explain) = inner {
        inner = &mut explain.statement;
    }
    let Statement::Statement(ast) = inner else { return Ok(()) };
    let mut used = vec![false; parameters.len()];
    let bound = visit_expressions_mut(ast, |expression: &mut Expr| {
        let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expression else {
            return ControlFlow::Continue(());
        };
        let at = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()).and_then(|n| n.checked_sub(1));
        match at.and_then(|at| Some((at, parameters.get(at)?))) {
            Some((at, parameter)) => match literal(parameter) {
                Ok(literal) => {
                    used[at] = true;
                    *expression = literal;
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error.context(format!("parameter {name}"))),
            },
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

fn literal(parameter: &Parameter) -> Result<Expr> {
    Ok(match parameter {
        Parameter::Null => Expr::value(Value::Null),
        Parameter::Boolean(value) => Expr::value(Value::Boolean(*value)),
        Parameter::Integer(value) => signed(value.unsigned_abs().to_string(), *value < 0),
        Parameter::Number(value) => number(*value)?,
        Parameter::Text(text) => Expr::value(Value::SingleQuotedString(text.clone())),
        Parameter::Bytes(bytes) => {
            Expr::value(Value::HexStringLiteral(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
        }
        Parameter::Time(text) => Expr::TypedString(TypedString {
            data_type: DataType::Timestamp(None, TimezoneInfo::None),
            value: Value::SingleQuotedString(text.clone()).into(),
            uses_odbc_syntax: false,
        }),
        Parameter::Vector(numbers) => {
            let elem = numbers.iter().map(|value| number(f64::from(*value))).collect::<Result<Vec<_>>>()?;
            Expr::Array(Array { elem, named: false })
        }
    })
}

fn number(value: f64) -> Result<Expr> {
    if !value.is_finite() {
        return Err(Error::invalid_input(format!("{value} is not a number that SQL can compare")));
    }
    // The exponent makes it a floating-point number in SQL, whatever its value.
    Ok(signed(format!("{:e}", value.abs()), value.is_sign_negative()))
}

fn signed(digits: String, negative: bool) -> Expr {
    let value = Expr::value(Value::Number(digits, false));
    match negative {
        true => Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(value) },
        false => value,
    }
}
