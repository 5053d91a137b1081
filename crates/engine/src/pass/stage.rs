//! One task of a pass: consecutive steps over one chunk, on one thread, without handing it over in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use cenote_base::sync::Mutex;
use cenote_base::{Error, Resources, Result};
use cenote_operator::{Kernel, Output, RowError};
use cenote_scheduler::{Actor, Cancel, Context, Held, Placed, Scheduler, WorkOptions};

use super::derive::internal;
use super::read::Chunk;
use super::worker::{RETRIES_MAX, StepWorker, process};
use crate::devices::{DEVICE_SHARE, Devices};
use crate::plan::PlannedStep;
use crate::record::error_table::Failure;
use crate::run::{Engine, Group, Work};

/// Which steps of a group a row went through: bit `n` for step `n`. A group has at most 64 steps.
pub(crate) type Pattern = u64;

pub(crate) const GROUP_STEPS_MAX: usize = 64;
/// How long a worker is kept without a chunk: a pass that goes on has one again sooner.
pub(crate) const WORKER_IDLE: Duration = Duration::from_secs(60);

/// Steps of a group that run as one task.
pub(crate) struct Stage {
    steps: Arc<[StageStep]>,
    options: WorkOptions,
    runs: Runs,
}

/// How a stage is run.
enum Runs {
    /// By workers of all its steps, which hold what the steps ask for as long as they are there.
    Whole(Actor<Vec<StepWorker>>),
    /// Its one step prepares rows for a kernel, which runs where it ends first.
    InHalves(Placed),
}

struct StageStep {
    number: usize,
    step: Arc<PlannedStep>,
    /// The row ids it must process.
    stale: Arc<BTreeSet<u64>>,
    /// Which of its outputs some step of the group reads.
    read: BTreeSet<String>,
}

/// What the first half of a step knows of the batch that its kernel takes: at which positions the rows stand, and which
/// have failed.
type Beside = (Vec<u32>, Vec<RowError>);

/// A chunk on its way through the stages. Cheap to clone: a task that is tried again starts from where it was.
#[derive(Clone)]
pub(crate) struct Taken {
    chunk: Arc<Held<Chunk>>,
    row_keys: Arc<[String]>,
    /// What steps read, as far as it is there.
    columns: HashMap<String, ArrayRef>,
    /// What steps made.
    pub(crate) made: HashMap<String, ArrayRef>,
    pub(crate) patterns: Vec<Pattern>,
    /// For each step so far: how many rows it processed, and those that failed.
    pub(crate) counts: Vec<usize>,
    pub(crate) failures: Vec<Vec<Failure>>,
}

/// The stages of `group`: consecutive steps that ask for no device and for the same share of CPU are one, as long as
/// the memory of all of them may be had.
pub(crate) fn stages(engine: &Engine, group: &Group, work: &Work, cancel: &Cancel) -> Result<Vec<Stage>> {
    let (scheduler, devices) = (&engine.scheduler, engine.options.devices.as_ref());
    let workers_max = (scheduler.usage().total.cpu.ceil() as usize).max(1);
    let stage = |(range, resources): (Range<usize>, Resources)| {
        let name = range.clone().map(|number| group.steps[number].operator.definition.name).collect::<Vec<_>>();
        let first = &group.steps[range.start].operator;
        let kernel = devices.and_then(|devices| Some((devices, devices.kernel(first)?)));
        // The device is asked for with each batch that goes there.
        let resources = if kernel.is_some() { first.resources() } else { resources };
        let options = WorkOptions::new(name.join(", ")).resources(resources).retries(RETRIES_MAX).cancel(cancel);
        let options = options.job(&group.job);
        let place = |(devices, kernel): (&Devices, &Kernel)| {
            let on_cpu = Arc::clone(&kernel.on_cpu);
            scheduler.placed(devices.placed(kernel, options.clone()), move |batch| on_cpu(batch))
        };
        let operators: Vec<_> = range.clone().map(|number| Arc::clone(&group.steps[number].operator)).collect();
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
        Ok(Stage { steps: range.map(step).collect(), options, runs })
    };
    let requests = requests(&group.steps, devices);
    fuse(&requests, engine.task_bytes_max()).into_iter().map(stage).collect()
}

