//! Reading a table from one end to the other.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use cenote_base::Error;
use cenote_store::{Filter, ROW_ID, RecordBatches, ScanRequest, Snapshot, is_blob};
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

/// Batches with media hold at most so many bytes of it, or one row.
const MEDIA_BATCH_BYTES_MAX: u64 = 16 << 20;
/// Row ids looked at together when media are read.
const MEDIA_ROWS_MAX: usize = 1024;

/// Streams columns of a table at one version. Media are read only when a column of them is named, and then only for rows
/// that pass the filter.
#[derive(Debug)]
pub(crate) struct ScanPlan {
    table: Arc<PinnedTable>,
    columns: Vec<String>,
    filter: Option<Expr>,
    limit: Option<usize>,
    batch_rows: usize,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanPlan {
    pub(crate) fn try_new(
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
        let properties = properties_of(schema);
        Ok(Self { table, columns, filter, limit, batch_rows, properties, metrics: ExecutionPlanMetricsSet::new() })
    }
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
        let has_media = schema.fields().iter().any(|field| is_blob(field));
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let batches = stream::once(async move {
            match has_media {
                true => scan_media(snapshot, request).await,
                false => snapshot.scan(&request).await,
            }
        })
        .try_flatten();
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
        Ok(Arc::new(Statistics { num_rows: rows, ..Statistics::new_unknown(&self.schema()) }))
    }
}

/// Finds the rows first, then reads them in pieces of bounded size.
async fn scan_media(snapshot: Snapshot, request: ScanRequest) -> cenote_base::Result<RecordBatches> {
    let columns = request.columns.clone().unwrap_or_default();
    let ids = ScanRequest { columns: Some(Vec::new()), batch_rows: Some(MEDIA_ROWS_MAX), ..request }.with_row_id();
    let found = snapshot.scan(&ids).await?;
    let pieces = found.and_then({
        let (snapshot, columns) = (snapshot.clone(), columns.clone());
        move |batch| {
            let (snapshot, columns) = (snapshot.clone(), columns.clone());
            async move { pieces(&snapshot, &columns, &batch).await }
        }
    });
    let pieces = pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten();
    let batches = pieces.and_then(move |row_ids: Vec<u64>| {
        let (snapshot, columns) = (snapshot.clone(), columns.clone());
        async move { snapshot.take(&row_ids, &columns).await }
    });
    Ok(batches.boxed())
}

/// The row ids of `batch`, cut so that the media of a piece fit its limit.
async fn pieces(snapshot: &Snapshot, columns: &[String], batch: &RecordBatch) -> cenote_base::Result<Vec<Vec<u64>>> {
    let ids = batch.column_by_name(ROW_ID).and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let ids = ids.ok_or_else(|| Error::internal("the scan gave no row ids"))?.values();
    let mut sizes = vec![0u64; ids.len()];
    for column in columns {
        if snapshot.schema().field_with_name(column).is_ok_and(is_blob) {
            for (sum, size) in sizes.iter_mut().zip(snapshot.blob_sizes(column, ids).await?) {
                *sum += size;
            }
        }
    }
    Ok(cut(&sizes).into_iter().map(|range| ids[range].to_vec()).collect())
}

fn cut(sizes: &[u64]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (row, size) in sizes.iter().enumerate() {
        if row > start && bytes + size > MEDIA_BATCH_BYTES_MAX {
            ranges.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes += size;
    }
    if start < sizes.len() {
        ranges.push(start..sizes.len());
    }
    ranges
}

/// Our error inside DataFusion's result.
pub(crate) fn internal(what: &str) -> DataFusionError {
    external(Error::internal(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_are_cut_into_bounded_pieces() {
        let mib = 1 << 20;
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[0, 0, 10 * mib, 6 * mib, mib, 40 * mib, 1]), [0..4, 4..5, 5..6, 6..7]);
    }
}
