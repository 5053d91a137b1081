//! Row keys as text, for the error table and for people.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use cenote_base::{Error, Result};
use cenote_store::PrimaryKey;

use crate::fault::internal;

/// Renders each row of `keys` as a JSON list of its values as text: `["photos/a.jpg"]`. [`parse`] reads it back.
pub(crate) fn render(keys: &RecordBatch) -> Result<Vec<String>> {
    let options = FormatOptions::default();
    let formatters = keys
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()
        .map_err(internal("render keys"))?;
    let row = |row| {
        let values: Vec<String> = formatters.iter().map(|formatter| formatter.value(row).to_string()).collect();
        serde_json::to_string(&values).map_err(|source| Error::internal("render keys").with_source(source))
    };
    (0..keys.num_rows()).map(row).collect()
}

/// Parses keys that [`render`] wrote.
pub(crate) fn parse(key: &PrimaryKey, texts: &[String]) -> Result<RecordBatch> {
    let rows = texts
        .iter()
        .map(|text| serde_json::from_str(text))
        .collect::<Result<Vec<Vec<String>>, _>>()
        .map_err(|source| Error::corrupt("the error table holds a key that is unreadable").with_source(source))?;
    key.parse(&rows)
}