/// What each of `steps` asks for, the device included that its kernel may run on.
pub(crate) fn requests(steps: &[Arc<PlannedStep>], devices: Option<&Devices>) -> Vec<Resources> {
    let request = |step: &Arc<PlannedStep>| match devices.filter(|devices| devices.kernel(&step.operator).is_some()) {
        Some(devices) => step.operator.resources().with_device(devices.class.as_str(), DEVICE_SHARE),
        None => step.operator.resources(),
    };
    steps.iter().map(request).collect()
}

/// Ranges of `requests` that run as one task, with what it asks for.
pub(crate) fn fuse(requests: &[Resources], memory_bytes_max: u64) -> Vec<(Range<usize>, Resources)> {
    let mut fused: Vec<(Range<usize>, Resources)> = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let alone = |request: &Resources| request.device.is_some() || !request.named.is_empty();
        match fused.last_mut() {
            Some((range, whole))
                if !alone(whole)
                    && !alone(request)
                    && whole.cpu == request.cpu
                    && whole.memory_bytes.saturating_add(request.memory_bytes) <= memory_bytes_max =>
            {
                range.end = number + 1;
                // Each of them keeps its state while the next one runs.
                whole.memory_bytes += request.memory_bytes;
            }
            _ => fused.push((number..number + 1, request.clone())),
        }
    }
    fused
}

impl Stage {
    /// `taken` with the stage's steps done.
    pub(crate) async fn run(&self, scheduler: &Scheduler, taken: Taken) -> Result<Taken> {
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
        let beside = Arc::new(Mutex::new(None));
        let (before, by, kept) = (taken.clone(), Arc::clone(&steps), Arc::clone(&beside));
        // Submitted as an object: it counts in the memory budget while it waits for the device, and is spilled to disk
        // when memory is full.
        let prepared = scheduler.submit(&self.options, &[], move |context, _| {
            let (batch, beside) = before.prepare(&by[0], &context.cancel)?;
            *kept.lock() = beside;
            Ok(batch.into())
        })?;
        scheduler.wait(&prepared).await?;
        let beside: Option<Beside> = beside.lock().take();
        let done = match beside {
            None => None,
            Some((positions, errors)) => {
                let made = placed.run(&prepared, positions.len()).await?;
                Some((positions, Output::from(made.columns().to_vec()).with_errors(errors)))
            }
        };
        drop(prepared);
        let finish = move |_: &_| {
            let (mut taken, step) = (taken.clone(), &steps[0]);
            let check = |(positions, output): (Vec<u32>, Output)| {
                let output = step.step.operator.check(positions.len(), output)?;
                Ok::<_, Error>((positions, output))
            };
            taken.take_in(step, done.clone().map(check).transpose()?)?;
            Ok(taken)
        };
        scheduler.run(&self.options, finish).await
    }
}

