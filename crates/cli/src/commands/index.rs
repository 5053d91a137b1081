//! `cenote index`.

use std::sync::Arc;

use cenote_runtime::arrow::array::{RecordBatch, UInt64Array};
use cenote_runtime::{ByteSize, IndexInfo, IndexKind, IndexSpec, Lake, Progress, Result, Tuning};

use crate::arguments::{IndexCommand, OutputFormat};
use crate::output;

pub async fn run(lake: &Lake, command: &IndexCommand, progress: &Arc<dyn Progress>) -> Result<()> {
    match command {
        IndexCommand::Create { table, column, kind, name, metric, with, device: _ } => {
            let metric = metric.iter().map(|metric| ("metric", metric.as_str()));
            let options = with.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let spec = IndexSpec {
                name: name.clone(),
                ..IndexSpec::new(column, IndexKind::parse(kind, metric.chain(options))?)
            };
            let index = lake.table(table).await?.create_index_watched(spec, progress).await?;
            let rows = output::count(index.rows_indexed, "row");
            output::note(&format!("built {} over {rows} of {table}.{column}", index.name));
            Ok(())
        }
        IndexCommand::List { table, output } => {
            let table = lake.table(table).await?;
            let (indexes, upkeep) = (table.indexes().await?, table.upkeep().await?.failure);
            output::rows(&listing(&indexes, upkeep.as_deref(), output.format)?, output.format)
        }
        IndexCommand::Drop { table, name } => {
            lake.table(table).await?.drop_index(name).await?;
            output::note(&format!("dropped {name}"));
            Ok(())
        }
        IndexCommand::Tune { table, column, recall, metric, output } => {
            let metric = metric.as_deref().map(str::parse).transpose()?;
            let tuning = lake.table(table).await?.tune_index(column, metric, *recall).await?;
            output::rows(&curve(&tuning)?, output.format)?;
            let (index, found) = (&tuning.index, tuning.chosen.recall);
            output::note(&match found >= tuning.target {
                true => format!("searches by {index} find {found:.3} of the nearest rows now"),
                false => format!(
                    "searches by {index} find {found:.3} at most, not {}; they look as hard as they can",
                    tuning.target
                ),
            });
            Ok(())
        }
        IndexCommand::Optimize { table } => {
            lake.table(table).await?.optimize_indexes().await?;
            output::note(&format!("the indexes of {table} are up to date"));
            Ok(())
        }
    }
}

fn curve(tuning: &Tuning) -> Result<RecordBatch> {
    let points = || tuning.points.iter();
    let number = |number: Option<usize>| number.map(|number| number.to_string());
    output::listing(vec![
        ("probes", output::texts(points().map(|point| number(point.search.probes)))),
        ("ef", output::texts(points().map(|point| number(point.search.ef)))),
        ("refine", output::texts(points().map(|point| point.search.refine.map(|refine| refine.to_string())))),
        ("recall", output::texts(points().map(|point| Some(format!("{:.3}", point.recall))))),
        ("queries_per_s", output::counts(points().map(|point| point.queries_per_s as u64))),
    ])
}

/// Lists `indexes`; `upkeep` is the last failure of the table's upkeep.
fn listing(indexes: &[IndexInfo], upkeep: Option<&str>, format: OutputFormat) -> Result<RecordBatch> {
    let memory = || indexes.iter().map(|index| index.memory_bytes);
    let memory = match format {
        OutputFormat::Table => output::texts(memory().map(|bytes| bytes.map(|bytes| ByteSize(bytes).to_string()))),
        _ => Arc::new(memory().collect::<UInt64Array>()),
    };
    output::listing(vec![
        ("name", output::texts(indexes.iter().map(|index| Some(index.name.as_str())))),
        ("column", output::texts(indexes.iter().map(|index| Some(index.column.as_str())))),
        ("structure", output::texts(indexes.iter().map(|index| Some(index.structure.as_str())))),
        ("metric", output::texts(indexes.iter().map(|index| index.metric.map(|metric| metric.to_string())))),
        ("rows_indexed", output::counts(indexes.iter().map(|index| index.rows_indexed as u64))),
        ("rows_unindexed", output::counts(indexes.iter().map(|index| index.rows_unindexed as u64))),
        ("recall", output::texts(indexes.iter().map(|index| index.measured.map(|m| format!("{:.3}", m.recall))))),
        ("built_to", output::counts(indexes.iter().map(|index| index.built_to.0))),
        ("memory", memory),
        ("failure", output::texts(indexes.iter().map(|index| index.trouble(upkeep)))),
    ])
}
