//! The table of rows that could not be processed, one for the whole lake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use cenote_base::{ErrorKind, Result, Timestamp};
use cenote_store::{HIDDEN_PREFIX, ScanRequest, Snapshot, Store, Table, TableSpec};

use super::in_turn::in_turn;
use super::keys;
use crate::fault::internal;

/// The name of the error table.
pub const ERROR_TABLE: &str = "cenote_errors";

/// Bytes of a reason that are kept.
const REASON_BYTES_MAX: usize = 8 << 10;
const KEY: [&str; 3] = ["table_name", "row_key", "step"];

/// Returns the schema of the error table, keyed by its first three columns.
///
/// `table_name`, `row_key` (a JSON list of the key's values as text), `step` (the first column or the child table that
/// the step makes), `operator`, `reason`, `time`.
fn error_table_schema() -> SchemaRef {
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
pub(crate) struct FailedRow {
    pub(crate) row_key: String,
    /// The step's label.
    pub(crate) step: String,
    pub(crate) operator: String,
    pub(crate) reason: String,
}

impl FailedRow {
    pub(crate) fn key(&self) -> FailedRowKey {
        FailedRowKey { step: self.step.clone(), row_key: self.row_key.clone() }
    }
}

/// The key of a failure within its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FailedRowKey {
    /// The step's label.
    pub(crate) step: String,
    pub(crate) row_key: String,
}

/// The failures on record for one table, without those of an earlier table of the same name. Cheap to clone.
#[derive(Clone)]
pub struct ErrorTable {
    store: Store,
    table_name: String,
    identity: i64,
}

/// Returns the first `REASON_BYTES_MAX` bytes of `reason`, in whole characters.
fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

impl ErrorTable {
    /// Opens the failures of the table called `table_name` in `store`, which `snapshot` is a snapshot of.
    pub fn new(store: &Store, table_name: &str, snapshot: &Snapshot) -> Self {
        let identity = snapshot.identity().cast_signed();
        Self { store: store.clone(), table_name: table_name.to_owned(), identity }
    }

    /// Returns the `row_key`, `step`, `operator`, `reason` and `time` of each failure.
    ///
    /// # Errors
    /// What reading met.
    pub async fn rows(&self) -> Result<RecordBatch> {
        let columns = ["row_key", "step", "operator", "reason", "time"];
        match self.existing().await? {
            Some(errors) => self.read(&errors, &columns).await,
            None => RecordBatch::new_empty(error_table_schema())
                .project(&[1, 2, 3, 4, 5])
                .map_err(internal("empty error list")),
        }
    }

    /// Takes all failures off the record: for a table that was dropped.
    ///
    /// # Errors
    /// What writing met. Even then, a new table of the same name does not inherit the failures.
    pub async fn forget(&self) -> Result<()> {
        let Some(errors) = self.existing().await? else { return Ok(()) };
        let own = self.own(&errors.snapshot().await?);
        errors.delete_where(own.into()).await.map(drop)
    }

    /// Returns the predicate that selects this table's failures.
    fn own(&self, errors: &Snapshot) -> String {
        let named = format!("table_name = '{}'", self.table_name);
        match errors.full_schema().field_with_name(&owner_column()) {
            // Failures recorded by older versions do not name the table's identity.
            Ok(owner) => format!("{named} AND ({0} IS NULL OR {0} = {1})", owner.name(), self.identity),
            Err(_) => named,
        }
    }

    async fn read(&self, errors: &Table, columns: &[&str]) -> Result<RecordBatch> {
        let snapshot = errors.snapshot().await?;
        let request = ScanRequest::default().columns(columns.iter().copied()).filter(self.own(&snapshot));
        snapshot.collect(&request).await
    }

    /// Returns the keys of the rows on record, by step label.
    pub(crate) async fn recorded(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut recorded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let Some(table) = self.existing().await? else { return Ok(recorded) };
        let rows = self.read(&table, &["step", "row_key"]).await?;
        let (steps, row_keys) = (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
        for (step, row_key) in steps.iter().flatten().zip(row_keys.iter().flatten()) {
            recorded.entry(step.to_owned()).or_default().insert(row_key.to_owned());
        }
        Ok(recorded)
    }

    /// Puts `failures` on record. A row that fails again in a step keeps only its newest reason.
    pub(crate) async fn record(&self, failures: &[FailedRow], now: Timestamp) -> Result<()> {
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
        // No operation where the column exists.
        table.add_own_columns(&[Field::new(owner_column(), DataType::Int64, true)]).await?;
        let text = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
        let columns = vec![
            text(vec![&self.table_name; failures.len()]),
            text(failures.iter().map(|failure| failure.row_key.as_str()).collect()),
            text(failures.iter().map(|failure| failure.step.as_str()).collect()),
            text(failures.iter().map(|failure| failure.operator.as_str()).collect()),
            text(failures.iter().map(|failure| cut(&failure.reason)).collect()),
            Arc::new(TimestampMicrosecondArray::from(vec![now.0; failures.len()])),
            Arc::new(Int64Array::from(vec![self.identity; failures.len()])),
        ];
        let mut fields = error_table_schema().fields().to_vec();
        fields.push(Arc::new(Field::new(owner_column(), DataType::Int64, true)));
        table.upsert(batch(Arc::new(Schema::new(fields)), columns)?).await?;
        Ok(())
    }

    /// Takes `resolved` off the record.
    pub(crate) async fn resolve(&self, resolved: &BTreeSet<FailedRowKey>) -> Result<()> {
        let Some(table) = self.existing().await? else { return Ok(()) };
        if resolved.is_empty() {
            return Ok(());
        }
        let columns = vec![
            Arc::new(StringArray::from(vec![self.table_name.as_str(); resolved.len()])) as ArrayRef,
            Arc::new(resolved.iter().map(|failure| Some(failure.row_key.as_str())).collect::<StringArray>()),
            Arc::new(resolved.iter().map(|failure| Some(failure.step.as_str())).collect::<StringArray>()),
        ];
        let fields: Vec<Field> = KEY.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect();
        table.delete(&batch(Arc::new(Schema::new(fields)), columns)?).await?;
        Ok(())
    }

    /// Takes rows that `table` no longer has off the record. Does so in the table's turn: otherwise a row could come
    /// back, fail in another run, and lose what that run recorded.
    pub(crate) async fn forget_deleted(&self, table: &Table) -> Result<()> {
        if self.recorded().await?.is_empty() {
            return Ok(());
        }
        let (own, rows) = (self.clone(), table.clone());
        in_turn(table, |_| async move { own.forget_absent(&rows).await }).await
    }

    async fn forget_absent(&self, table: &Table) -> Result<()> {
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
            let gone = row_keys.into_iter().filter(|row_key| !alive.contains(row_key));
            gone.map(move |row_key| FailedRowKey { step: step.clone(), row_key })
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

/// Returns the name of the column that holds the identity of the table whose row failed.
fn owner_column() -> String {
    format!("{HIDDEN_PREFIX}table")
}

fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(schema, columns).map_err(internal("build error rows"))
}
