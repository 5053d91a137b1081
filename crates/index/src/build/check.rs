//! Checks of an index specification, before anything is built.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{Error, Result, unknown};
use cenote_store::is_blob;

use super::params::text_params;
use crate::kind::{IndexKind, ScalarStructure, VectorStructure};
use crate::metric::Metric;
use crate::spec::IndexSpec;

/// Numbers in a vector that an index covers, at most.
const WIDTH_MAX: i32 = 4_096;

/// Checks that index `spec` can be built over a table with `schema`.
pub(crate) fn check_column(table: &str, schema: &Schema, spec: &IndexSpec) -> Result<()> {
    let column = &spec.column;
    let Some((_, field)) = schema.fields().find(column) else {
        let known = schema.fields().iter().map(|field| field.name().as_str());
        return Err(unknown("column", column, known).context(format!("table `{table}`")));
    };
    if accepts(&spec.kind, field) {
        return check_options(spec, field);
    }
    let wanted = match &spec.kind {
        IndexKind::Vector(options) if options.metric == Metric::Hamming => "packed bits: FixedSizeList of UInt8",
        IndexKind::Vector(_) => "vectors: FixedSizeList of Float32, Float16 or Int8, of 1 to 4096 numbers",
        IndexKind::FullText(_) | IndexKind::Scalar(ScalarStructure::NGram) => "text: Utf8 or LargeUtf8",
        IndexKind::Scalar(ScalarStructure::LabelList) => "labels: List of numbers or text",
        IndexKind::Scalar(_) => "numbers, text, booleans, dates or timestamps",
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

/// Returns whether an index of `kind` can cover the column `field`.
fn accepts(kind: &IndexKind, field: &Field) -> bool {
    let is_plain = |data_type: &DataType| {
        data_type.is_numeric()
            || data_type.is_temporal()
            || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Boolean)
    };
    match (kind, field.data_type()) {
        (IndexKind::Vector(options), DataType::FixedSizeList(item, width)) => {
            let fits = match item.data_type() {
                DataType::Float32 | DataType::Float16 | DataType::Int8 => options.metric != Metric::Hamming,
                DataType::UInt8 => options.metric == Metric::Hamming,
                _ => false,
            };
            fits && (1..=WIDTH_MAX).contains(width)
        }
        (IndexKind::FullText(_) | IndexKind::Scalar(ScalarStructure::NGram), DataType::Utf8 | DataType::LargeUtf8) => {
            !is_blob(field)
        }
        (IndexKind::Scalar(ScalarStructure::NGram), _) => false,
        (IndexKind::Scalar(ScalarStructure::LabelList), DataType::List(item)) => is_plain(item.data_type()),
        (IndexKind::Scalar(ScalarStructure::LabelList), _) => false,
        (IndexKind::Scalar(_), data_type) => !is_blob(field) && is_plain(data_type),
        _ => false,
    }
}

/// Checks the options of `spec` for the column `field`.
fn check_options(spec: &IndexSpec, field: &Field) -> Result<()> {
    if let IndexKind::FullText(options) = &spec.kind {
        return text_params(options).map(drop);
    }
    let (IndexKind::Vector(options), DataType::FixedSizeList(item, width)) = (&spec.kind, field.data_type()) else {
        return Ok(());
    };
    let kind = &spec.kind;
    let on_disk =
        !matches!(options.structure, VectorStructure::Auto | VectorStructure::IvfFlat | VectorStructure::Hnsw);
    if on_disk && options.metric == Metric::Hamming {
        return Err(Error::unsupported(format!(
            "a {kind} index does not measure hamming distances: use ivf_flat or hnsw"
        )));
    }
    if options.structure == VectorStructure::IvfRq && width % 8 != 0 {
        let what = format!("an ivf_rq index needs vectors of a multiple of 8 numbers, and these have {width}");
        return Err(Error::unsupported(what));
    }
    if item.data_type() == &DataType::Int8 && options.structure != VectorStructure::Hnsw {
        return Err(Error::unsupported("vectors of Int8 have no index on disk: use hnsw, or search without an index"));
    }
    if let Some(sub_vectors) = options.sub_vectors
        && (sub_vectors == 0 || !(*width as usize).is_multiple_of(sub_vectors))
    {
        return Err(Error::invalid_input(format!(
            "{sub_vectors} sub_vectors do not divide a vector of {width} numbers"
        )));
    }
    if options.partitions == Some(0) {
        return Err(Error::invalid_input("`partitions` must be at least 1"));
    }
    Ok(())
}
