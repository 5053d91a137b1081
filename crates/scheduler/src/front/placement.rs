//! Work that can run on the CPU and on a device, and goes where it is expected to end first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use cenote_base::sync::Mutex;
use cenote_base::{Error, ErrorKind, Resources, Result, Share};
use tokio::sync::oneshot;

use super::options::WorkOptions;
use super::reference::ObjectRef;
use super::reply;
use super::scheduler::Scheduler;
use crate::objects::value::Value;
use crate::state::task_spec::{Environment, NewTask, TaskBody, TaskSpec};

/// Weight of the newest measurement in the moving average.
const NEWEST_WEIGHT: f64 = 0.25;
/// Batches on the other side after which a side's measurement is stale, and the side is tried again.
const STALE_AFTER: u32 = 50;

/// Index of the CPU in an array of both sides.
const CPU: usize = 0;
/// Index of the device in an array of both sides.
const DEVICE: usize = 1;

/// The sides that placed work may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlacementChoice {
    /// The side where it is expected to end first.
    #[default]
    Auto,
    /// The CPU, whatever was measured.
    Cpu,
    /// The device, whatever was measured.
    Device,
}

/// The settings of work that has an implementation on the CPU and one on a device.
#[derive(Debug, Clone)]
pub struct PlacedOptions {
    /// The name, the job, the retries, and the resources on the CPU.
    pub work: WorkOptions,
    /// The class of devices that have the kernel.
    pub class: String,
    /// The share of a device that the work holds.
    pub share: Share,
    /// The name of the device's kernel.
    pub kernel: String,
    /// The sides that the work may use.
    pub choice: PlacementChoice,
}

type CpuFunction = dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync;

/// Work that is placed batch by batch, by the measured seconds per row and the backlog of each side. The measurement of
/// a device includes the transfer there and back.
///
/// Clones share the measurements.
#[derive(Clone)]
pub struct Placed {
    work: Arc<PlacedWork>,
}

struct PlacedWork {
    scheduler: Scheduler,
    name: String,
    choice: PlacementChoice,
    kernel: String,
    on_cpu: Box<CpuFunction>,
    sides: [Side; 2],
    measured: Mutex<[SideMeasurement; 2]>,
}

struct Side {
    spec: Arc<TaskSpec>,
    /// The queue of its backlog. All work for one device class shares a queue.
    queue: String,
    /// Batches that the side runs at once.
    width: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct SideMeasurement {
    /// The moving average of seconds per row.
    row_s: Option<f64>,
    /// Whether a first batch has been placed here and has not ended.
    is_trying: bool,
    /// Whether the measurement is stale: the next one replaces it.
    is_stale: bool,
    /// Batches that went to the other side since the newest one came here.
    passed_by: u32,
}

/// The side that a batch goes to.
struct BatchPlacement {
    side: usize,
    /// The expected run time of the batch, which is part of the side's backlog until the batch has ended.
    expected_s: f64,
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placed").field("name", &self.work.name).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Returns work that runs `on_cpu` or the kernel of a device, whichever is expected to end first.
    ///
    /// # Errors
    /// See [`run`](Self::run). Where no device of the class can meet the request, the work runs on the CPU; this is an
    /// error for [`PlacementChoice::Device`] only.
    pub fn placed<F>(&self, options: PlacedOptions, on_cpu: F) -> Result<Placed>
    where
        F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        let cpu = Arc::new(self.task_spec(&options.work)?);
        let on_device = Resources::cpu(0.0).with_device(options.class.as_str(), options.share);
        let (choice, device) = match self.task_spec(&options.work.clone().resources(on_device)) {
            Ok(device) => (options.choice, Arc::new(device)),
            Err(error) if error.kind() == ErrorKind::ResourceExhausted && options.choice != PlacementChoice::Device => {
                (PlacementChoice::Cpu, Arc::clone(&cpu))
            }
            Err(error) => return Err(error),
        };
        let cores = self.usage().total.cpu;
        let cpu_width = (cores / options.work.resources.cpu.max(1e-3)).clamp(1.0, cores.ceil());
        let classes = self.driver().look(|core| core.device_classes());
        let devices = classes.iter().filter(|class| **class == options.class).count();
        let work = PlacedWork {
            scheduler: self.clone(),
            name: options.work.name,
            choice,
            kernel: options.kernel,
            on_cpu: Box::new(on_cpu),
            sides: [
                Side { spec: cpu, queue: "cpu".to_owned(), width: f64::from(cpu_width) },
                Side { spec: device, queue: options.class, width: devices.max(1) as f64 },
            ],
            measured: Mutex::default(),
        };
        Ok(Placed { work: Arc::new(work) })
    }
}

