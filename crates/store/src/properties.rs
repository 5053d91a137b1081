//! The properties of tables that Cenote itself reads: their names and their valid values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use cenote_base::{Error, Result};

/// The property that lists which columns become void when another one changes: a JSON object from column to list of
/// columns. [`Table::update`](crate::Table::update) sets the dependent columns to null along with the change; a 64-bit
/// integer that was not null becomes [`VOID`]. [`Table::drop_columns`](crate::Table::drop_columns) drops those of them
/// that are Cenote's own.
pub const DEPENDENTS_PROPERTY: &str = "cenote.dependents";

/// The value of a void 64-bit integer, which distinguishes it from one that was never set (null).
pub const VOID: i64 = 0;

/// The property that decides what happens to a write that holds a key twice: `error` (the default) refuses it, `last`
/// keeps the last row.
pub const DUPLICATES_PROPERTY: &str = "cenote.duplicates";

/// The property that decides when a write is acknowledged: `synced` (the default) when it is on the disk, `relaxed`
/// when the operating system has it. Under `relaxed`, a crash of the machine may lose the writes of the last seconds,
/// newest first; a crash of the process loses nothing.
pub const DURABILITY_PROPERTY: &str = "cenote.durability";

/// The property that sets for how many seconds the past can be read; one day by default.
pub const RETENTION_PROPERTY: &str = "cenote.retention_seconds";
/// The property that sets how many bytes of the log are kept at most, whatever its age and whoever reads it; unlimited
/// by default. Tagged versions are kept all the same.
pub const RETENTION_BYTES_PROPERTY: &str = "cenote.retention_bytes";
const RETENTION_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// Refuses invalid values of Cenote's own properties.
pub(crate) fn check(name: &str, value: Option<&str>) -> Result<()> {
    let allowed: &[&str] = match name {
        DUPLICATES_PROPERTY => &["error", "last"],
        DURABILITY_PROPERTY => &["synced", "relaxed"],
        _ => &[],
    };
    match value {
        Some(value) if [RETENTION_PROPERTY, RETENTION_BYTES_PROPERTY].contains(&name) => {
            parse_limit(name, value).map(drop)
        }
        Some(value) if name == DEPENDENTS_PROPERTY => parse_dependents(value).map(drop).map_err(|source| {
            Error::invalid_input(format!(
                "property `{name}` is a JSON object from column to list of columns, such as {{\"caption\": \
                 [\"embedding\"]}}, found `{value}`"
            ))
            .with_source(source)
        }),
        Some(value) if !allowed.is_empty() && !allowed.contains(&value) => {
            let allowed = allowed.join("` or `");
            Err(Error::invalid_input(format!("property `{name}` is `{allowed}`, found `{value}`")))
        }
        _ => Ok(()),
    }
}

/// Returns for how long the past of a table with `properties` can be read.
pub(crate) fn retention(properties: &HashMap<String, String>) -> Result<Duration> {
    let seconds = properties.get(RETENTION_PROPERTY).map(|text| parse_limit(RETENTION_PROPERTY, text)).transpose()?;
    Ok(seconds.map_or(RETENTION_DEFAULT, Duration::from_secs))
}

/// Parses `text` as the value of the limit `property`.
pub(crate) fn parse_limit(property: &str, text: &str) -> Result<u64> {
    let unit = if property == RETENTION_PROPERTY { "seconds" } else { "bytes" };
    text.parse().map_err(|source: std::num::ParseIntError| {
        Error::invalid_input(format!("property `{property}` is a number of {unit}, found `{text}`")).with_source(source)
    })
}

/// Returns the value of [`DEPENDENTS_PROPERTY`] in `properties`.
///
/// # Errors
/// `Corrupt` when it cannot be parsed.
pub(crate) fn dependents(properties: &HashMap<String, String>) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let Some(text) = properties.get(DEPENDENTS_PROPERTY) else { return Ok(BTreeMap::new()) };
    parse_dependents(text)
        .map_err(|source| Error::corrupt(format!("property {DEPENDENTS_PROPERTY} is unreadable")).with_source(source))
}

/// Parses [`DEPENDENTS_PROPERTY`]: for each column, the columns that become void when it changes.
fn parse_dependents(text: &str) -> serde_json::Result<BTreeMap<String, BTreeSet<String>>> {
    serde_json::from_str(text)
}
