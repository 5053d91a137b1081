//! A piece of rows on its way through the stages of a pass: what each step reads of it, and what each step made of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use cenote_base::{Error, Result};
use cenote_operator::{Output, RowError};
use cenote_scheduler::{Cancel, Received};

use super::read::RowPiece;
use super::set_aside::set_aside;
use super::worker::{StepWorker, process};
use crate::fault::internal;
use crate::group::StepSet;
use crate::plan::PlannedStep;
use crate::record::error_table::FailedRow;

/// A step of a stage, with what the whole pass lets it process.
pub(super) struct StageStep {
    /// The step's index in the group.
    pub(super) number: usize,
    pub(super) planned: Arc<PlannedStep>,
    /// The ids of the rows that it must process.
    pub(super) stale: Arc<BTreeSet<u64>>,
    /// The columns that steps of the group read.
    pub(super) read: BTreeSet<String>,
}

/// The rows of a piece that a step must process.
struct StepInput {
    /// The rows' positions in the piece.
    positions: Vec<u32>,
    /// The values of these rows, one array for each port.
    columns: Vec<ArrayRef>,
}

/// The output of a step for the rows at `positions`.
#[derive(Clone)]
pub(super) struct StepOutput {
    pub(super) positions: Vec<u32>,
    pub(super) output: Output,
}

/// Rows that were prepared for a kernel, without the prepared values.
pub(super) struct PreparedRows {
    pub(super) positions: Vec<u32>,
    /// The rows that could not be prepared.
    pub(super) errors: Vec<RowError>,
}

/// The rows of a piece that a step processed.
#[derive(Clone)]
pub(super) struct StepOutcome {
    pub(super) rows: usize,
    pub(super) failures: Vec<FailedRow>,
}

/// A piece on its way through the stages. Cheap to clone: a task that is retried starts from the same state.
#[derive(Clone)]
pub(super) struct StagedPiece {
    piece: Arc<Received<RowPiece>>,
    row_keys: Arc<[String]>,
    /// The columns that steps read, as far as they are stored or made.
    columns: HashMap<String, ArrayRef>,
    /// The columns that steps made.
    pub(super) made: HashMap<String, ArrayRef>,
    /// For each row, the steps that it went through.
    pub(super) went_through: Vec<StepSet>,
    /// One outcome for each step so far.
    pub(super) steps: Vec<StepOutcome>,
}

impl StagedPiece {
    pub(super) fn new(piece: Received<RowPiece>, row_keys: Vec<String>) -> Self {
        let columns = piece.rows.schema_ref().fields().iter().zip(piece.rows.columns());
        let columns = columns.map(|(field, column)| (field.name().clone(), Arc::clone(column))).collect();
        let went_through = vec![StepSet::default(); piece.row_ids.len()];
        Self {
            piece: Arc::new(piece),
            row_keys: row_keys.into(),
            columns,
            made: HashMap::new(),
            went_through,
            steps: Vec::new(),
        }
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.went_through.len()
    }

    /// Runs `step` with `worker` over the rows that it must process.
    pub(super) fn process(&mut self, step: &StageStep, worker: &mut StepWorker, cancel: &Cancel) -> Result<()> {
        let done = match self.input(step)? {
            Some(StepInput { positions, columns }) => {
                Some(StepOutput { positions, output: worker.process(&columns, cancel)? })
            }
            None => None,
        };
        self.take_in(step, done)
    }

    /// Returns the batch that the kernel of `step` takes, empty and with `None` when no row must be processed.
    pub(super) fn prepare(&self, step: &StageStep, cancel: &Cancel) -> Result<(RecordBatch, Option<PreparedRows>)> {
        let kernel = step.planned.operator.kernel();
        let kernel = kernel.ok_or_else(|| Error::internal("a step without a kernel was placed"))?;
        let Some(StepInput { positions, columns }) = self.input(step)? else {
            return Ok((RecordBatch::new_empty(Arc::clone(&kernel.input)), None));
        };
        let output = process((kernel.preparer)()?.as_mut(), &step.planned.operator, &columns, cancel)?;
        Ok((kernel.batch(output.columns)?, Some(PreparedRows { positions, errors: output.errors })))
    }

    /// Returns the rows that `step` must process; `None` when there are none.
    fn input(&self, step: &StageStep) -> Result<Option<StepInput>> {
        let rows = self.rows();
        let is_stale = |row: &u32| step.stale.contains(&self.piece.row_ids[*row as usize]);
        let positions: Vec<u32> = (0..rows as u32).filter(is_stale).collect();
        if positions.is_empty() {
            return Ok(None);
        }
        let indices = UInt32Array::from(positions.clone());
        let columns = step.planned.inputs.iter().map(|input| {
            let column = self.columns.get(input);
            let column = column.ok_or_else(|| Error::internal(format!("the pass lost column `{input}`")))?;
            // Most pieces are taken whole: then nothing is copied.
            if positions.len() == rows { Ok(Arc::clone(column)) } else { select(column, &indices) }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Some(StepInput { positions, columns }))
    }

    /// Takes in what `step` made; `None` when it had no row to process.
    pub(super) fn take_in(&mut self, step: &StageStep, done: Option<StepOutput>) -> Result<()> {
        let rows = self.rows();
        let mut outcome = StepOutcome { rows: 0, failures: Vec::new() };
        if let Some(StepOutput { positions, output }) = done {
            outcome.rows = positions.len();
            let output = set_aside(&step.planned.outputs, output)?;
            for (field, values) in step.planned.outputs.iter().zip(output.columns) {
                let whole = scatter(self.columns.get(field.name()), &values, &positions, rows)?;
                if step.read.contains(field.name()) {
                    self.columns.insert(field.name().clone(), Arc::clone(&whole));
                }
                self.made.insert(field.name().clone(), whole);
            }
            let too_large = |row: &u32| {
                let found = self.piece.too_large.iter().find(|error| error.row == *row as usize);
                found.map(|error| (error.row, error.reason.clone()))
            };
            let errors = output.errors.into_iter().map(|error| (positions[error.row] as usize, error.reason));
            let mut reasons: BTreeMap<usize, String> = errors.collect();
            reasons.extend(positions.iter().filter_map(too_large));
            for row in positions.iter().map(|row| *row as usize) {
                self.went_through[row].insert(step.number);
                outcome.failures.extend(reasons.remove(&row).map(|reason| FailedRow {
                    row_key: self.row_keys[row].clone(),
                    step: step.planned.label().to_owned(),
                    operator: step.planned.operator.definition.name.to_owned(),
                    reason,
                }));
            }
        }
        self.steps.push(outcome);
        Ok(())
    }
}

/// Places `values` at `positions` of an array of `rows` rows. The other rows keep what is stored, or are null.
fn scatter(stored: Option<&ArrayRef>, values: &ArrayRef, positions: &[u32], rows: usize) -> Result<ArrayRef> {
    if positions.len() == rows {
        return Ok(Arc::clone(values));
    }
    let absent;
    let stored = match stored {
        Some(stored) => stored,
        None => {
            absent = new_null_array(values.data_type(), rows);
            &absent
        }
    };
    let mut sources: Vec<(usize, usize)> = (0..rows).map(|row| (0, row)).collect();
    for (index, position) in positions.iter().enumerate() {
        sources[*position as usize] = (1, index);
    }
    interleave(&[stored.as_ref(), values.as_ref()], &sources).map_err(internal("place outputs"))
}

/// Returns the rows of `column` at the positions `rows`.
pub(super) fn select(column: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef> {
    take(column.as_ref(), rows, None).map_err(internal("select rows"))
}
