//! Making, refreshing and dropping indexes.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, Result};
use cenote_store::{Snapshot, Table, is_blob, lance_error};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::optimize::OptimizeOptions;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_index::{IndexParams, IndexType};

use crate::catalog::{IndexInfo, list};
use crate::spec::{IndexKind, IndexSpec, Metric};

/// Up to so many vectors are kept whole: comparing with all of them is quicker than walking a graph, and exact.
const FLAT_ROWS_MAX: usize = 5_000;
const FLAT_ROWS_PER_PARTITION: usize = 1_000;
const PARTITIONS_MAX: usize = 4_096;
const DIMENSIONS_MAX: i32 = 4_096;
/// An index of more pieces than this is merged into one: each search opens every piece.
const SEGMENTS_MAX: usize = 8;

/// Builds the index `spec` over the newest version of `table`; one of the same name is replaced. Writers wait meanwhile,
/// readers do not.
///
/// # Errors
/// `NotFound` for an unknown column; `InvalidInput` for a column whose type the index cannot cover, for an unknown
/// language, or when another index of the table covers another column under the same name.
pub async fn create(table: &Table, spec: &IndexSpec) -> Result<IndexInfo> {
    let name = spec.effective_name();
    let snapshot = table.snapshot().await?;
    check_column(table.name(), snapshot.schema(), spec)?;
    if let Some(other) = list(&snapshot).await?.into_iter().find(|index| index.name == name)
        && (other.column != spec.column || std::mem::discriminant(&other.kind) != std::mem::discriminant(&spec.kind))
    {
        return Err(Error::already_exists(format!(
            "index `{name}` covers column `{}` ({}); choose another name or drop it",
            other.column, other.kind
        )));
    }
    let built: Result<()> = table
        .maintain(async |dataset| build(dataset, &name, &spec.column, &spec.kind).await)
        .await
        .map_err(|error| error.context(format!("build index `{name}` on column `{}`", spec.column)));
    built?;
    let snapshot = table.snapshot().await?;
    let index = list(&snapshot).await?.into_iter().find(|index| index.name == name);
    index.ok_or_else(|| Error::internal(format!("index `{name}` is not there after it was built")))
}

/// Drops the index called `name`.
///
/// # Errors
/// `NotFound`, naming the indexes there are.
pub async fn drop(table: &Table, name: &str) -> Result<()> {
    find(&table.snapshot().await?, table.name(), name).await?;
    table.maintain(async |dataset| dataset.drop_index(name).await.map_err(lance_error)).await
}

/// Brings every index of `table` up to date. What is new is added to an index as it is; an index that has not seen more
/// rows than it has, or lies in too many pieces, is built anew. An index that is current is left alone, and so is a vector
/// index whose column has no vectors left.
pub async fn optimize(table: &Table) -> Result<()> {
    let (mut append, mut rebuild) = (Vec::new(), Vec::new());
    for index in list(&table.snapshot().await?).await? {
        if index.rows_unindexed > index.rows_indexed || index.segments > SEGMENTS_MAX {
            rebuild.push(index);
        } else if index.rows_unindexed > 0 {
            append.push(index);
        }
    }
    if !append.is_empty() {
        table.maintain(async |dataset| extend(dataset, append).await).await?;
    }
    for index in rebuild {
        let renew = async |dataset: &mut Dataset| match is_empty(dataset, &index).await? {
            true => Ok(()),
            false => build(dataset, &index.name, &index.column, &index.kind).await,
        };
        table.maintain(renew).await?;
    }
    Ok(())
}