impl Taken {
    pub(crate) fn new(chunk: Held<Chunk>, row_keys: Vec<String>) -> Self {
        let columns = chunk.rows.schema_ref().fields().iter().zip(chunk.rows.columns());
        let columns = columns.map(|(field, column)| (field.name().clone(), Arc::clone(column))).collect();
        let patterns = vec![0; chunk.row_ids.len()];
        Self {
            chunk: Arc::new(chunk),
            row_keys: row_keys.into(),
            columns,
            made: HashMap::new(),
            patterns,
            counts: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.patterns.len()
    }

    fn process(&mut self, stage: &StageStep, worker: &mut StepWorker, cancel: &Cancel) -> Result<()> {
        let done = match self.inputs(stage)? {
            Some((positions, inputs)) => Some((positions, worker.process(&inputs, cancel)?)),
            None => None,
        };
        self.take_in(stage, done)
    }

    /// What the kernel of `stage` takes, with nothing beside it when no row is to be processed.
    fn prepare(&self, stage: &StageStep, cancel: &Cancel) -> Result<(RecordBatch, Option<Beside>)> {
        let kernel = stage.step.operator.kernel();
        let kernel = kernel.ok_or_else(|| Error::internal("a step without a kernel was placed"))?;
        let Some((positions, inputs)) = self.inputs(stage)? else {
            return Ok((RecordBatch::new_empty(Arc::clone(&kernel.input)), None));
        };
        let output = process((kernel.preparer)()?.as_mut(), &stage.step.operator, &inputs, cancel)?;
        Ok((kernel.batch(output.columns)?, Some((positions, output.errors))))
    }

    /// The rows that `stage` has to process, and its inputs there; `None` when there are none.
    fn inputs(&self, stage: &StageStep) -> Result<Option<(Vec<u32>, Vec<ArrayRef>)>> {
        let rows = self.rows();
        let is_stale = |row: &u32| stage.stale.contains(&self.chunk.row_ids[*row as usize]);
        let positions: Vec<u32> = (0..rows as u32).filter(is_stale).collect();
        if positions.is_empty() {
            return Ok(None);
        }
        let indices = UInt32Array::from(positions.clone());
        let inputs = stage.step.inputs.iter().map(|input| {
            let column = self.columns.get(input);
            let column = column.ok_or_else(|| Error::internal(format!("the pass lost column `{input}`")))?;
            // Whole chunks are the rule: then nothing is copied.
            if positions.len() == rows { Ok(Arc::clone(column)) } else { select(column, &indices) }
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        Ok(Some((positions, inputs)))
    }

    /// Takes in what `stage` made of the rows at some positions.
    fn take_in(&mut self, stage: &StageStep, done: Option<(Vec<u32>, Output)>) -> Result<()> {
        let rows = self.rows();
        let mut failures = Vec::new();
        let mut processed = 0;
        if let Some((positions, output)) = done {
            processed = positions.len();
            for (field, values) in stage.step.outputs.iter().zip(output.columns) {
                let whole = scatter(self.columns.get(field.name()), &values, &positions, rows)?;
                if stage.read.contains(field.name()) {
                    self.columns.insert(field.name().clone(), Arc::clone(&whole));
                }
                self.made.insert(field.name().clone(), whole);
            }
            let too_large = |row: &u32| {
                let found = self.chunk.too_large.iter().find(|(large, _)| *large == *row as usize);
                found.map(|(_, reason)| (*row as usize, reason.clone()))
            };
            let errors = output.errors.into_iter().map(|error| (positions[error.row] as usize, error.reason));
            let mut reasons: BTreeMap<usize, String> = errors.collect();
            reasons.extend(positions.iter().filter_map(too_large));
            for row in positions.iter().map(|row| *row as usize) {
                self.patterns[row] |= 1 << stage.number;
                failures.extend(reasons.remove(&row).map(|reason| Failure {
                    row_key: self.row_keys[row].clone(),
                    step: stage.step.label().to_owned(),
                    operator: stage.step.operator.definition.name.to_owned(),
                    reason,
                }));
            }
        }
        self.counts.push(processed);
        self.failures.push(failures);
        Ok(())
    }
}

/// `values` at `positions` of an array of `rows` rows; elsewhere what is stored, or null.
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

pub(crate) fn select(column: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef> {
    take(column.as_ref(), rows, None).map_err(internal("select rows"))
}

#[cfg(test)]
mod tests {
    use cenote_base::Share;

    use super::*;

    #[test]
    fn steps_are_fused_where_nothing_forbids_it() {
        let step = |memory: u64| Resources::cpu(1.0).with_memory_bytes(memory);
        let device = step(1).with_device("gpu", Share::Fraction(1.0));
        let requests = [step(10), step(20), Resources::cpu(2.0), device.clone(), step(60), step(50)];
        let fused = fuse(&requests, 100);
        let expected =
            [(0..2, step(30)), (2..3, Resources::cpu(2.0)), (3..4, device), (4..5, step(60)), (5..6, step(50))];
        assert_eq!(fused, expected);
    }
}
