//! Stages of a pass: each runs consecutive steps over one piece as one task, on one thread, without handing it over in
//! between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use cenote_operator::{Kernel, Output, RowError};
use cenote_scheduler::{Actor, Cancel, Context, Held, Placed, Scheduler, WorkOptions};

use super::read::Piece;
use super::task::{Task, tasks};
use super::worker::{RETRIES_MAX, StepWorker, WORKER_IDLE, process};
use crate::devices::Devices;
use crate::engine::Engine;
use crate::fault::internal;
use crate::group::{Group, Pattern, Work};
use crate::plan::PlannedStep;
use crate::record::error_table::Failure;

/// Steps of a group that run as one task.
pub(super) struct Stage {
    steps: Arc<[StageStep]>,
    options: WorkOptions,
    runs: Runs,
}

/// The way a stage is run.
enum Runs {
    /// By workers of all its steps, which hold the steps' resources for as long as they live.
    Whole(Actor<Vec<StepWorker>>),
    /// By a worker of its one step, which prepares rows, and a kernel, on the processor that will be done first.
    InHalves(Placed),
}

struct StageStep {
    number: usize,
    step: Arc<PlannedStep>,
    /// The ids of the rows that it must process.
    stale: Arc<BTreeSet<u64>>,
    /// The columns that steps of the group read.
    read: BTreeSet<String>,
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
struct StepOutput {
    positions: Vec<u32>,
    output: Output,
}

/// Rows that were prepared for a kernel, without the prepared values.
struct Prepared {
    positions: Vec<u32>,
    /// The rows that could not be prepared.
    errors: Vec<RowError>,
}

/// The rows of a piece that a step processed.
#[derive(Clone)]
pub(super) struct StepOutcome {
    pub(super) rows: usize,
    pub(super) failures: Vec<Failure>,
}

/// A piece on its way through the stages. Cheap to clone: a task that is retried starts from the same state.
#[derive(Clone)]
pub(super) struct Taken {
    piece: Arc<Held<Piece>>,
    row_keys: Arc<[String]>,
    /// The columns that steps read, as far as they are stored or made.
    columns: HashMap<String, ArrayRef>,
    /// The columns that steps made.
    pub(super) made: HashMap<String, ArrayRef>,
    /// For each row, the steps that it went through.
    pub(super) patterns: Vec<Pattern>,
    /// One outcome for each step so far.
    pub(super) steps: Vec<StepOutcome>,
}

/// Starts the stages of `group`, one for each of its tasks.
pub(super) fn stages(engine: &Engine, group: &Group, work: &Work, cancel: &Cancel) -> Result<Vec<Stage>> {
    let (scheduler, devices) = (engine.scheduler(), engine.options().devices.as_ref());
    let workers_max = (scheduler.usage().total.cpu.ceil() as usize).max(1);
    let stage = |Task { steps: numbers, resources }: Task| {
        let name = numbers.clone().map(|number| group.steps[number].operator.definition.name).collect::<Vec<_>>();
        let first = &group.steps[numbers.start].operator;
        let kernel = devices.and_then(|devices| Some((devices, devices.kernel(first)?)));
        // The device is requested by each batch that goes there.
        let resources = if kernel.is_some() { first.resources() } else { resources };
        let options = WorkOptions::new(name.join(", ")).resources(resources).retries(RETRIES_MAX).cancel(cancel);
        let options = options.job(&group.job);
        let place = |(devices, kernel): (&Devices, &Kernel)| {
            let on_cpu = Arc::clone(&kernel.on_cpu);
            scheduler.placed(devices.placed(kernel, options.clone()), move |batch| on_cpu(batch))
        };
        let operators: Vec<_> = numbers.clone().map(|number| Arc::clone(&group.steps[number].operator)).collect();
        let workers = move || Ok(operators.iter().map(StepWorker::new).collect());
        let runs = match kernel.map(place).transpose()? {
            Some(placed) => Runs::InHalves(placed),
            None => Runs::Whole(scheduler.actor(options.clone(), workers_max, WORKER_IDLE, workers)?),
        };
        let step = |number: usize| StageStep {
            number,
            step: Arc::clone(&group.steps[number]),
            stale: Arc::clone(&work.stale[number]),
            read: group.steps.iter().flat_map(|step| step.inputs.iter().cloned()).collect(),
        };
        Ok(Stage { steps: numbers.map(step).collect(), options, runs })
    };
    tasks(engine, &group.steps).into_iter().map(stage).collect()
}

impl Stage {
    /// Returns `taken` with the stage's steps done.
    pub(super) async fn run(&self, scheduler: &Scheduler, taken: Taken) -> Result<Taken> {
        let steps = Arc::clone(&self.steps);
        let placed = match &self.runs {
            Runs::InHalves(placed) => placed,
            Runs::Whole(workers) => {
                let work = move |workers: &mut Vec<StepWorker>, context: &Context| {
                    let mut taken = taken.clone();
                    for (step, worker) in steps.iter().zip(workers) {
                        taken.process(step, worker, &context.cancel)?;
                    }
                    Ok(taken)
                };
                return workers.call(work).await;
            }
        };
        let prepared = Arc::new(Mutex::new(None));
        let (before, by, kept) = (taken.clone(), Arc::clone(&steps), Arc::clone(&prepared));
        // Submitted as an object: it counts in the memory budget while it waits for the device, and is spilled to disk
        // when memory is full.
        let object = scheduler.submit(&self.options, &[], move |context, _| {
            let (batch, prepared) = before.prepare(&by[0], &context.cancel)?;
            *kept.lock() = prepared;
            Ok(batch.into())
        })?;
        scheduler.wait(&object).await?;
        let prepared: Option<Prepared> = prepared.lock().take();
        let done = match prepared {
            None => None,
            Some(Prepared { positions, errors }) => {
                let made = placed.run(&object, positions.len()).await?;
                Some(StepOutput { positions, output: Output::from(made.columns().to_vec()).with_errors(errors) })
            }
        };
        drop(object);
        let finish = move |_: &_| {
            let (mut taken, step) = (taken.clone(), &steps[0]);
            let check = |StepOutput { positions, output }: StepOutput| {
                let output = step.step.operator.check(positions.len(), output)?;
                Ok::<_, Error>(StepOutput { positions, output })
            };
            taken.take_in(step, done.clone().map(check).transpose()?)?;
            Ok(taken)
        };
        scheduler.run(&self.options, finish).await
    }
}

impl Taken {
    pub(super) fn new(piece: Held<Piece>, row_keys: Vec<String>) -> Self {
        let columns = piece.rows.schema_ref().fields().iter().zip(piece.rows.columns());
        let columns = columns.map(|(field, column)| (field.name().clone(), Arc::clone(column))).collect();
        let patterns = vec![0; piece.row_ids.len()];
        Self {
            piece: Arc::new(piece),
            row_keys: row_keys.into(),
            columns,
            made: HashMap::new(),
            patterns,
            steps: Vec::new(),
        }
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.patterns.len()
    }

