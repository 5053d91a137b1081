//! Reading a table as it was at one version.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use cenote_base::{Error, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use lance::Dataset;
use lance::deps::datafusion::prelude::Expr;
use lance_core::datatypes::BlobHandling;

use crate::Version;
use crate::fault::{arrow_error, lance_error};
use crate::key::PrimaryKey;
use crate::schema;

/// The column in which a scan gives stable row ids (`UInt64`): they name a row as long as it lives.
pub const ROW_ID: &str = "_rowid";

/// A stream of batches of one schema.
pub type RecordBatches = Pin<Box<dyn Stream<Item = Result<RecordBatch>> + Send>>;

/// Which rows: a SQL predicate over the table's columns, or an expression of the query engine.
#[derive(Debug, Clone)]
pub enum Filter {
    /// For example `width >= 640 AND format = 'jpeg'`.
    Sql(String),
    /// What a planner pushes down.
    Expr(Box<Expr>),
}

impl From<&str> for Filter {
    fn from(text: &str) -> Self {
        Self::Sql(text.to_owned())
    }
}

impl From<String> for Filter {
    fn from(text: String) -> Self {
        Self::Sql(text)
    }
}

impl From<Expr> for Filter {
    fn from(expr: Expr) -> Self {
        Self::Expr(Box::new(expr))
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sql(text) => text.fmt(f),
            Self::Expr(expr) => expr.fmt(f),
        }
    }
}

/// What to read. The default is every visible column of every row.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Columns in the order wanted; `None`: all visible ones.
    pub columns: Option<Vec<String>>,
    /// Rows wanted; `None`: all.
    pub filter: Option<Filter>,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// Whether to append the column [`ROW_ID`].
    pub with_row_id: bool,
    /// At most so many rows a batch.
    pub batch_rows: Option<usize>,
}

impl ScanRequest {
    /// Only these columns.
    pub fn columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Only rows that satisfy `filter`.
    pub fn filter(mut self, filter: impl Into<Filter>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// At most `rows` rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// With the column [`ROW_ID`].
    pub fn with_row_id(mut self) -> Self {
        self.with_row_id = true;
        self
    }

    /// At most `rows` rows a batch.
    pub fn batch_rows(mut self, rows: usize) -> Self {
        self.batch_rows = Some(rows);
        self
    }
}

/// A table at one version. Cheap to clone; never changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    dataset: Arc<Dataset>,
    key: PrimaryKey,
    logical: SchemaRef,
    visible: SchemaRef,
}

impl Snapshot {
    pub(crate) fn new(dataset: Arc<Dataset>) -> Result<Self> {
        let stored = Schema::from(dataset.schema());
        let key = PrimaryKey::of_stored(&stored)?;
        let logical = schema::to_logical(&stored);
        let visible = Arc::new(schema::visible(&logical));
        Ok(Self { dataset, key, logical: Arc::new(logical), visible })
    }

    /// Which version this is.
    pub fn version(&self) -> Version {
        Version(self.dataset.version().version)
    }

    /// The columns, without Cenote's own.
    pub fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    /// All columns, Cenote's own too.
    pub fn full_schema(&self) -> &SchemaRef {
        &self.logical
    }

    /// The primary key.
    pub fn primary_key(&self) -> &PrimaryKey {
        &self.key
    }

    /// The Lance dataset at this version, for indexes and search.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// What [`Table::set_properties`](crate::Table::set_properties) stored, at this version.
    pub fn properties(&self) -> &HashMap<String, String> {
        self.dataset.config()
    }

    /// The schema that [`scan`](Self::scan) will give.
    ///
    /// # Errors
    /// `NotFound` naming a column that the table does not have.
    pub fn scan_schema(&self, request: &ScanRequest) -> Result<SchemaRef> {
        let schema = match &request.columns {
            None => Arc::clone(&self.visible),
            Some(columns) => schema::project(&self.logical, columns)?,
        };
        if !request.with_row_id {
            return Ok(schema);
        }
        let row_id = Arc::new(Field::new(ROW_ID, DataType::UInt64, false));
        Ok(Arc::new(Schema::new(schema.fields().iter().cloned().chain([row_id]).collect::<Vec<_>>())))
    }

    /// Streams the rows asked for, in no promised order. Bytes of a media column are read only if the request names it
    /// (or names no columns).
    ///
    /// # Errors
    /// `NotFound` for an unknown column, `InvalidInput` for a filter that does not parse or type-check; the stream ends
    /// after its first error.
    pub async fn scan(&self, request: &ScanRequest) -> Result<RecordBatches> {
        let schema = self.scan_schema(request)?;
        let mut scanner = self.dataset.scan();
        let names: Vec<&str> =
            schema.fields().iter().map(|field| field.name().as_str()).filter(|name| *name != ROW_ID).collect();
        if names.is_empty() {
            scanner.empty_project().map_err(lance_error)?.with_row_id();
        } else {
            scanner.project(&names).map_err(lance_error)?;
        }
        scanner.blob_handling(BlobHandling::AllBinary);
        match &request.filter {
            Some(Filter::Sql(text)) => {
                scanner.filter(text).map_err(lance_error).map_err(|e| e.context(format!("filter `{text}`")))?;
            }
            Some(Filter::Expr(expr)) => {
                scanner.filter_expr(expr.as_ref().clone());
            }
            None => {}
        }
        if let Some(limit) = request.limit {
            scanner.limit(Some(limit as i64), None).map_err(lance_error)?;
        }
        if request.with_row_id {
            scanner.with_row_id();
        }
        if let Some(rows) = request.batch_rows {
            scanner.batch_size(rows).strict_batch_size(true);
        }
        let stream = scanner.try_into_stream().await.map_err(|source| match &request.filter {
            Some(filter) => lance_error(source).context(format!("filter `{filter}`")),
            None => lance_error(source),
        })?;
        let stream = stream.map_err(lance_error).and_then(move |batch| {
            let schema = Arc::clone(&schema);
            async move { reshape(&batch, &schema) }
        });
        Ok(stream.boxed())
    }

