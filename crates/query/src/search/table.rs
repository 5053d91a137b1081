//! The result of a search as DataFusion's table provider.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use cenote_index::{DISTANCE, SCORE};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::GlobalLimitExec;

use super::plan::{SearchKind, SearchPlan, SearchSpec};
use crate::fault::external;
use cenote_base::Error;

/// The table of the rows that a search finds: the visible columns, and the distance and score. Media are read only when
/// named.
#[derive(Debug)]
pub(super) struct SearchTable {
    spec: Arc<SearchSpec>,
    /// The scalar subquery that gives the vector, planned together with the query.
    subquery: Option<LogicalPlan>,
    schema: SchemaRef,
}

impl SearchTable {
    /// Makes the table of a search function, with distance and score.
    pub(super) fn new(spec: SearchSpec, subquery: Option<LogicalPlan>) -> Self {
        let ranks: &[&str] = match spec.search {
            SearchKind::Vector(_) => &[DISTANCE],
            SearchKind::Text { .. } => &[SCORE],
            SearchKind::Hybrid { .. } => &[DISTANCE, SCORE],
        };
        let ranks = ranks.iter().map(|name| Arc::new(Field::new(*name, DataType::Float32, true)));
        let fields: Vec<_> = spec.table.snapshot.schema().fields().iter().cloned().chain(ranks).collect();
        Self { spec: Arc::new(spec), subquery, schema: Arc::new(Schema::new(fields)) }
    }

    /// Makes the table of a search that replaces a table scan, without distance and score.
    pub(super) fn in_place(spec: SearchSpec) -> Self {
        let schema = Arc::clone(spec.table.snapshot.schema());
        Self { spec: Arc::new(spec), subquery: None, schema }
    }
}

#[async_trait]
impl TableProvider for SearchTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !filters.is_empty() {
            return Err(external(Error::internal("a filter was pushed into a search")));
        }
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => Arc::clone(&self.schema),
        };
        let mut spec = Arc::clone(&self.spec);
        if let Some(subquery) = &self.subquery {
            let plan = state.create_physical_plan(subquery).await?;
            spec = Arc::new(spec.with_plan(plan));
        }
        let plan: Arc<dyn ExecutionPlan> = Arc::new(SearchPlan::new(spec, schema));
        Ok(match limit {
            Some(limit) => Arc::new(GlobalLimitExec::new(plan, 0, Some(limit))),
            None => plan,
        })
    }
}
