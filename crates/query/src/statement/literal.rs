//! Literals of timestamps that DataFusion would misread: those with an offset from UTC, which it forgets, and those
//! outside the years 1677 to 2262, which nanoseconds do not reach.

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, TimezoneInfo, TypedString, Value, ValueWithSpan,
};

/// Returns the expression to plan instead of `expression`, if it is such a literal: an instant, or a time in
/// microseconds.
pub(super) fn exact(expression: &Expr) -> Option<Expr> {
    let (data_type, value) = match expression {
        Expr::TypedString(TypedString { data_type, value, .. }) => (data_type, value),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => match expr.as_ref() {
            Expr::Value(value) => (data_type, value),
            _ => return None,
        },
        _ => return None,
    };
    let (DataType::Timestamp(precision, zone), ValueWithSpan { value: Value::SingleQuotedString(text), .. }) =
        (data_type, value)
    else {
        return None;
    };
    let read = |zone: &str| -> Option<_> { string_to_datetime(&zone.parse::<Tz>().ok()?, text).ok() };
    // Only a text without an offset is another instant in another zone.
    let (time, is_instant) = (read("+00:00")?, read("+00:00")? == read("+01:00")?);
    let unit = match (precision, time.timestamp_nanos_opt()) {
        (Some(0), _) => "Second",
        (Some(3), _) => "Millisecond",
        (None | Some(9), Some(_)) => "Nanosecond",
        _ => "Microsecond",
    };
    let has_zone = is_instant || matches!(zone, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone);
    match (has_zone, unit) {
        (true, _) => Some(arrow_cast(text, &format!("Timestamp({unit}, Some(\"UTC\"))"))),
        (false, "Microsecond") => Some(arrow_cast(text, "Timestamp(Microsecond, None)")),
        (false, _) => None,
    }
}

fn arrow_cast(text: &str, data_type: &str) -> Expr {
    let text_of = |text: &str| Expr::value(Value::SingleQuotedString(text.to_owned()));
    call("arrow_cast", vec![text_of(text), text_of(data_type)])
}

/// Returns a call of the function `name`.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    let args = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_quote('"', name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