    /// The rows asked for, as one batch. For results that are known to be small.
    pub async fn collect(&self, request: &ScanRequest) -> Result<RecordBatch> {
        let schema = self.scan_schema(request)?;
        let batches: Vec<RecordBatch> = self.scan(request).await?.try_collect().await?;
        arrow::compute::concat_batches(&schema, &batches).map_err(arrow_error)
    }

    /// How many rows there are, or satisfy `filter`.
    pub async fn count(&self, filter: Option<Filter>) -> Result<usize> {
        match filter {
            None => self.dataset.count_rows(None).await.map_err(lance_error),
            Some(filter) => {
                let request =
                    ScanRequest { filter: Some(filter), ..ScanRequest::default() }.columns([""; 0]).with_row_id();
                let stream = self.scan(&request).await?;
                stream.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await
            }
        }
    }

    /// The rows with these keys, in no promised order; a key that is absent gives no row.
    ///
    /// `keys` holds at least the primary key's columns; `columns` as in [`ScanRequest::columns`].
    pub async fn get(&self, keys: &RecordBatch, columns: Option<Vec<String>>) -> Result<RecordBatch> {
        let filter = self.key.filter(&self.key.project(keys)?)?;
        self.collect(&ScanRequest { columns, filter: Some(filter), ..ScanRequest::default() }).await
    }

    /// The rows with these row ids, in the order of `row_ids`; media columns as bytes.
    ///
    /// # Errors
    /// `NotFound` for an unknown column, or when a row id names no row of this snapshot.
    pub async fn take(&self, row_ids: &[u64], columns: &[String]) -> Result<RecordBatch> {
        let schema = schema::project(&self.logical, columns)?;
        let (blobs, plain): (Vec<&String>, Vec<&String>) =
            columns.iter().partition(|name| schema.field_with_name(name).is_ok_and(schema::is_blob));
        let mut arrays: HashMap<&str, ArrayRef> = HashMap::new();
        if !plain.is_empty() && !row_ids.is_empty() {
            let projection = self.dataset.schema().project(&plain).map_err(lance_error)?;
            let batch = self.dataset.take_rows(row_ids, projection).await.map_err(lance_error)?;
            if batch.num_rows() != row_ids.len() {
                return Err(Error::not_found("a row id names no row of this snapshot"));
            }
            for name in plain {
                if let Some(column) = batch.column_by_name(name) {
                    arrays.insert(name, Arc::clone(column));
                }
            }
        }
        for name in blobs {
            arrays.insert(name, self.read_blobs(name, row_ids).await?);
        }
        let columns = schema.fields().iter().map(|field| match arrays.remove(field.name().as_str()) {
            Some(column) => Ok(column),
            None if row_ids.is_empty() => Ok(arrow::array::new_empty_array(field.data_type())),
            None => Err(Error::internal(format!("take lost column `{}`", field.name()))),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(row_ids.len()));
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(arrow_error)
    }

    /// The sizes in bytes of media column `column` for these row ids, in their order; 0 for null. Reads no media.
    pub async fn blob_sizes(&self, column: &str, row_ids: &[u64]) -> Result<Vec<u64>> {
        let files = self.dataset.take_blobs(row_ids, column).await.map_err(lance_error)?;
        Ok(files.into_iter().map(|file| file.map_or(0, |file| file.size())).collect())
    }

    /// The values of media column `column` for these row ids, in their order, as `LargeBinary`.
    pub async fn read_blobs(&self, column: &str, row_ids: &[u64]) -> Result<ArrayRef> {
        let files = self.dataset.take_blobs(row_ids, column).await.map_err(lance_error)?;
        if files.len() != row_ids.len() {
            return Err(Error::not_found("a row id names no row of this snapshot"));
        }
        let mut builder = arrow::array::LargeBinaryBuilder::new();
        for file in files {
            match file {
                Some(file) => builder.append_value(file.read().await.map_err(lance_error)?),
                None => builder.append_null(),
            }
        }
        Ok(Arc::new(builder.finish()))
    }
}

/// `batch` in the columns, order and types of `schema`.
fn reshape(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let column = batch
            .column_by_name(field.name())
            .ok_or_else(|| Error::internal(format!("scan lost column `{}`", field.name())))?;
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        arrow::compute::cast(column, field.data_type()).map_err(arrow_error)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
}
