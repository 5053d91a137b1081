//! What Lance builds for an index.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use cenote_base::{ByteSize, Error, Progress, Result};
use cenote_store::{is_blob, lance_error};
use lance::Dataset;
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};
use lance_index::vector::bq::RQBuildParams;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_index::{IndexParams, IndexType};

use super::segments::{begin, piece_rows};
use super::train::train;
use super::watch::Watch;
use crate::kind::{IndexKind, ScalarStructure, TextOptions, VectorOptions, VectorStructure};
use crate::metric::Metric;
use crate::options::IndexOptions;
use crate::spec::IndexSpec;

/// Up to so many vectors are kept whole: comparing with all of them is quicker than walking a graph, and exact.
const FLAT_ROWS_MAX: usize = 5_000;
const FLAT_ROWS_PER_PARTITION: usize = 1_000;
/// Partitions of n rows, times the square root of n. With a graph in each there are fewer: its walk is shorter than the rows are many.
const PARTITIONS_FACTOR: usize = 2;
const GRAPH_PARTITIONS_SHARE: usize = 8;
const PARTITIONS_MAX: usize = 4_096;
/// The centres of partitions are learned from vectors of one in so many of a build's bytes, as learning copies them; and from so many
/// vectors for each, at least.
const SAMPLE_SHARE: u64 = 4;
const SAMPLE_RATE_MIN: usize = 16;
const DIMENSIONS_MAX: i32 = 4_096;
/// Product quantisation learns 256 codes for each piece, and needs a row for each.
const PQ_ROWS_MIN: usize = 256;
const PQ_BITS: usize = 8;
/// Numbers of a vector that one product code stands for, where the definition does not say.
const PQ_PIECE: usize = 8;

/// What came of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// All of it.
    Whole,
    /// Nothing yet: it is built piece by piece.
    Begun,
    /// There is nothing to build it from.
    Nothing,
}

