//! The parameters by which Lance builds an index.

use cenote_base::{ByteSize, Error, Result};
use lance::index::vector::VectorIndexParams;
use lance_index::scalar::{BuiltinIndexType, InvertedIndexParams, ScalarIndexParams};
use lance_index::vector::bq::RQBuildParams;
use lance_index::vector::hnsw::builder::HnswBuildParams;
use lance_index::vector::ivf::IvfBuildParams;
use lance_index::vector::pq::PQBuildParams;
use lance_index::vector::sq::builder::SQBuildParams;
use lance_index::{IndexParams, IndexType};

use crate::kind::{IndexKind, NGramLengths, ScalarStructure, TextOptions, VectorOptions, VectorStructure};
use crate::metric::{Metric, lance_type};
use crate::options::IndexOptions;

/// Vectors up to which an index keeps them whole by default: to compare all is exact, and quicker than to walk a graph.
const FLAT_ROWS_MAX: usize = 5_000;
/// Partitions of an index of up to [`FLAT_ROWS_MAX`] vectors: `rows / FLAT_ROWS_PER_PARTITION`, at least 1.
const FLAT_ROWS_PER_PARTITION: usize = 1_000;
/// Partitions of a larger index: `PARTITIONS_FACTOR · √rows`, or `√rows / GRAPH_PARTITIONS_SHARE` with a graph in each
/// partition, since a walk visits few of its rows; at most `PARTITIONS_MAX`.
const PARTITIONS_FACTOR: usize = 2;
const GRAPH_PARTITIONS_SHARE: usize = 8;
const PARTITIONS_MAX: usize = 4_096;
/// Bytes of the vectors on which partitions are trained: `1 / SAMPLE_SHARE` of a build's bytes, as training copies
/// them.
const SAMPLE_SHARE: u64 = 4;
/// Sampled vectors per partition, at least.
const SAMPLE_RATE_MIN: usize = 16;
/// Rows for product quantisation, at least: it trains `2 ^ PQ_BITS` codes for each sub-vector, and needs a row for
/// each.
const PQ_ROWS_MIN: usize = 256;
const PQ_BITS: usize = 8;
/// The default width of a sub-vector, which one product code stands for.
const PQ_SUB_VECTOR: usize = 8;

/// The parameters by which Lance builds an index.
pub(crate) struct LanceIndex {
    pub(crate) index_type: IndexType,
    pub(crate) params: Box<dyn IndexParams>,
}

impl LanceIndex {
    /// Returns the parameters of a full-text or scalar index of `kind`.
    pub(crate) fn new(kind: &IndexKind, options: &IndexOptions) -> Result<Self> {
        let (index_type, builtin) = match kind {
            IndexKind::FullText(text) => {
                let params = text_params(text)?.num_workers(options.threads);
                let params = params.memory_limit_mb((options.build_bytes_max.0 >> 20).max(1));
                return Ok(Self { index_type: IndexType::Inverted, params: Box::new(params) });
            }
            IndexKind::Vector(_) => {
                return Err(Error::internal("the parameters of a vector index depend on its number of rows"));
            }
            IndexKind::Scalar(ScalarStructure::BTree) => (IndexType::BTree, BuiltinIndexType::BTree),
            IndexKind::Scalar(ScalarStructure::Bitmap) => (IndexType::Bitmap, BuiltinIndexType::Bitmap),
            IndexKind::Scalar(ScalarStructure::LabelList) => (IndexType::LabelList, BuiltinIndexType::LabelList),
            IndexKind::Scalar(ScalarStructure::ZoneMap) => (IndexType::ZoneMap, BuiltinIndexType::ZoneMap),
            IndexKind::Scalar(ScalarStructure::BloomFilter) => (IndexType::BloomFilter, BuiltinIndexType::BloomFilter),
            IndexKind::Scalar(ScalarStructure::NGram) => (IndexType::NGram, BuiltinIndexType::NGram),
        };
        Ok(Self { index_type, params: Box::new(ScalarIndexParams::for_builtin(builtin)) })
    }
}

/// Returns the parameters by which Lance splits texts into words.
pub(crate) fn text_params(options: &TextOptions) -> Result<InvertedIndexParams> {
    let language = &options.language;
    let params = InvertedIndexParams::default().language(language).map_err(|source| {
        Error::invalid_input(format!("no full-text index for language `{language}`; try `English`")).with_source(source)
    })?;
    let params = params.stem(options.stem).remove_stop_words(options.remove_stop_words).with_position(true);
    Ok(match options.ngram {
        None => params,
        Some(NGramLengths { min, max }) if 1 <= min && min <= max => {
            params.base_tokenizer("ngram".to_owned()).ngram_min_length(min).ngram_max_length(max).stem(false)
        }
        Some(NGramLengths { min, max }) => {
            let what = format!("n-grams of {min} to {max} letters: the least length must be from 1 to the greatest");
            return Err(Error::invalid_input(what));
        }
    })
}

/// Returns the parameters of a vector index over `rows` vectors of `width` numbers.
///
/// [`VectorStructure::Auto`] keeps whole vectors in few partitions for a small column, and quantised ones in many
/// partitions for a large one; with options of a graph, it keeps a graph in each partition. `in_segments` gives the
/// size of partitions instead of their number, which Lance stores until the first segment is built.
pub(super) fn vector_params(
    options: &VectorOptions,
    rows: usize,
    width: usize,
    in_segments: bool,
    build_bytes_max: ByteSize,
) -> Result<VectorIndexParams> {
    let metric = lance_type(options.metric);
    let structure = match options.structure {
        VectorStructure::Auto if rows <= FLAT_ROWS_MAX || options.metric == Metric::Hamming => VectorStructure::IvfFlat,
        VectorStructure::Auto if options.m.is_some() || options.ef_construction.is_some() => VectorStructure::IvfHnswSq,
        VectorStructure::Auto => VectorStructure::IvfSq,
        // Fewer rows than codes cannot train a quantiser: until there are more, vectors are kept whole.
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
    let sample = (build_bytes_max.0 / SAMPLE_SHARE) as usize / (width * size_of::<f32>());
    // A requested number is kept, whatever memory it takes.
    let partitions = match options.partitions {
        Some(_) => partitions,
        None => partitions.min((sample / SAMPLE_RATE_MIN).max(1)),
    };
    let mut ivf = match in_segments {
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
    let sub_vectors = if width.is_multiple_of(PQ_SUB_VECTOR) { width / PQ_SUB_VECTOR } else { width };
    let pq = PQBuildParams::new(options.sub_vectors.unwrap_or(sub_vectors), PQ_BITS);
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