    fn process(&mut self, step: &StageStep, worker: &mut StepWorker, cancel: &Cancel) -> Result<()> {
        let done = match self.input(step)? {
            Some(StepInput { positions, columns }) => {
                Some(StepOutput { positions, output: worker.process(&columns, cancel)? })
            }
            None => None,
        };
        self.take_in(step, done)
    }

    /// Returns the batch that the kernel of `step` takes, empty and with `None` when no row must be processed.
    fn prepare(&self, step: &StageStep, cancel: &Cancel) -> Result<(RecordBatch, Option<Prepared>)> {
        let kernel = step.step.operator.kernel();
        let kernel = kernel.ok_or_else(|| Error::internal("a step without a kernel was placed"))?;
        let Some(StepInput { positions, columns }) = self.input(step)? else {
            return Ok((RecordBatch::new_empty(Arc::clone(&kernel.input)), None));
        };
        let output = process((kernel.preparer)()?.as_mut(), &step.step.operator, &columns, cancel)?;
        Ok((kernel.batch(output.columns)?, Some(Prepared { positions, errors: output.errors })))
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
        let columns = step.step.inputs.iter().map(|input| {
            let column = self.columns.get(input);
            let column = column.ok_or_else(|| Error::internal(format!("the pass lost column `{input}`")))?;
            // Most pieces are taken whole: then nothing is copied.
            if positions.len() == rows { Ok(Arc::clone(column)) } else { select(column, &indices) }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Some(StepInput { positions, columns }))
    }

    /// Takes in what `step` made; `None` when it had no row to process.
    fn take_in(&mut self, step: &StageStep, done: Option<StepOutput>) -> Result<()> {
        let rows = self.rows();
        let mut outcome = StepOutcome { rows: 0, failures: Vec::new() };
        if let Some(StepOutput { positions, output }) = done {
            outcome.rows = positions.len();
            for (field, values) in step.step.outputs.iter().zip(output.columns) {
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
                self.patterns[row] |= 1 << step.number;
                outcome.failures.extend(reasons.remove(&row).map(|reason| Failure {
                    row_key: self.row_keys[row].clone(),
                    step: step.step.label().to_owned(),
                    operator: step.step.operator.definition.name.to_owned(),
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