/// Builds what stands behind `kind` over `column`, in the place of what there was under `name`. The first index of that name
/// over more rows than a piece has is only begun.
pub(crate) async fn build(
    dataset: &mut Dataset,
    name: &str,
    column: &str,
    kind: &IndexKind,
    bounds: &IndexOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Made> {
    let is_new = dataset.load_indices_by_name(name).await.map_err(lance_error)?.is_empty();
    let is_begun = |rows: usize| is_new && piece_rows(rows, bounds.piece_rows).is_some();
    let (index_type, params): (IndexType, Box<dyn IndexParams>) = match kind {
        IndexKind::Vector(options) => {
            let rows = vectors(dataset, column).await?;
            if rows == 0 {
                return Ok(Made::Nothing);
            }
            let dimension = match dataset.schema().field(column).map(|field| field.data_type()) {
                Some(DataType::FixedSizeList(_, dimension)) => dimension as usize,
                _ => return Err(Error::internal(format!("column `{column}` holds no vectors"))),
            };
            let params = |in_pieces: bool| vector_params(options, rows, dimension, in_pieces, bounds.build_bytes_max);
            if is_begun(rows) {
                begin(dataset, name, column, &params(true)?).await?;
                return Ok(Made::Begun);
            }
            let mut params = params(false)?;
            if let Some(trainer) = &bounds.trainer {
                train(dataset, column, &mut params, trainer.as_ref()).await?;
            }
            (IndexType::Vector, Box::new(params))
        }
        _ if is_begun(dataset.count_rows(None).await.map_err(lance_error)?) => return Ok(Made::Begun),
        _ => params(kind, bounds)?,
    };
    let columns = [column];
    let builder = dataset.create_index_builder(&columns, index_type, params.as_ref()).name(name.to_owned());
    let created = builder.replace(true).progress(Arc::new(Watch::new(progress, name))).await;
    created.map(|_| Made::Whole).map_err(lance_error)
}

/// How Lance builds an index of `kind`, which is not one of vectors.
pub(crate) fn params(kind: &IndexKind, bounds: &IndexOptions) -> Result<(IndexType, Box<dyn IndexParams>)> {
    Ok(match kind {
        IndexKind::FullText(options) => {
            let params = text_params(options)?.num_workers(bounds.threads);
            (IndexType::Inverted, Box::new(params.memory_limit_mb((bounds.build_bytes_max.0 >> 20).max(1))))
        }
        IndexKind::Scalar(structure) => {
            let (index_type, builtin) = match structure {
                ScalarStructure::BTree => (IndexType::BTree, BuiltinIndexType::BTree),
                ScalarStructure::Bitmap => (IndexType::Bitmap, BuiltinIndexType::Bitmap),
                ScalarStructure::LabelList => (IndexType::LabelList, BuiltinIndexType::LabelList),
                ScalarStructure::ZoneMap => (IndexType::ZoneMap, BuiltinIndexType::ZoneMap),
                ScalarStructure::BloomFilter => (IndexType::BloomFilter, BuiltinIndexType::BloomFilter),
                ScalarStructure::NGram => (IndexType::NGram, BuiltinIndexType::NGram),
            };
            (index_type, Box::new(ScalarIndexParams::for_builtin(builtin)))
        }
        IndexKind::Vector(_) => return Err(Error::internal("an index of vectors is built by its number of rows")),
    })
}

/// How many rows have a vector in `column`.
pub(crate) async fn vectors(dataset: &Dataset, column: &str) -> Result<usize> {
    dataset.count_rows(Some(format!("`{column}` IS NOT NULL"))).await.map_err(lance_error)
}

/// How Lance reads texts for `options`.
pub(crate) fn text_params(options: &TextOptions) -> Result<InvertedIndexParams> {
    let language = &options.language;
    let params = InvertedIndexParams::default().language(language).map_err(|source| {
        Error::invalid_input(format!("no full-text index for language `{language}`; try `English`")).with_source(source)
    })?;
    let params = params.stem(options.stem).remove_stop_words(options.remove_stop_words).with_position(true);
    Ok(match options.ngram {
        None => params,
        Some((min, max)) if 1 <= min && min <= max => {
            params.base_tokenizer("ngram".to_owned()).ngram_min_length(min).ngram_max_length(max).stem(false)
        }
        Some((min, max)) => {
            let what = format!("pieces of {min} to {max} letters: the least must be 1 or more, and not above the most");
            return Err(Error::invalid_input(what));
        }
    })
}

/// As it was asked for. Else whole vectors in few partitions for a small column, and quantised ones in many for a large one; or, with
/// options of a graph, such a graph in each partition. `in_pieces`: as an index remembers it until its pieces are built.
fn vector_params(
    options: &VectorOptions,
    rows: usize,
    dimension: usize,
    in_pieces: bool,
    build_bytes_max: ByteSize,
) -> Result<VectorIndexParams> {
    let metric = options.metric.to_lance();
    let structure = match options.structure {
        VectorStructure::Auto if rows <= FLAT_ROWS_MAX || options.metric == Metric::Hamming => VectorStructure::IvfFlat,
        VectorStructure::Auto if options.m.is_some() || options.ef_construction.is_some() => VectorStructure::IvfHnswSq,
        VectorStructure::Auto => VectorStructure::IvfSq,
        // Fewer rows than codes teach nothing: until there are more, vectors are kept whole.
        VectorStructure::IvfPq | VectorStructure::IvfHnswPq if rows < PQ_ROWS_MIN => VectorStructure::IvfFlat,
        structure => structure,
    };
    let is_graph = matches!(structure, VectorStructure::IvfHnswSq | VectorStructure::IvfHnswPq);
    let partitions = match options.partitions {
        Some(partitions) => partitions.min(rows),
        None if rows <= FLAT_ROWS_MAX => (rows / FLAT_ROWS_PER_PARTITION).max(1),
        None if is_graph => (rows.isqrt() / GRAPH_PARTITIONS_SHARE).clamp(1, PARTITIONS_MAX),
        None => (rows.isqrt() * PARTITIONS_FACTOR).min(PARTITIONS_MAX),
    };
    let sample = (build_bytes_max.0 / SAMPLE_SHARE) as usize / (dimension * size_of::<f32>());
    // What was asked for stands, whatever it takes.
    let partitions = match options.partitions {
        Some(_) => partitions,
        None => partitions.min((sample / SAMPLE_RATE_MIN).max(1)),
    };
    let mut ivf = match in_pieces {
        true => IvfBuildParams::with_target_partition_size(rows / partitions),
        false => IvfBuildParams::new(partitions),
    };
    ivf.sample_rate = ivf.sample_rate.min((sample / partitions).max(SAMPLE_RATE_MIN));
    let defaults = HnswBuildParams::default();
    let hnsw = HnswBuildParams {
        m: options.m.unwrap_or(defaults.m),
        ef_construction: options.ef_construction.unwrap_or(defaults.ef_construction),
        ..defaults
    };
    let pieces = if dimension.is_multiple_of(PQ_PIECE) { dimension / PQ_PIECE } else { dimension };
    let pq = PQBuildParams::new(options.sub_vectors.unwrap_or(pieces), PQ_BITS);
    Ok(match structure {
        VectorStructure::IvfFlat => VectorIndexParams::with_ivf_flat_params(metric, ivf),
        VectorStructure::IvfPq => VectorIndexParams::with_ivf_pq_params(metric, ivf, pq),
        VectorStructure::Auto | VectorStructure::IvfSq => {
            VectorIndexParams::with_ivf_sq_params(metric, ivf, SQBuildParams::default())
        }
        VectorStructure::IvfRq => VectorIndexParams::with_ivf_rq_params(metric, ivf, RQBuildParams::default()),
        VectorStructure::IvfHnswPq => VectorIndexParams::with_ivf_hnsw_pq_params(metric, ivf, hnsw, pq),
        VectorStructure::IvfHnswSq => {
            VectorIndexParams::with_ivf_hnsw_sq_params(metric, ivf, hnsw, SQBuildParams::default())
        }
        VectorStructure::Hnsw => return Err(Error::internal("a graph in memory is not built by Lance")),
    })
}

/// Checks that the index `spec` can be made of a table with `schema`.
pub(crate) fn check_column(table: &str, schema: &Schema, spec: &IndexSpec) -> Result<()> {
    let column = &spec.column;
    let Some((_, field)) = schema.fields().find(column) else {
        let known = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::not_found(format!("table `{table}` has no column `{column}`; it has {known}")));
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

fn accepts(kind: &IndexKind, field: &Field) -> bool {
    let is_plain = |data_type: &DataType| {
        data_type.is_numeric()
            || data_type.is_temporal()
            || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Boolean)
    };
    match (kind, field.data_type()) {
        (IndexKind::Vector(options), DataType::FixedSizeList(item, dimensions)) => {
            let fits = match item.data_type() {
                DataType::Float32 | DataType::Float16 | DataType::Int8 => options.metric != Metric::Hamming,
                DataType::UInt8 => options.metric == Metric::Hamming,
                _ => false,
            };
            fits && (1..=DIMENSIONS_MAX).contains(dimensions)
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

fn check_options(spec: &IndexSpec, field: &Field) -> Result<()> {
    if let IndexKind::FullText(options) = &spec.kind {
        return text_params(options).map(drop);
    }
    let (IndexKind::Vector(options), DataType::FixedSizeList(item, dimension)) = (&spec.kind, field.data_type()) else {
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
    if options.structure == VectorStructure::IvfRq && dimension % 8 != 0 {
        let what = format!("an ivf_rq index needs vectors of a multiple of 8 numbers, and these have {dimension}");
        return Err(Error::unsupported(what));
    }
    if item.data_type() == &DataType::Int8 && options.structure != VectorStructure::Hnsw {
        return Err(Error::unsupported("vectors of Int8 have no index on disk: use hnsw, or search without an index"));
    }
    if let Some(pieces) = options.sub_vectors
        && (pieces == 0 || !(*dimension as usize).is_multiple_of(pieces))
    {
        return Err(Error::invalid_input(format!(
            "{pieces} sub_vectors do not divide a vector of {dimension} numbers"
        )));
    }
    if options.partitions == Some(0) {
        return Err(Error::invalid_input("an index has at least one of `partitions`"));
    }
    Ok(())
}
