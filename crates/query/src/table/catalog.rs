//! The pinned tables as DataFusion's catalog.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;

use super::pinned::Pinned;
use super::stored::StoredTable;
use crate::fault::external;

pub(crate) const CATALOG: &str = "lake";
pub(crate) const SCHEMA: &str = "main";

/// The one catalog of a query.
#[derive(Debug)]
pub(crate) struct PinnedCatalog(Arc<Pinned>);

impl PinnedCatalog {
    pub(crate) fn new(pinned: Arc<Pinned>) -> Self {
        Self(pinned)
    }
}

impl CatalogProvider for PinnedCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| Arc::new(PinnedSchema(Arc::clone(&self.0))) as Arc<dyn SchemaProvider>)
    }
}

/// The one schema of [`PinnedCatalog`], which pins a table when the planner first asks for it.
#[derive(Debug)]
struct PinnedSchema(Arc<Pinned>);

#[async_trait]
impl SchemaProvider for PinnedSchema {
    fn table_names(&self) -> Vec<String> {
        self.0.names().to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if !self.0.has_table(name) && self.0.has_function(name) {
            return Ok(None);
        }
        let table = self.0.pin(name).await.map_err(external)?;
        Ok(Some(Arc::new(StoredTable::new(table))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.has_table(name)
    }
}
