//! `cenote index`.

use cenote_runtime::arrow::array::RecordBatch;
use cenote_runtime::{IndexInfo, IndexKind, IndexSpec, Lake, Result};

use crate::arguments::IndexCommand;
use crate::output;

pub async fn run(lake: &Lake, command: &IndexCommand) -> Result<()> {
    match command {
        IndexCommand::Create { table, column, kind, name, metric, with } => {
            let metric = metric.iter().map(|metric| ("metric", metric.as_str()));
            let options = with.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let spec = IndexSpec { name: name.clone(), ..IndexSpec::new(column, IndexKind::parse(kind, metric.chain(options))?) };
            let index = lake.table(table).await?.create_index(spec).await?;
            output::note(&format!("built {} over {} rows of {table}.{column}", index.name, index.rows_indexed));
            Ok(())
        }
        IndexCommand::List { table, output } => {
            let indexes = lake.table(table).await?.indexes().await?;
            output::rows(&listing(&indexes)?, output.format)
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

fn listing(indexes: &[IndexInfo]) -> Result<RecordBatch> {
    output::listing(vec![
        ("name", output::texts(indexes.iter().map(|index| Some(index.name.as_str())))),
        ("column", output::texts(indexes.iter().map(|index| Some(index.column.as_str())))),
        ("structure", output::texts(indexes.iter().map(|index| Some(index.structure.as_str())))),
        ("metric", output::texts(indexes.iter().map(|index| index.metric.map(|metric| metric.to_string())))),
        ("rows_indexed", output::counts(indexes.iter().map(|index| index.rows_indexed as u64))),
        ("rows_unindexed", output::counts(indexes.iter().map(|index| index.rows_unindexed as u64))),
        ("built_to", output::counts(indexes.iter().map(|index| index.built_to.0))),
    ])
}
