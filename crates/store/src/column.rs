//! Which columns a table may have: names and types that every later read, fold and filter can deal with.
//!
//! Lance takes more when a table is made than it can write or read back. Only new columns are checked: a table that has
//! such a column already still opens.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field};
use cenote_base::{Error, Result};
use lance_core::is_system_column;

/// Columns whose names start so are Cenote's own: stored, but not part of
/// [`Snapshot::schema`](crate::Snapshot::schema).
pub const HIDDEN_PREFIX: &str = "_cenote_";

/// Whose columns are checked: only Cenote's own may have names in [`HIDDEN_PREFIX`].
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

/// The first of `names` that is there twice.
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
    } else if name == "*" {
        "that means all columns: choose another name"
    } else if name.contains(['`', '.', '\0']) {
        "a name has no backtick, dot or zero byte"
    } else {
        return Ok(());
    };
    Err(Error::invalid_input(format!("column `{}`: {wrong}", name.escape_debug())))
}

/// Checks `data_type` and all types within it. The names of fields within structs are free.
fn check_type(data_type: &DataType) -> Result<()> {
    match data_type {
        DataType::Struct(fields) => {
            if fields.is_empty() {
                return Err(Error::invalid_input("a struct has one field or more, found one without fields"));
            }
            if let Some(name) = repeated(fields.iter().map(|field| field.name())) {
                return Err(Error::invalid_input(format!("field `{name}` is twice in one struct: name each once")));
            }
            fields.iter().try_for_each(|field| check_type(field.data_type()))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => check_type(item.data_type()),
        DataType::FixedSizeList(item, _) => check_fixed(data_type, item.data_type()),
        _ => Ok(()),
    }
}

/// Checks what the fixed-size list `whole` holds: Lance writes values of one size, and only those.
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
