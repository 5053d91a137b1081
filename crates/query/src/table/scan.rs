//! The scan of a table as a step of a plan.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use cenote_store::{Filter, ScanRequest};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use super::pinned::PinnedTable;
use crate::fault::external;

/// Rows of a batch, at least, in a plan that reads several tables.
const JOINED_ROWS_MIN: usize = 64;
/// Bytes up to which a whole table may be held in memory.
const SMALL_TABLE_BYTES: u64 = 64 << 20;

/// A scan of columns of a table at one version. Media is read only when a media column is among them, and then only for
/// the rows that pass the filter.
#[derive(Debug)]
pub(super) struct ScanPlan {
    table: Arc<PinnedTable>,
    columns: Vec<String>,
    filter: Option<Expr>,
    limit: Option<usize>,
    batch_rows: usize,
    /// The average size of a row in memory, in bytes.
    row_bytes: u64,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanPlan {
    pub(super) async fn try_new(
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

/// Returns the number of rows per batch for all of `plan`: `rows_max`, or fewer where a scan reads wide rows. A plan of
/// several scans also has narrow rows to process, so it takes at least [`JOINED_ROWS_MIN`] and ignores the width of
/// tables that fit into memory.
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

/// Returns the properties of a step that produces rows of `schema` in one bounded partition, in no particular order.
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

/// Writes a step of a plan on one line; in the tree format, which writes the name itself, one line per part.
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
        // A join holds its smaller side in memory: the side with fewer bytes, which may have more rows.
        let total_byte_size = rows.map(|rows| rows.saturating_mul(self.row_bytes as usize)).to_inexact();
        Ok(Arc::new(Statistics { num_rows: rows, total_byte_size, ..Statistics::new_unknown(&self.schema()) }))
    }
}
