//! The table of rows that could not be processed, one for the whole lake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use cenote_base::{Error, ErrorKind, Result, Timestamp};
use cenote_store::{ScanRequest, Store, Table, TableSpec};

use crate::keys;

/// The name of the error table.
pub const ERROR_TABLE: &str = "cenote_errors";

const KEY: [&str; 3] = ["table_name", "row_key", "step"];

/// `table_name`, `row_key` (a JSON list of the key's values as text), `step` (the first column or the child table that the
/// step makes), `operator`, `reason`, `time`; keyed by the first three.
pub fn error_table_schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let time = Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, None), false);
    Arc::new(Schema::new(vec![
        text("table_name"),
        text("row_key"),
        text("step"),
        text("operator"),
        text("reason"),
        time,
    ]))
}

/// A row that failed in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) row_key: String,
    pub(crate) step: String,
    pub(crate) operator: String,
    pub(crate) reason: String,
}

/// The failures of one table's rows.
pub(crate) struct ErrorTable {
    store: Store,
    table_name: String,
}

impl ErrorTable {
    pub(crate) fn new(store: &Store, table_name: &str) -> Self {
        Self { store: store.clone(), table_name: table_name.to_owned() }
    }

    /// The keys on record, by step.
    pub(crate) async fn recorded(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut recorded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let Some(table) = self.existing().await? else { return Ok(recorded) };
        let own = format!("table_name = '{}'", self.table_name);
        let request = ScanRequest::default().columns(["step", "row_key"]).filter(own);
        let rows = table.snapshot().await?.collect(&request).await?;
        let (steps, row_keys) = (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
        for (step, row_key) in steps.iter().flatten().zip(row_keys.iter().flatten()) {
            recorded.entry(step.to_owned()).or_default().insert(row_key.to_owned());
        }
        Ok(recorded)
    }

    /// Puts `failures` on record; a key that fails again in a step has its newest reason.
    pub(crate) async fn record(&self, failures: &[Failure], now: Timestamp) -> Result<()> {
        if failures.is_empty() {
            return Ok(());
        }
        let table = match self.existing().await? {
            Some(table) => table,
            None => match self.store.create_table(ERROR_TABLE, TableSpec::new(error_table_schema(), KEY)).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.store.table(ERROR_TABLE).await?,
                created => created?,
            },
        };
        let text = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
        let columns = vec![
            text(vec![&self.table_name; failures.len()]),
            text(failures.iter().map(|failure| failure.row_key.as_str()).collect()),
            text(failures.iter().map(|failure| failure.step.as_str()).collect()),
            text(failures.iter().map(|failure| failure.operator.as_str()).collect()),
            text(failures.iter().map(|failure| failure.reason.as_str()).collect()),
            Arc::new(TimestampMicrosecondArray::from(vec![now.0; failures.len()])),
        ];
        table.upsert(batch(error_table_schema(), columns)?).await?;
        Ok(())
    }

    /// Takes (step, key) pairs off the record.
    pub(crate) async fn resolve(&self, resolved: &BTreeSet<(String, String)>) -> Result<()> {
        let Some(table) = self.existing().await? else { return Ok(()) };
        if resolved.is_empty() {
            return Ok(());
        }
        let columns = vec![
            Arc::new(StringArray::from(vec![self.table_name.as_str(); resolved.len()])) as ArrayRef,
            Arc::new(resolved.iter().map(|(_, row_key)| Some(row_key.as_str())).collect::<StringArray>()),
            Arc::new(resolved.iter().map(|(step, _)| Some(step.as_str())).collect::<StringArray>()),
        ];
        let fields: Vec<Field> = KEY.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect();
        table.delete(&batch(Arc::new(Schema::new(fields)), columns)?).await?;
        Ok(())
    }

    /// Takes rows that are no longer in `table` off the record.
    pub(crate) async fn forget_deleted(&self, table: &Table) -> Result<()> {
        let recorded = self.recorded().await?;
        let texts: Vec<String> = recorded.values().flatten().collect::<BTreeSet<_>>().into_iter().cloned().collect();
        if texts.is_empty() {
            return Ok(());
        }
        let snapshot = table.snapshot().await?;
        let key = snapshot.primary_key();
        let found = snapshot.get(&keys::parse(key, &texts)?, Some(key.columns())).await?;
        let alive: BTreeSet<String> = keys::render(&found)?.into_iter().collect();
        let gone = recorded.into_iter().flat_map(|(step, row_keys)| {
            row_keys.into_iter().filter(|row_key| !alive.contains(row_key)).map(move |row_key| (step.clone(), row_key))
        });
        self.resolve(&gone.collect()).await
    }

    async fn existing(&self) -> Result<Option<Table>> {
        match self.store.table(ERROR_TABLE).await {
            Ok(table) => Ok(Some(table)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(schema, columns).map_err(|source| Error::internal("build error rows").with_source(source))
}
