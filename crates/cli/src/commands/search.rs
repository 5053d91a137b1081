//! `cenote search`.

use std::path::Path;

use cenote_runtime::arrow::datatypes::DataType;
use cenote_runtime::{Context, Error, ErrorKind, IndexKind, Lake, Result, Search, Snapshot, is_blob};

use crate::arguments::OutputFormat;
use crate::output;

/// The arguments of `cenote search` that say what to find.
pub struct SearchArguments<'a> {
    pub text: Option<&'a str>,
    pub image: Option<&'a Path>,
    pub column: Option<&'a str>,
    pub filter: Option<&'a str>,
    pub k: usize,
}

pub async fn run(lake: &Lake, name: &str, wanted: SearchArguments<'_>, format: OutputFormat) -> Result<()> {
    let table = lake.table(name).await?;
    let snapshot = table.snapshot().await?;
    let has_text_index = table.indexes().await?.iter().any(|index| matches!(index.kind, IndexKind::FullText { .. }));
    let column = wanted.column;
    let mut search = Search::new(wanted.k).columns(shown(&snapshot));
    if let Some(filter) = wanted.filter {
        search = search.filter(filter);
    }

    if let Some(path) = wanted.image {
        let picture = tokio::fs::read(path).await.context(|| format!("read {}", path.display()))?;
        let column = table.vector_column(column).await?;
        let vector = lake.embed_image(&picture, column.dimensions).await?;
        search = search.vector(column.name, vector);
    }
    if let Some(text) = wanted.text {
        if wanted.image.is_some() && !has_text_index {
            return Err(Error::not_found(format!(
                "table `{name}` has no full-text index for the words beside the picture: leave one out, or \
                 `cenote index create {name} COLUMN --kind text`"
            )));
        }
        if has_text_index {
            search = search.text(text);
        }
        if wanted.image.is_none() {
            // Words alone are enough, unless the caller names a vector column.
            let words_suffice = has_text_index && column.is_none();
            match table.vector_column(column).await {
                Ok(column) if words_suffice && column.item != DataType::Float32 => {}
                Ok(column) => search = search.vector(column.name, lake.embed_text(text).await?),
                Err(error)
                    if words_suffice && [ErrorKind::NotFound, ErrorKind::InvalidInput].contains(&error.kind()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound && column.is_none() => {
                    return Err(Error::not_found(format!(
                        "table `{name}` has neither a full-text index nor a vector column: run a recipe that embeds, \
                         or `cenote index create {name} COLUMN --kind text`"
                    )));
                }
                Err(error) => return Err(error),
            }
        }
    }
    output::rows(&table.search(&search).await?, format)
}

/// Returns the columns worth showing: neither media nor vectors.
fn shown(snapshot: &Snapshot) -> Vec<String> {
    let small =
        |data_type: &DataType| !data_type.is_nested() && !matches!(data_type, DataType::Binary | DataType::LargeBinary);
    let fields = snapshot.schema().fields().iter().filter(|field| !is_blob(field) && small(field.data_type()));
    fields.map(|field| field.name().clone()).collect()
}
