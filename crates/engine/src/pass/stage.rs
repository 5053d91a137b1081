//! Stages of a pass: each runs consecutive steps over one piece as one task, on one thread, without handing it over in
//! between.

use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use cenote_operator::{Kernel, Output};
use cenote_scheduler::{Actor, Cancel, Placed, Scheduler, TaskContext, WorkOptions};

use super::fusion::{FusedSteps, fused_steps};
use super::staged_piece::{PreparedRows, StageStep, StagedPiece, StepOutput};
use super::worker::{RETRIES_MAX, StepWorker, WORKER_IDLE};
use crate::devices::Devices;
use crate::engine::Engine;
use crate::group::StepGroup;
use crate::group_work::GroupWork;

/// Steps of a group that run as one task.
pub(super) struct PassStage {
    steps: Arc<[StageStep]>,
    options: WorkOptions,
    execution: StageExecution,
}

/// The way a stage is run.
enum StageExecution {
    /// By workers of all its steps, which hold the steps' resources for as long as they live.
    Whole(Actor<Vec<StepWorker>>),
    /// By a worker of its one step, which prepares rows, and a kernel, on the processor that will be done first.
    InHalves(Placed),
}

/// Starts the stages of `group`, one for each of its tasks.
pub(super) fn stages(engine: &Engine, group: &StepGroup, work: &GroupWork, cancel: &Cancel) -> Result<Vec<PassStage>> {
    let (scheduler, devices) = (engine.scheduler(), engine.options().devices.as_ref());
    let workers_max = (scheduler.usage().total.cpu.ceil() as usize).max(1);
    let stage = |FusedSteps { steps: numbers, resources }: FusedSteps| {
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
        let execution = match kernel.map(place).transpose()? {
            Some(placed) => StageExecution::InHalves(placed),
            None => StageExecution::Whole(scheduler.actor(options.clone(), workers_max, WORKER_IDLE, workers)?),
        };
        let step = |number: usize| StageStep {
            number,
            planned: Arc::clone(&group.steps[number]),
            stale: Arc::clone(&work.stale[number]),
            read: group.steps.iter().flat_map(|step| step.inputs.iter().cloned()).collect(),
        };
        Ok(PassStage { steps: numbers.map(step).collect(), options, execution })
    };
    fused_steps(engine, &group.steps).into_iter().map(stage).collect()
}

impl PassStage {
    /// Runs the stage's steps over `piece`, and returns it with what they made.
    pub(super) async fn run(&self, scheduler: &Scheduler, piece: StagedPiece) -> Result<StagedPiece> {
        match &self.execution {
            StageExecution::Whole(workers) => self.run_whole(workers, piece).await,
            StageExecution::InHalves(placed) => self.run_in_halves(scheduler, placed, piece).await,
        }
    }

    async fn run_whole(&self, workers: &Actor<Vec<StepWorker>>, piece: StagedPiece) -> Result<StagedPiece> {
        let steps = Arc::clone(&self.steps);
        let work = move |workers: &mut Vec<StepWorker>, context: &TaskContext| {
            // A retry starts from the same piece.
            let mut piece = piece.clone();
            for (step, worker) in steps.iter().zip(workers) {
                piece.process(step, worker, &context.cancel)?;
            }
            Ok(piece)
        };
        workers.call(work).await
    }

    async fn run_in_halves(&self, scheduler: &Scheduler, placed: &Placed, piece: StagedPiece) -> Result<StagedPiece> {
        // The prepared values are an object of the scheduler: they count in the memory budget while they wait for the
        // device, and are spilled to disk when memory is full. The positions and errors of the rows come by this slot.
        let slot: Arc<Mutex<Option<PreparedRows>>> = Arc::default();
        let (steps, unprepared, filled) = (Arc::clone(&self.steps), piece.clone(), Arc::clone(&slot));
        let object = scheduler.submit(&self.options, &[], move |context, _| {
            let (batch, prepared) = unprepared.prepare(&steps[0], &context.cancel)?;
            *filled.lock() = prepared;
            Ok(batch.into())
        })?;
        scheduler.wait(&object).await?;
        let prepared = slot.lock().take();
        let done = match prepared {
            None => None,
            Some(PreparedRows { positions, errors }) => {
                let made = placed.run(&object, positions.len()).await?;
                Some(StepOutput { positions, output: Output::from(made.columns().to_vec()).with_errors(errors) })
            }
        };
        drop(object);
        let steps = Arc::clone(&self.steps);
        let finish = move |_: &_| {
            let (mut piece, step) = (piece.clone(), &steps[0]);
            let check = |StepOutput { positions, output }: StepOutput| {
                let output = step.planned.operator.check(positions.len(), output)?;
                Ok::<_, Error>(StepOutput { positions, output })
            };
            piece.take_in(step, done.clone().map(check).transpose()?)?;
            Ok(piece)
        };
        scheduler.run(&self.options, finish).await
    }
}
