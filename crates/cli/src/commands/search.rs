//! `cenote search`.

use std::path::PathBuf;

use cenote_runtime::arrow::datatypes::DataType;
use cenote_runtime::{Context, Error, IndexKind, Lake, Result, Search, Snapshot, is_blob};

use crate::arguments::FormatKind;
use crate::output;

/// What to look for.
pub struct Request<'a> {
    pub text: &'a Option<String>,
    pub image: &'a Option<PathBuf>,
    pub column: &'a Option<String>,
    pub filter: &'a Option<String>,
    pub k: usize,
}

pub async fn run(lake: &Lake, name: &str, request: Request<'_>, format: FormatKind) -> Result<()> {
    let table = lake.table(name).await?;
    let snapshot = table.snapshot().await?;
    let has_text_index = table.indexes().await?.iter().any(|index| matches!(index.kind, IndexKind::FullText { .. }));
    let mut search = Search { filter: request.filter.clone(), k: request.k, ..Search::default() };
    search.columns = Some(shown(&snapshot));

    if let Some(path) = request.image {
        let picture = tokio::fs::read(path).await.context(|| format!("read {}", path.display()))?;
        let (column, dimensions) = vector_column(&snapshot, request.column.as_deref(), name)?;
        search.vector = Some((column, lake.embed_image(&picture, dimensions).await?));
    }
    if let Some(text) = request.text {
        if request.image.is_some() && !has_text_index {
            return Err(Error::not_found(format!(
                "table `{name}` has no full-text index for the words beside the picture: leave one of them out, or `cenote \
                 index create {name} COLUMN --kind text`"
            )));
        }
        if has_text_index {
            search.text = Some((String::new(), text.clone()));
        }
        if search.vector.is_none() {
            match vector_column(&snapshot, request.column.as_deref(), name) {
                Ok((column, _)) => search.vector = Some((column, lake.embed_text(text).await?)),
                // Words alone are enough, unless a vector column was asked for by name.
                Err(_) if has_text_index && request.column.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }
    output::rows(&table.search(&search).await?, format)
}

/// The columns worth showing: no media, no vectors.
fn shown(snapshot: &Snapshot) -> Vec<String> {
    let small =
        |data_type: &DataType| !data_type.is_nested() && !matches!(data_type, DataType::Binary | DataType::LargeBinary);
    let fields = snapshot.schema().fields().iter().filter(|field| !is_blob(field) && small(field.data_type()));
    fields.map(|field| field.name().clone()).collect()
}

fn vector_column(snapshot: &Snapshot, wanted: Option<&str>, table: &str) -> Result<(String, usize)> {
    let vectors: Vec<(String, usize)> = snapshot
        .schema()
        .fields()
        .iter()
        .filter_map(|field| match field.data_type() {
            DataType::FixedSizeList(item, width) if item.data_type() == &DataType::Float32 => {
                Some((field.name().clone(), *width as usize))
            }
            _ => None,
        })
        .collect();
    let names = vectors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => vectors.iter().find(|(name, _)| name == wanted).cloned().ok_or_else(|| {
            Error::not_found(format!("table `{table}` has no vector column `{wanted}`; it has {names}"))
        }),
        None => match &vectors[..] {
            [only] => Ok(only.clone()),
            [] => Err(Error::not_found(format!(
                "table `{table}` has neither a full-text index nor a vector column: run a recipe that embeds, or \
                 `cenote index create {table} COLUMN --kind text`"
            ))),
            _ => Err(Error::invalid_input(format!(
                "table `{table}` has several vector columns; choose one with --column: {names}"
            ))),
        },
    }
}
