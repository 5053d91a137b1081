//! What DataFusion's errors mean for a caller, and ours on their way through DataFusion.

use cenote_base::{Error, ErrorKind, closest};
use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

/// Carries one of our errors through DataFusion.
pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The [`Error`] for one of DataFusion's. Takes it by value so that it fits `map_err`.
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
        Fusion::Plan(text) | Fusion::Configuration(text) => (ErrorKind::InvalidInput, first_line(text)),
        Fusion::Execution(text) => (ErrorKind::InvalidInput, first_line(text)),
        Fusion::NotImplemented(text) => (ErrorKind::Unsupported, first_line(text)),
        Fusion::ResourcesExhausted(text) => (
            ErrorKind::ResourceExhausted,
            format!(
                "the query needs more memory than it may have; ask for less or raise the budget: {}",
                first_line(text)
            ),
        ),
        Fusion::IoError(inner) => (ErrorKind::Unavailable, inner.to_string()),
        other => (ErrorKind::Internal, first_line(&other.strip_backtrace())),
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
        // A name with capitals is found only in double quotes.
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

/// The text without DataFusion's own remarks on how to report bugs, and without backtraces.
fn first_line(text: &str) -> String {
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text);
    // What a function of ours says of its arguments comes wrapped in a list of candidates.
    let ours = text.split_once("failed with: External error: ").and_then(|(_, text)| text.split_once(". No function"));
    ours.map_or(text, |(ours, _)| ours).trim().to_owned()
}
