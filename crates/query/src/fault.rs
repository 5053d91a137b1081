//! DataFusion's errors in terms of ours, and our errors on their way through DataFusion.

use std::collections::BTreeSet;

use cenote_base::{Error, ErrorKind, closest, unknown};
use datafusion::arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

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
        Fusion::Plan(text) | Fusion::Configuration(text) | Fusion::Execution(text) => {
            (ErrorKind::InvalidInput, text.clone())
        }
        Fusion::NotImplemented(text) => (ErrorKind::Unsupported, text.clone()),
        Fusion::ResourcesExhausted(text) => (
            ErrorKind::ResourceExhausted,
            format!("the query needs more memory than it may have; ask for less or raise the budget: {text}"),
        ),
        Fusion::IoError(inner) => (ErrorKind::Unavailable, inner.to_string()),
        other => (ErrorKind::Internal, other.strip_backtrace()),
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
    // Tables that are joined may have columns of one name.
    let mut seen = BTreeSet::new();
    let known = valid_fields.iter().map(|column| column.name.as_str()).filter(|name| seen.insert(*name));
    let known: Vec<&str> = known.collect();
    let name = &field.name;
    // SQL folds unquoted names to lower case.
    match closest(name, known.iter().copied()).filter(|near| near.chars().any(|c| c.is_ascii_uppercase())) {
        Some(near) => {
            format!("no column `{name}`: did you mean \"{near}\", in double quotes?; there are {}", known.join(", "))
        }
        None => unknown("column", name, known).message().to_owned(),
    }
}

fn parser_text(error: &ParserError) -> &str {
    match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => "it is nested too deeply",
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::Column;

    use super::*;

    #[test]
    fn a_column_of_two_joined_tables_is_listed_once() {
        let columns = ["a", "b"].into_iter().flat_map(|table| ["id", "caption"].map(|name| (table, name)));
        let error = SchemaError::FieldNotFound {
            field: Box::new(Column::from_name("captoin")),
            valid_fields: columns.map(|(table, name)| Column::new(Some(table), name)).collect(),
        };
        assert_eq!(describe_schema(&error), "no column `captoin`: did you mean `caption`?; there are id, caption");
    }

    #[test]
    fn the_text_of_an_error_is_not_taken_apart() {
        let text = "the plan failed with: External error: a reason. No function is left out";
        assert_eq!(query_error(DataFusionError::Plan(text.to_owned())).message(), text);
    }

    #[test]
    fn a_column_in_capitals_is_suggested_in_quotes() {
        let error = SchemaError::FieldNotFound {
            field: Box::new(Column::from_name("caption")),
            valid_fields: vec![Column::from_name("Caption")],
        };
        let text = "no column `caption`: did you mean \"Caption\", in double quotes?; there are Caption";
        assert_eq!(describe_schema(&error), text);
    }
}
