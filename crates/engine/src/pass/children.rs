//! The children of one step's parents, as runs commit them.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, RecordBatch};
use arrow::compute::kernels::cmp::neq;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::row::{OwnedRow, RowConverter, SortField};
use cenote_base::{Error, Result};
use cenote_store::{PrimaryKey, ScanRequest, Snapshot, Table, Turn, VOID};
use futures::TryStreamExt;

use super::drive::ChildRows;
use crate::engine::Engine;
use crate::fault::internal;
use crate::plan::{Child, PlannedStep};
use crate::record::error_table::{ErrorTable, FailedRow, FailedRowKey};
use crate::record::in_turn::in_turn;
use crate::record::keys;

/// The child table of one step, as a run writes it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Children {
    engine: Engine,
    /// The parents' table.
    table: Table,
    /// The parents as the run has read them.
    read: Snapshot,
    step: Arc<PlannedStep>,
    child: Child,
}

impl Children {
    pub(super) fn new(engine: &Engine, table: &Table, step: &Arc<PlannedStep>, child: &Child, read: &Snapshot) -> Self {
        Self {
            engine: engine.clone(),
            table: table.clone(),
            read: read.clone(),
            step: Arc::clone(step),
            child: child.clone(),
        }
    }

    /// Writes children, then their parents' fingerprints, for the parents whose inputs are still as they were read.
    ///
    /// At any time, the children of a parent with a fingerprint are those that its inputs give under that fingerprint,
    /// whatever runs commit and whatever parents change meanwhile:
    ///
    /// - Runs over one parent table commit one at a time, in its turn, and nothing but a commit sets a fingerprint or
    ///   writes children.
    /// - A parent that changed before the turn's look at it is passed over: where another run has committed its newer
    ///   children, they stay.
    /// - A parent with a fingerprint loses it before its children are touched, so a crash in between leaves it to the
    ///   next run.
    /// - A parent that changes after the look has no fingerprint any more, because the change voids it in the same
    ///   write, and gets none here. Its newer inputs can be committed only after this turn, by a run that compares with
    ///   the children written here.
    ///
    /// A process that stalls for long can lose its turn in an object store. It notices after it has written, and
    /// removes the fingerprints again.
    pub(super) async fn commit(
        &self,
        parents: RecordBatch,
        children: RecordBatch,
        failures: Vec<FailedRow>,
    ) -> Result<ChildRows> {
        let own = self.clone();
        in_turn(&self.table, |turn| async move { own.commit_in(&turn, parents, children, failures).await }).await
    }

    async fn commit_in(
        &self,
        turn: &Turn,
        parents: RecordBatch,
        children: RecordBatch,
        mut failures: Vec<FailedRow>,
    ) -> Result<ChildRows> {
        let (read, inputs) = (&self.read, &self.step.inputs);
        let parent_key = read.primary_key();
        let now = self.table.snapshot().await?;
        let unchanged = BooleanArray::from(now.unchanged_since(read, &parents, inputs).await?);
        let parents = filter_record_batch(&parents, &unchanged).map_err(internal("select parents"))?;
        if parents.num_rows() == 0 {
            return Ok(ChildRows::default());
        }
        let kept: HashSet<OwnedRow> = parent_key.encode(&parents)?.into_iter().collect();
        let is_kept = parent_key.encode(&parent_key.project(&children)?)?;
        let is_kept: BooleanArray = is_kept.iter().map(|parent| Some(kept.contains(parent))).collect();
        let children = filter_record_batch(&children, &is_kept).map_err(internal("select child rows"))?;

        let row_keys: BTreeSet<String> = keys::render(&parents)?.into_iter().collect();
        failures.retain(|failure| row_keys.contains(&failure.row_key));
        let errors = ErrorTable::new(self.engine.store(), self.table.name(), read);
        let label = self.step.label();
        let mut resolved = errors.recorded().await?.remove(label).unwrap_or_default();
        let failed: BTreeSet<&String> = failures.iter().map(|failure| &failure.row_key).collect();
        resolved.retain(|row_key| row_keys.contains(row_key) && !failed.contains(row_key));

        let fingerprint = &self.step.fingerprint_column;
        let columns = parent_key.columns().into_iter().chain([fingerprint.clone()]).collect();
        let current = now.get(&parents, Some(columns)).await?;
        let has_one = current.column_by_name(fingerprint).ok_or_else(|| Error::internal("no fingerprint was read"))?;
        let has_one = neq(has_one, &Int64Array::new_scalar(VOID)).map_err(internal("look for fingerprints"))?;
        if has_one.true_count() > 0 {
            let current = parent_key.project(&current)?;
            self.unset(filter_record_batch(&current, &has_one).map_err(internal("select parents"))?).await?;
        }

        let done = self.replace(&parents, &children).await;
        self.check(turn, &parents).await?;
        let done = done?;
        errors.record(&failures, self.engine.options().clock.now()).await?;
        let current = self.fingerprints(parents, Some(self.step.fingerprint.0))?;
        self.table.update_unchanged(current, read, inputs).await?;
        let resolved = resolved.into_iter().map(|row_key| FailedRowKey { step: label.to_owned(), row_key });
        errors.resolve(&resolved.collect()).await?;
        Ok(done)
    }

