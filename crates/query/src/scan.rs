//! Reading a table from one end to the other.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use cenote_base::Error;
use cenote_store::{Filter, ScanRequest};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use crate::fault::external;
use crate::pinned::PinnedTable;

/// Rows of a batch of a plan that joins tables, at least.
const JOINED_ROWS_MIN: usize = 64;
/// Bytes of a table that may be in memory as a whole.
const SMALL_TABLE_BYTES: u64 = 64 << 20;

/// Streams columns of a table at one version. Media are read only when a column of them is named, and then only for rows
/// that pass the filter.
#[derive(Debug)]
pub(crate) struct ScanPlan {
    table: Arc<PinnedTable>,
    columns: Vec<String>,
    filter: Option<Expr>,
    limit: Option<usize>,
    batch_rows: usize,
    /// Bytes of a row in memory, about.
    row_bytes: u64,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanPlan {
    pub(crate) async fn try_new(
        table: Arc<PinnedTable>,
        projection: Option<&Vec<usize>>,
        filter: Option<Expr>,
        limit: Option<usize>,
        batch_rows: usize,
    ) -> Result<Self> {
        let visible = table.snapshot.schema();
        let schema = match projection {
            Some(projection) => Arc::new(visible.project(projection)?),
            None => Arc::clone(visible),
        };
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        let row_bytes = table.snapshot.row_bytes(&schema).await.map_err(external)?;
        let (properties, metrics) = (properties_of(schema), ExecutionPlanMetricsSet::new());
        Ok(Self { table, columns, filter, limit, batch_rows, row_bytes, properties, metrics })
    }
}

/// Rows of a batch in all of `plan`: `rows_max`, or fewer where a scan gives wide rows. A plan that joins tables has at
/// least [`JOINED_ROWS_MIN`], for its narrow rows, and does not care for tables that are small.
pub(crate) fn batch_rows(plan: &Arc<dyn ExecutionPlan>, rows_max: usize) -> usize {
    let (mut scans, mut plans) = (Vec::new(), vec![plan]);
    while let Some(plan) = plans.pop() {
        scans.extend(plan.downcast_ref::<ScanPlan>());
        plans.extend(plan.children());
    }
    let is_join = scans.len() > 1;
    let is_small = |scan: &&&ScanPlan| scan.row_bytes * scan.table.rows as u64 <= SMALL_TABLE_BYTES;
    let counted = scans.iter().filter(|scan| !is_join || !is_small(scan));
    let widest = counted.map(|scan| scan.row_bytes).max().unwrap_or(0);
    let least = if is_join { JOINED_ROWS_MIN } else { 1 };
    cenote_store::batch_rows(widest).max(least).min(rows_max)
}

/// One partition, of known end, in no order.
pub(crate) fn properties_of(schema: SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl DisplayAs for ScanPlan {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![
            format!("table={}", self.table.name),
            format!("version={}", self.table.snapshot.version()),
            format!("projection=[{}]", self.columns.join(", ")),
        ];
        parts.extend(self.filter.as_ref().map(|filter| format!("filter={}", filter.human_display())));
        parts.extend(self.limit.map(|limit| format!("limit={limit}")));
        show(format, f, "TableScan", &parts)
    }
}

/// One line, or one line a part in the tree format, which gives the name itself.
pub(crate) fn show(format: DisplayFormatType, f: &mut fmt::Formatter<'_>, name: &str, parts: &[String]) -> fmt::Result {
    match format {
        DisplayFormatType::TreeRender => parts.iter().try_for_each(|part| writeln!(f, "{part}")),
        _ => write!(f, "{name}: {}", parts.join(", ")),
    }
}

impl ExecutionPlan for ScanPlan {
    fn name(&self) -> &str {
        "TableScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let mut request = ScanRequest::default().columns(&self.columns).batch_rows(self.batch_rows);
        request.filter = self.filter.clone().map(Filter::from);
        request.limit = self.limit;
        let snapshot = self.table.snapshot.clone();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = stream::once(async move { snapshot.scan(&request).await }).try_flatten();
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

    fn partition_statistics(&self, _partition: Option<usize>) -> Result<Arc<Statistics>> {
        let rows = match (&self.filter, self.limit) {
            (None, None) => Precision::Exact(self.table.rows),
            (None, Some(limit)) => Precision::Exact(self.table.rows.min(limit)),
            (Some(_), limit) => Precision::Inexact(self.table.rows.min(limit.unwrap_or(usize::MAX))),
        };
        // The smaller side of a join is held in memory: by bytes, not by rows.
        let total_byte_size = rows.map(|rows| rows.saturating_mul(self.row_bytes as usize)).to_inexact();
        Ok(Arc::new(Statistics { num_rows: rows, total_byte_size, ..Statistics::new_unknown(&self.schema()) }))
    }
}

/// Our error inside DataFusion's result.
pub(crate) fn internal(what: &str) -> DataFusionError {
    external(Error::internal(what))
}
