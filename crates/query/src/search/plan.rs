//! A search of a table's indexes as a step of a plan.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use cenote_base::Error;
use cenote_index::{Hit, HybridQuery, IndexInfo, Metric, TextQuery, VectorQuery, VectorStrategy, materialize};
use cenote_store::{Filter, ROW_ID, RecordBatches, ScanRequest, Snapshot};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, PlanProperties, collect};
use futures::{StreamExt, TryStreamExt, stream};

use super::constant;
use crate::fault::{external, query_error};
use crate::table::pinned::PinnedTable;
use crate::table::pushdown;
use crate::table::scan::{properties_of, show};

/// The rows of a result that are read at once, which bounds the memory of media among them.
const TAKE_ROWS: usize = 64;

/// The source of the vector that a search compares with.
#[derive(Debug, Clone)]
pub(super) enum VectorSource {
    /// A vector written in the query, or computed while planning.
    Constant(Vec<f32>),
    /// The only value of a plan, which runs before the search.
    Plan(Arc<dyn ExecutionPlan>),
    /// The vector of the row with this key, which is not a result itself.
    Row(Vec<String>),
}

/// The part of a search that compares vectors.
#[derive(Debug, Clone)]
pub(super) struct VectorSearch {
    pub column: String,
    pub metric: Metric,
    pub source: VectorSource,
}

/// The kind of a search, with its columns and constants.
#[derive(Debug, Clone)]
pub(super) enum SearchKind {
    Vector(VectorSearch),
    Text { words: String },
    Hybrid { vector: VectorSearch, words: String },
}

impl SearchKind {
    fn vector(&self) -> Option<&VectorSearch> {
        match self {
            Self::Vector(vector) | Self::Hybrid { vector, .. } => Some(vector),
            Self::Text { .. } => None,
        }
    }
}

/// A search of one table.
#[derive(Debug, Clone)]
pub(super) struct SearchSpec {
    pub table: Arc<PinnedTable>,
    pub search: SearchKind,
    pub k: usize,
    pub filter: Option<Filter>,
    /// Whether a search that finds fewer than `k` rows gives every row under the filter instead, rows without a
    /// distance among them, as the scan would have done that the search replaces.
    pub fill: bool,
}

impl SearchSpec {
    /// Returns the search with `plan` as the source of its vector.
    pub(super) fn with_plan(&self, plan: Arc<dyn ExecutionPlan>) -> Self {
        let mut spec = self.clone();
        if let SearchKind::Vector(vector) | SearchKind::Hybrid { vector, .. } = &mut spec.search {
            vector.source = VectorSource::Plan(plan);
        }
        spec
    }

    fn index(&self) -> Option<&IndexInfo> {
        let VectorSearch { column, metric, .. } = self.search.vector()?;
        self.table.indexes.iter().find(|index| index.column == *column && index.metric == Some(*metric))
    }

    fn name(&self) -> &'static str {
        match (&self.search, self.index()) {
            (SearchKind::Text { .. }, _) => "TextIndexScan",
            (SearchKind::Hybrid { .. }, _) => "HybridIndexScan",
            (SearchKind::Vector(_), Some(_)) => "VectorIndexScan",
            (SearchKind::Vector(_), None) => "VectorExactScan",
        }
    }

    /// Searches with `vector`, which is that of row `own_row` when there is one; sets `strategy` when it searches
    /// vectors alone.
    async fn run(
        &self,
        vector: Option<Vec<f32>>,
        own_row: Option<u64>,
        strategy: &OnceLock<VectorStrategy>,
    ) -> cenote_base::Result<Vec<Hit>> {
        let (snapshot, searcher) = (&self.table.snapshot, &self.table.searcher);
        // One more, because the row that others are compared with is usually found first, and is removed below.
        let k = self.k + usize::from(own_row.is_some());
        let vector = |search: &VectorSearch| -> cenote_base::Result<VectorQuery> {
            let vector = vector.ok_or_else(|| Error::invalid_input("the query vector is null"))?;
            let filter = self.filter.clone();
            Ok(VectorQuery { metric: Some(search.metric), filter, ..VectorQuery::new(&search.column, vector, k) })
        };
        let text = |words: &str| TextQuery { filter: self.filter.clone(), ..TextQuery::new(words, k) };
        let mut hits = match &self.search {
            SearchKind::Vector(wanted) => {
                let (hits, how) = searcher.find_vectors(snapshot, &vector(wanted)?).await?;
                // A second run of the plan has the same strategy.
                let _ = strategy.set(how);
                hits
            }
            SearchKind::Text { words } => searcher.text_hits(snapshot, &text(words)).await?,
            SearchKind::Hybrid { vector: wanted, words } => {
                let query = HybridQuery { vector: vector(wanted)?, text: text(words), k };
                searcher.hybrid_hits(snapshot, &query).await?
            }
        };
        hits.retain(|hit| Some(hit.row_id) != own_row);
        hits.truncate(self.k);
        Ok(hits)
    }
}

/// A step that runs a [`SearchSpec`] and reads `columns` of the rows found, best first.
#[derive(Debug)]
pub(super) struct SearchPlan {
    spec: Arc<SearchSpec>,
    columns: Vec<String>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// The strategy of the search, known once it ran, for EXPLAIN ANALYZE.
    strategy: Arc<OnceLock<VectorStrategy>>,
}