impl Placed {
    /// Runs the work on `batch`, an object of `rows` rows, and returns the output.
    ///
    /// # Errors
    /// See [`Scheduler::run`]; `InvalidInput` for an object that is not a batch. A failure on one side is not retried
    /// on the other.
    pub async fn run(&self, batch: &ObjectRef, rows: usize) -> Result<RecordBatch> {
        let scheduler = &self.work.scheduler;
        let inputs = scheduler.object_keys(std::slice::from_ref(batch))?;
        let placement = self.work.place(rows);
        let spec = Arc::clone(&self.work.sides[placement.side].spec);
        let (sender, result) = oneshot::channel();
        let body = Box::new(BatchBody { work: Arc::clone(&self.work), placement, rows, output: None, sender });
        let new = NewTask { inputs, ..NewTask::new(spec, body) };
        reply::submit_and_wait(scheduler.driver(), new, result).await
    }
}

impl PlacedWork {
    /// Chooses the side for a batch and adds the batch to the side's backlog.
    fn place(&self, rows: usize) -> BatchPlacement {
        let backlog = self.scheduler.driver().backlog();
        let mut measured = self.measured.lock();
        let work_s = |side: usize| measured[side].row_s.map(|row_s| row_s * rows as f64);
        let ends_s = |side: usize| {
            let Side { queue, width, .. } = &self.sides[side];
            work_s(side).map_or(f64::INFINITY, |work_s| backlog.seconds(queue) / width + work_s)
        };
        let untried = [CPU, DEVICE].into_iter().find(|side| {
            let measured = &measured[*side];
            measured.row_s.is_none() && !measured.is_trying
        });
        let side = match (self.choice, untried) {
            (PlacementChoice::Cpu, _) => CPU,
            (PlacementChoice::Device, _) => DEVICE,
            (PlacementChoice::Auto, Some(side)) => side,
            (PlacementChoice::Auto, None) => {
                let first = if ends_s(DEVICE) < ends_s(CPU) { DEVICE } else { CPU };
                let is_other_stale = measured[1 - first].passed_by >= STALE_AFTER;
                if is_other_stale { 1 - first } else { first }
            }
        };
        let expected_s = work_s(side).unwrap_or(0.0);
        measured[side].is_trying = true;
        measured[side].is_stale |= measured[side].passed_by >= STALE_AFTER;
        measured[side].passed_by = 0;
        measured[1 - side].passed_by += 1;
        // Still under the lock, so that the next batch sees this one in the backlog.
        backlog.add(&self.sides[side].queue, expected_s);
        BatchPlacement { side, expected_s }
    }

    /// Removes a batch that has ended from the backlog of its side. `row_s` is its run time per row, if it ended well.
    fn ended(&self, placement: &BatchPlacement, row_s: Option<f64>) {
        self.scheduler.driver().backlog().add(&self.sides[placement.side].queue, -placement.expected_s);
        let measured = &mut self.measured.lock()[placement.side];
        // If it was a first batch and failed, the next batch tries the side again.
        measured.is_trying = false;
        if let Some(row_s) = row_s {
            let mean = measured.row_s.filter(|_| !measured.is_stale);
            measured.row_s = Some(mean.map_or(row_s, |mean| mean + NEWEST_WEIGHT * (row_s - mean)));
            measured.is_stale = false;
        }
    }
}

/// The body of a task that runs placed work on one batch.
struct BatchBody {
    work: Arc<PlacedWork>,
    placement: BatchPlacement,
    rows: usize,
    output: Option<RecordBatch>,
    sender: oneshot::Sender<Result<RecordBatch>>,
}

impl TaskBody for BatchBody {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let batch = environment.inputs.first().ok_or_else(|| Error::internal("placed work came without its batch"))?;
        let batch = batch.batch()?;
        self.output = Some(match (self.placement.side, environment.device.as_deref_mut()) {
            (CPU, _) => (self.work.on_cpu)(batch)?,
            (_, Some(device)) => device.run(&self.work.kernel, batch)?,
            (_, None) => return Err(Error::internal("work for a device came to another thread")),
        });
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, service: Duration) {
        let row_s = (outcome.is_ok() && self.rows > 0).then(|| service.as_secs_f64() / self.rows as f64);
        self.work.ended(&self.placement, row_s);
        reply::deliver(self.sender, outcome, self.output);
    }
}