/// Adds what is new to each of `indexes`, and makes it one piece.
async fn extend(dataset: &mut Dataset, indexes: Vec<IndexInfo>) -> Result<()> {
    let mut names = Vec::new();
    for index in indexes {
        if !is_empty(dataset, &index).await? {
            names.push(index.name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let options = OptimizeOptions::merge(SEGMENTS_MAX + 1).index_names(names);
    dataset.optimize_indices(&options).await.map_err(lance_error)
}

/// Whether `index` is for vectors and there are none, so that it cannot learn where they lie.
async fn is_empty(dataset: &Dataset, index: &IndexInfo) -> Result<bool> {
    Ok(index.metric.is_some() && vectors(dataset, &index.column).await? == 0)
}

async fn vectors(dataset: &Dataset, column: &str) -> Result<usize> {
    dataset.count_rows(Some(format!("`{column}` IS NOT NULL"))).await.map_err(lance_error)
}

async fn find(snapshot: &Snapshot, table: &str, name: &str) -> Result<IndexInfo> {
    let indexes = list(snapshot).await?;
    let known = indexes.iter().map(|index| index.name.clone()).collect::<Vec<_>>().join(", ");
    indexes.into_iter().find(|index| index.name == name).ok_or_else(|| {
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
        Error::not_found(format!("table `{table}` has no index `{name}`; {known}"))
    })
}

async fn build(dataset: &mut Dataset, name: &str, column: &str, kind: &IndexKind) -> Result<()> {
    let (index_type, params): (IndexType, Box<dyn IndexParams>) = match kind {
        IndexKind::Vector { metric } => {
            let rows = vectors(dataset, column).await?;
            if rows == 0 {
                return Err(Error::invalid_input("there are no vectors to index yet: fill the column first"));
            }
            (IndexType::Vector, Box::new(vector_params(*metric, rows)))
        }
        IndexKind::FullText { language, stem, remove_stop_words } => {
            let params = InvertedIndexParams::default()
                .language(language)
                .map_err(|source| {
                    Error::invalid_input(format!("no full-text index for language `{language}`; try `English`"))
                        .with_source(source)
                })?
                .stem(*stem)
                .remove_stop_words(*remove_stop_words)
                .with_position(true);
            (IndexType::Inverted, Box::new(params))
        }
        IndexKind::Scalar => (IndexType::BTree, Box::new(ScalarIndexParams::for_builtin(BuiltinIndexType::BTree))),
    };
    dataset
        .create_index(&[column], index_type, Some(name.to_owned()), params.as_ref(), true)
        .await
        .map(std::mem::drop)
        .map_err(lance_error)
}

/// Whole vectors in few partitions for a small column; a graph over quantised vectors in each partition of a large one.
fn vector_params(metric: Metric, rows: usize) -> VectorIndexParams {
    let metric = metric.to_lance();
    if rows <= FLAT_ROWS_MAX {
        return VectorIndexParams::ivf_flat((rows / FLAT_ROWS_PER_PARTITION).max(1), metric);
    }
    let partitions = (rows.isqrt() / 8).clamp(1, PARTITIONS_MAX);
    VectorIndexParams::with_ivf_hnsw_sq_params(
        metric,
        IvfBuildParams::new(partitions),
        HnswBuildParams::default(),
        SQBuildParams::default(),
    )
}

fn check_column(table: &str, schema: &Schema, spec: &IndexSpec) -> Result<()> {
    let column = &spec.column;
    let Some((_, field)) = schema.fields().find(column) else {
        let known = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::not_found(format!("table `{table}` has no column `{column}`; it has {known}")));
    };
    if accepts(&spec.kind, field) {
        return Ok(());
    }
    let wanted = match spec.kind {
        IndexKind::Vector { .. } => "vectors: FixedSizeList of Float32, of 1 to 4096 numbers",
        IndexKind::FullText { .. } => "text: Utf8 or LargeUtf8",
        IndexKind::Scalar => "numbers, text, booleans, dates or timestamps",
    };
    let fitting: BTreeSet<&str> =
        schema.fields().iter().filter(|f| accepts(&spec.kind, f)).map(|f| f.name().as_str()).collect();
    let fitting = match fitting.len() {
        0 => format!("no column of table `{table}` is"),
        _ => format!("these are: {}", fitting.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Err(Error::invalid_input(format!(
        "column `{column}` is {}; a {} index covers {wanted}; {fitting}",
        field.data_type(),
        spec.kind
    )))
}

fn accepts(kind: &IndexKind, field: &Field) -> bool {
    match (kind, field.data_type()) {
        (IndexKind::Vector { .. }, DataType::FixedSizeList(item, dimensions)) => {
            item.data_type() == &DataType::Float32 && (1..=DIMENSIONS_MAX).contains(dimensions)
        }
        (IndexKind::FullText { .. }, DataType::Utf8 | DataType::LargeUtf8) => true,
        (IndexKind::Scalar, data_type) => {
            !is_blob(field)
                && (data_type.is_numeric()
                    || data_type.is_temporal()
                    || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Boolean))
        }
        _ => false,
    }
}
