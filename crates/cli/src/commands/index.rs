//! `cenote index`.

use cenote_runtime::{IndexInfo, IndexKind, IndexSpec, Lake, Result};

use crate::arguments::IndexCommand;
use crate::output;

pub async fn run(lake: &Lake, command: &IndexCommand) -> Result<()> {
    match command {
        IndexCommand::Create { table, column, kind, metric } => {
            let spec = IndexSpec::new(column, IndexKind::parse(kind, metric.as_deref())?);
            let index = lake.table(table).await?.create_index(spec).await?;
            output::note(&format!("built {} over {} rows of {table}.{column}", index.name, index.rows_indexed));
            Ok(())
        }
        IndexCommand::List { table, output } => {
            let indexes = lake.table(table).await?.indexes().await?;
            let rows: Vec<Vec<String>> = indexes.iter().map(row).collect();
            output::rows(&output::listing(&COLUMNS, &rows)?, output.format)
        }
        IndexCommand::Drop { table, name } => {
            lake.table(table).await?.drop_index(name).await?;
            output::note(&format!("dropped {name}"));
            Ok(())
        }
        IndexCommand::Optimize { table } => {
            lake.table(table).await?.optimize_indexes().await?;
            output::note(&format!("the indexes of {table} are up to date"));
            Ok(())
        }
    }
}

const COLUMNS: [&str; 7] = ["name", "column", "structure", "metric", "rows_indexed", "rows_unindexed", "built_to"];

fn row(index: &IndexInfo) -> Vec<String> {
    vec![
        index.name.clone(),
        index.column.clone(),
        index.structure.clone(),
        index.metric.map_or_else(String::new, |metric| metric.to_string()),
        index.rows_indexed.to_string(),
        index.rows_unindexed.to_string(),
        index.built_to.to_string(),
    ]
}
