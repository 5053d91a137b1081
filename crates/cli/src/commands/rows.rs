//! `cenote get` and `cenote delete`.

use cenote_runtime::{Error, Lake, Result};

use crate::arguments::OutputFormat;
use crate::output;

pub async fn get(lake: &Lake, table: &str, key: &[String], format: OutputFormat) -> Result<()> {
    let rows = lake.table(table).await?.get_keys(&[key.to_vec()], None).await?;
    if rows.num_rows() == 0 {
        return Err(Error::not_found(format!("table `{table}` has no row with key {}", key.join(", "))));
    }
    output::rows(&rows, format)
}

pub async fn delete(lake: &Lake, table: &str, keys: &[String]) -> Result<()> {
    let table = lake.table(table).await?;
    let width = table.snapshot().await?.primary_key().columns().len();
    // A comma belongs to the value if the key is one column.
    let split = |key: &String| if width == 1 { vec![key.clone()] } else { key.split(',').map(str::to_owned).collect() };
    let report = table.delete_keys(&keys.iter().map(split).collect::<Vec<_>>()).await?;
    output::note(&format!("deleted {} of {} rows", report.deleted, keys.len()));
    Ok(())
}
