//! The columns that a table may have: names and types that every later read, fold and filter supports.
//!
//! Lance accepts more when a table is created than it can write or read back. Only new columns are checked: a table
//! that already has an unsupported column still opens.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use cenote_base::{Error, Result};
use lance_core::is_system_column;

/// The prefix of the names of Cenote's own columns: they are stored, but not part of
/// [`Snapshot::schema`](crate::Snapshot::schema).
pub const HIDDEN_PREFIX: &str = "_cenote_";

/// Columns that searches add to those of the table.
const SEARCH_COLUMNS: [&str; 2] = ["_distance", "_score"];

/// The owner of the checked columns: only Cenote's own may have names that begin with [`HIDDEN_PREFIX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Caller,
    Cenote,
}

/// Checks the name and the type of a new column.
///
/// # Errors
/// `InvalidInput` for a name that is reserved or cannot be referred to, or a type that cannot be stored.
pub(crate) fn check(field: &Field, owner: Owner) -> Result<()> {
    check_name(field.name(), owner)?;
    check_type(field.data_type()).map_err(|error| error.context(format!("column `{}`", field.name())))
}

/// Returns `schema` with the types in which its columns are stored.
///
/// Keys of dictionaries have at least 32 bits, because one dictionary holds the values of many writes. Entries of maps
/// are unordered.
pub(crate) fn stored(schema: &Schema) -> Schema {
    Schema::new_with_metadata(stored_fields(schema.fields()), schema.metadata().clone())
}

fn stored_fields(fields: &Fields) -> Fields {
    fields.iter().map(stored_field).collect()
}

fn stored_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(stored_type(field.data_type())))
}

fn stored_type(data_type: &DataType) -> DataType {
    use DataType::{Dictionary, FixedSizeList, Int8, Int16, Int32, LargeList, List, Map, Struct, UInt8, UInt16};
    match data_type {
        Dictionary(keys, values) if matches!(**keys, Int8 | Int16 | UInt8 | UInt16) => {
            Dictionary(Box::new(Int32), values.clone())
        }
        Struct(fields) => Struct(stored_fields(fields)),
        List(item) => List(stored_field(item)),
        LargeList(item) => LargeList(stored_field(item)),
        FixedSizeList(item, length) => FixedSizeList(stored_field(item), *length),
        Map(entries, _) => Map(stored_field(entries), false),
        other => other.clone(),
    }
}

/// Returns the first of `names` that is repeated.
pub(crate) fn repeated<'a>(names: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

fn check_name(name: &str, owner: Owner) -> Result<()> {
    let wrong = if name.is_empty() {
        "a column needs a name"
    } else if name.starts_with(HIDDEN_PREFIX) && owner == Owner::Caller {
        return Err(Error::invalid_input(format!("column `{name}`: names in {HIDDEN_PREFIX} are reserved")));
    } else if is_system_column(name) {
        "Lance has a column of that name in every table: choose another"
    } else if SEARCH_COLUMNS.contains(&name) {
        "the results of searches have a column of that name: choose another"
    } else if name == "*" {
        "that means all columns: choose another name"
    } else if name.contains(['`', '.', '\0']) {
        "a name has no backtick, dot or zero byte"
    } else {
        return Ok(());
    };
    Err(Error::invalid_input(format!("column `{}`: {wrong}", name.escape_debug())))
}

/// Checks `data_type` and all types within it. Fields of structs may have any names, but must have distinct ones.
fn check_type(data_type: &DataType) -> Result<()> {
    match data_type {
        DataType::Struct(fields) => {
            if fields.is_empty() {
                return Err(Error::invalid_input("a struct has one field or more, found one without fields"));
            }
            if fields.iter().any(|field| field.name().is_empty()) {
                return Err(Error::invalid_input("each field of a struct needs a name"));
            }
            if let Some(name) = repeated(fields.iter().map(|field| field.name())) {
                return Err(Error::invalid_input(format!("field `{name}` is twice in one struct: name each once")));
            }
            fields.iter().try_for_each(|field| check_type(field.data_type()))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => check_type(item.data_type()),
        DataType::FixedSizeList(item, _) => check_fixed(data_type, item.data_type()),
        DataType::Dictionary(_, values) if **values == DataType::Boolean => {
            Err(Error::invalid_input("a dictionary of booleans cannot be written: make it a column of booleans"))
        }
        _ => Ok(()),
    }
}

/// Checks the items of the fixed-size list `whole`: Lance can write only values of one size.
fn check_fixed(whole: &DataType, item: &DataType) -> Result<()> {
    match item {
        DataType::FixedSizeList(item, _) => check_fixed(whole, item.data_type()),
        DataType::Boolean | DataType::FixedSizeBinary(_) | DataType::Null => Ok(()),
        item if item.is_primitive() => Ok(()),
        item => Err(Error::invalid_input(format!(
            "a fixed-size list holds numbers, booleans, times or binary values of one size, found {whole}: make it a \
             list of {item}"
        ))),
    }
}
