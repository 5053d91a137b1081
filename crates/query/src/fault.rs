//! DataFusion's errors in terms of ours, and our errors on their way through DataFusion.

use cenote_base::{Error, ErrorKind, closest};
use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

/// Wraps one of our errors for its way through DataFusion.
pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Converts an error of DataFusion into an [`Error`]; one of ours inside it keeps its kind and message.
pub(crate) fn query_error(source: DataFusionError) -> Error {
    let (kind, message) = describe(&source);
    Error::new(kind, message).with_source(source)
}

fn describe(error: &DataFusionError) -> (ErrorKind, String) {
    use DataFusionError as Fusion;
    match error {
        Fusion::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => (ours.kind(), ours.message().to_owned()),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(nested) => describe(nested),
                None => (ErrorKind::Internal, inner.to_string()),
            },
        },
        Fusion::ArrowError(inner, _) => describe_arrow(inner),
        Fusion::Context(_, inner) | Fusion::Diagnostic(_, inner) => describe(inner),
        Fusion::Shared(inner) => describe(inner),
        Fusion::Collection(all) => {
            all.first().map_or_else(|| (ErrorKind::Internal, "the query failed".to_owned()), describe)
        }
        Fusion::SchemaError(inner, _) => (ErrorKind::InvalidInput, describe_schema(inner)),
        Fusion::SQL(inner, _) => (ErrorKind::InvalidInput, format!("the query does not parse: {}", parser_text(inner))),
        Fusion::Plan(text) | Fusion::Configuration(text) => (ErrorKind::InvalidInput, bare(text)),
        Fusion::Execution(text) => (ErrorKind::InvalidInput, bare(text)),
        Fusion::NotImplemented(text) => (ErrorKind::Unsupported, bare(text)),
        Fusion::ResourcesExhausted(text) => (
            ErrorKind::ResourceExhausted,
            format!("the query needs more memory than it may have; ask for less or raise the budget: {}", bare(text)),
        ),
        Fusion::IoError(inner) => (ErrorKind::Unavailable, inner.to_string()),
        other => (ErrorKind::Internal, bare(&other.strip_backtrace())),
    }
}

fn describe_arrow(error: &ArrowError) -> (ErrorKind, String) {
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
            Some(nested) => describe(nested),
            None => match inner.downcast_ref::<Error>() {
                Some(ours) => (ours.kind(), ours.message().to_owned()),
                None => (ErrorKind::Internal, inner.to_string()),
            },
        },
        ArrowError::DivideByZero => (ErrorKind::InvalidInput, "division by zero".to_owned()),
        ArrowError::MemoryError(text) => (ErrorKind::ResourceExhausted, text.clone()),
        ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::ArithmeticOverflow(text)
        | ArrowError::InvalidArgumentError(text) => (ErrorKind::InvalidInput, text.clone()),
        other => (ErrorKind::Internal, other.to_string()),
    }
}

fn describe_schema(error: &SchemaError) -> String {
    let SchemaError::FieldNotFound { field, valid_fields } = error else { return error.to_string() };
    let mut known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    known.dedup();
    let hint = closest(&field.name, known.iter().copied()).map_or_else(String::new, |name| {
        // SQL folds unquoted names to lower case.
        match name.chars().any(|c| c.is_ascii_uppercase()) {
            true => format!(": did you mean \"{name}\", in double quotes?"),
            false => format!(": did you mean `{name}`?"),
        }
    });
    match known.is_empty() {
        true => format!("no column `{}`", field.name),
        false => format!("no column `{}`{hint}; there are {}", field.name, known.join(", ")),
    }
}

fn parser_text(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.trim_start_matches("sql parser error: ").to_owned()
}

/// Strips the backtrace, and what DataFusion wraps around the error of one of our functions.
fn bare(text: &str) -> String {
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text);
    // DataFusion reports a function's refusal of its arguments as text, with a list of candidate functions behind it.
    let ours = text.split_once("failed with: External error: ").and_then(|(_, text)| text.split_once(". No function"));
    ours.map_or(text, |(ours, _)| ours).trim().to_owned()
}