impl SearchPlan {
    /// Makes a step with the output columns of `schema`: stored columns, distance and score.
    pub(super) fn new(spec: Arc<SearchSpec>, schema: SchemaRef) -> Self {
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        let properties = properties_of(schema);
        Self { spec, columns, properties, metrics: ExecutionPlanMetricsSet::new(), strategy: Arc::default() }
    }
}

impl DisplayAs for SearchPlan {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        let mut parts =
            vec![format!("table={}", spec.table.name), format!("version={}", spec.table.snapshot.version())];
        parts.extend(spec.index().map(|index| format!("index={}", index.name)));
        if let Some(VectorSearch { column, metric, source }) = spec.search.vector() {
            parts.push(format!("column={column}"));
            parts.push(format!("metric={metric}"));
            if let VectorSource::Row(key) = source {
                parts.push(format!("like={}", key.join("/")));
            }
        }
        if let SearchKind::Text { words } | SearchKind::Hybrid { words, .. } = &spec.search {
            parts.push(format!("text={words:?}"));
        }
        parts.push(format!("k={}", spec.k));
        parts.extend(spec.filter.as_ref().map(|filter| format!("filter={}", pushdown::show(filter))));
        if let SearchKind::Vector(_) = &spec.search {
            let outlook = || VectorStrategy::outlook(spec.index(), spec.filter.is_some());
            parts.push(format!("strategy={}", self.strategy.get().map_or_else(outlook, ToString::to_string)));
        }
        parts.push(format!("projection=[{}]", self.columns.join(", ")));
        show(format, f, spec.name(), &parts)
    }
}

impl ExecutionPlan for SearchPlan {
    fn name(&self) -> &str {
        self.spec.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        match self.spec.search.vector().map(|search| &search.source) {
            Some(VectorSource::Plan(plan)) => vec![plan],
            _ => Vec::new(),
        }
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition; self.children().len()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.children().len()]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(child) = children.into_iter().next() else { return Ok(self) };
        Ok(Arc::new(Self::new(Arc::new(self.spec.with_plan(child)), self.schema())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (spec, columns, strategy) = (Arc::clone(&self.spec), self.columns.clone(), Arc::clone(&self.strategy));
        let batches = stream::once(async move { search(spec, columns, context, &strategy).await }).try_flatten();
        let batches = batches.map(move |batch| {
            let batch = batch.map_err(external)?;
            metrics.record_output(batch.num_rows());
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

async fn search(
    spec: Arc<SearchSpec>,
    columns: Vec<String>,
    context: Arc<TaskContext>,
    strategy: &OnceLock<VectorStrategy>,
) -> cenote_base::Result<RecordBatches> {
    let (vector, own_row) = match spec.search.vector() {
        None => (None, None),
        Some(search) => match &search.source {
            VectorSource::Constant(vector) => (Some(vector.clone()), None),
            VectorSource::Plan(plan) => (first_vector(Arc::clone(plan), context).await?, None),
            VectorSource::Row(key) => {
                let (row_id, vector) = vector_of_row(&spec.table.snapshot, &search.column, key).await?;
                (Some(vector), Some(row_id))
            }
        },
    };
    let hits = spec.run(vector, own_row, strategy).await?;
    if spec.fill && hits.len() < spec.k {
        let request = ScanRequest { filter: spec.filter.clone(), ..ScanRequest::default() }.columns(columns);
        return spec.table.snapshot.scan(&request).await;
    }
    let pieces: Vec<Vec<Hit>> = hits.chunks(TAKE_ROWS).map(<[Hit]>::to_vec).collect();
    let batches = stream::iter(pieces).then(move |hits| {
        let (spec, columns) = (Arc::clone(&spec), columns.clone());
        async move { materialize(&spec.table.snapshot, &hits, Some(&columns), &[]).await }
    });
    Ok(batches.boxed())
}

/// Runs a scalar subquery for a vector; `None` when it gives no row, or null.
async fn first_vector(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> cenote_base::Result<Option<Vec<f32>>> {
    let batches = collect(plan, context).await.map_err(query_error)?;
    let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
    if rows > 1 {
        return Err(Error::invalid_input(format!("the subquery for the query vector gave {rows} rows, not one")));
    }
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() == 1) else { return Ok(None) };
    let value = datafusion::common::ScalarValue::try_from_array(batch.column(0), 0).map_err(query_error)?;
    Ok(constant::vector(&value))
}

/// Reads the row with this key; returns its row id and its vector.
async fn vector_of_row(snapshot: &Snapshot, column: &str, key: &[String]) -> cenote_base::Result<(u64, Vec<f32>)> {
    let keys = snapshot.primary_key().parse(std::slice::from_ref(&key.to_vec()))?;
    let filter = snapshot.primary_key().filter(&keys)?;
    let request = ScanRequest { filter: Some(filter), ..ScanRequest::default() }.columns([column]).with_row_id();
    let found = snapshot.collect(&request).await?;
    if found.num_rows() == 0 {
        return Err(Error::not_found(format!("no row with key {}", key.join(", "))));
    }
    let value = |at| datafusion::common::ScalarValue::try_from_array(found.column(at), 0).map_err(query_error);
    let row_id = match value(found.schema().index_of(ROW_ID).map_err(cenote_store::arrow_error)?)? {
        datafusion::common::ScalarValue::UInt64(Some(row_id)) => row_id,
        _ => return Err(Error::internal("a row without a row id")),
    };
    let vector = constant::vector(&value(0)?);
    vector
        .map(|vector| (row_id, vector))
        .ok_or_else(|| Error::invalid_input(format!("the row with key {} has no vector in `{column}`", key.join(", "))))
}
