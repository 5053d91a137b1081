//! A stored table as DataFusion's table provider.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::pinned::PinnedTable;
use super::pushdown;
use super::scan::ScanPlan;

/// The visible columns of a table at one version.
#[derive(Debug)]
pub(crate) struct StoredTable {
    table: Arc<PinnedTable>,
}

impl StoredTable {
    pub(crate) fn new(table: Arc<PinnedTable>) -> Self {
        Self { table }
    }

    pub(crate) fn pinned(&self) -> &Arc<PinnedTable> {
        &self.table
    }
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.table.snapshot.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch_rows = state.config().batch_size();
        let filter = pushdown::to_filter(filters, self.table.snapshot.schema());
        Ok(Arc::new(ScanPlan::try_new(Arc::clone(&self.table), projection, filter, limit, batch_rows).await?))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let schema = self.table.snapshot.schema();
        let support = |filter: &&Expr| match pushdown::is_exact(filter, schema) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }
}