    /// Replaces the children of `parents` by `children`; equal ones are not written again.
    async fn replace(&self, parents: &RecordBatch, children: &RecordBatch) -> Result<ChildRows> {
        let table = self.engine.store().table(&self.child.table).await?;
        let snapshot = table.snapshot().await?;
        let columns: Vec<String> = self.child.schema.fields().iter().map(|field| field.name().clone()).collect();
        let of_parents = self.read.primary_key().filter(parents)?;
        let existing = snapshot.collect(&ScanRequest::default().columns(columns).filter(of_parents)).await?;
        let key = snapshot.primary_key();

        let unchanged: HashSet<OwnedRow> = encode(&existing)?.into_iter().collect();
        let changed: BooleanArray = encode(children)?.iter().map(|row| Some(!unchanged.contains(row))).collect();
        let changed = filter_record_batch(children, &changed).map_err(internal("select changed child rows"))?;
        let wanted: HashSet<OwnedRow> = key.encode(&key.project(children)?)?.into_iter().collect();
        let existing_keys = key.project(&existing)?;
        let dropped: BooleanArray = key.encode(&existing_keys)?.iter().map(|row| Some(!wanted.contains(row))).collect();
        let dropped = filter_record_batch(&existing_keys, &dropped).map_err(internal("select dropped child rows"))?;

        let removed = table.delete(&dropped).await?.deleted;
        let written = changed.num_rows();
        table.upsert(changed).await?;
        Ok(ChildRows { written, removed })
    }

    /// Verifies, after a change of the children of `parents`, that it was still this run's turn. If not, leaves the
    /// parents to the next run.
    ///
    /// # Errors
    /// `Conflict` when it was not.
    async fn check(&self, turn: &Turn, parents: &RecordBatch) -> Result<()> {
        let unknown = match turn.is_ours().await {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        self.unset(parents.clone()).await?;
        let lost = Error::conflict(format!(
            "this process stalled while it wrote to table `{}`, and may have lost its turn to another run: run the \
             recipe again",
            self.child.table
        ));
        Err(match unknown {
            Some(source) => lost.with_source(source),
            None => lost,
        })
    }

    /// Sets the fingerprints of `parents` to null, whatever they are.
    async fn unset(&self, parents: RecordBatch) -> Result<()> {
        self.table.update(self.fingerprints(parents, None)?).await.map(drop)
    }

    /// Builds an update that sets the fingerprints of `parents`.
    fn fingerprints(&self, parents: RecordBatch, fingerprint: Option<i64>) -> Result<RecordBatch> {
        let mut fields: Vec<Field> = parents.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.push(Field::new(&self.step.fingerprint_column, DataType::Int64, true));
        let mut columns = parents.columns().to_vec();
        columns.push(Arc::new(Int64Array::from(vec![fingerprint; parents.num_rows()])));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(internal("build an update"))
    }

    /// Deletes the children of parents that are gone or have no fingerprint, and returns how many it deleted. If there
    /// are any, they are searched again in the turn, in which no other run gives a parent its children.
    pub(super) async fn remove_orphans(&self) -> Result<usize> {
        if self.orphans().await?.is_none() {
            return Ok(0);
        }
        let own = self.clone();
        let remove = |turn: Arc<Turn>| async move {
            let Some(orphans) = own.orphans().await? else { return Ok(0) };
            let removed = own.engine.store().table(&own.child.table).await?.delete(&orphans).await;
            own.check(&turn, &distinct(own.read.primary_key(), &orphans)?).await?;
            Ok(removed?.deleted)
        };
        in_turn(&self.table, remove).await
    }

    /// Returns the keys of children whose parents are gone or have no fingerprint, or `None` if there are none.
    async fn orphans(&self) -> Result<Option<RecordBatch>> {
        let parents = self.table.snapshot().await?;
        let key = parents.primary_key();
        let has_children = format!("`{}` <> {VOID}", self.step.fingerprint_column);
        let request = ScanRequest::default().columns(key.columns()).filter(has_children);
        let mut alive: HashSet<OwnedRow> = HashSet::new();
        let mut stream = parents.scan(&request).await?;
        while let Some(batch) = stream.try_next().await? {
            alive.extend(key.encode(&key.project(&batch)?)?);
        }
        let children = self.engine.store().table(&self.child.table).await?.snapshot().await?;
        let mut orphans: Vec<RecordBatch> = Vec::new();
        let mut stream = children.scan(&ScanRequest::default().columns(self.child.key.clone())).await?;
        while let Some(batch) = stream.try_next().await? {
            let orphaned = key.encode(&key.project(&batch)?)?;
            let orphaned: BooleanArray = orphaned.iter().map(|row| Some(!alive.contains(row))).collect();
            if orphaned.true_count() > 0 {
                orphans.push(filter_record_batch(&batch, &orphaned).map_err(internal("select orphans"))?);
            }
        }
        let Some(first) = orphans.first() else { return Ok(None) };
        concat_batches(&first.schema(), &orphans).map(Some).map_err(internal("join orphans"))
    }
}

/// Returns the distinct keys of the rows of `batch`.
fn distinct(key: &PrimaryKey, batch: &RecordBatch) -> Result<RecordBatch> {
    let keys = key.project(batch)?;
    let mut seen = HashSet::new();
    let is_first: BooleanArray = key.encode(&keys)?.into_iter().map(|key| Some(seen.insert(key))).collect();
    filter_record_batch(&keys, &is_first).map_err(internal("select parents"))
}

/// Encodes each row as bytes that are equal for equal rows.
fn encode(batch: &RecordBatch) -> Result<Vec<OwnedRow>> {
    let fields = batch.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(internal("compare rows"))?;
    let rows = converter.convert_columns(batch.columns()).map_err(internal("compare rows"))?;
    Ok(rows.iter().map(|row| row.owned()).collect())
}
