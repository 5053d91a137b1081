//! Work that can be done on the CPU and on a device goes where it ends first.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use cenote_base::sync::Mutex;
use cenote_base::{Error, Resources, Result, Share};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::front::options::WorkOptions;
use crate::front::reference::ObjectRef;
use crate::front::scheduler::{Scheduler, Withdraw, deliver};
use crate::objects::value::Value;
use crate::state::task::{Environment, NewTask, Spec, Work};

/// A measurement's part in the mean.
const NEWEST_WEIGHT: f64 = 0.25;
/// After so many batches elsewhere a side is tried again, because what was measured there is old.
const TRIED_AGAIN_AFTER: u32 = 50;

/// Where work may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Where it ends first.
    #[default]
    Auto,
    /// The CPU, whatever was measured.
    Cpu,
    /// The device, whatever was measured.
    Device,
}

/// Work with an implementation on the CPU and one on a device.
#[derive(Debug, Clone)]
pub struct PlacedOptions {
    /// Its name, job, retries, and resources on the CPU.
    pub work: WorkOptions,
    /// The class of device that has the kernel.
    pub class: String,
    /// What it holds of a device.
    pub share: Share,
    /// The device's kernel.
    pub kernel: String,
    /// Where it may go.
    pub choice: Choice,
}

type OnCpu = dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync;

/// Work that is placed batch by batch, by measured seconds a row and by what waits on each side. On a device the
/// measurement includes the way there and back. Clones share it.
#[derive(Clone)]
pub struct Placed {
    inner: Arc<Inner>,
}

struct Inner {
    scheduler: Scheduler,
    name: String,
    choice: Choice,
    kernel: String,
    on_cpu: Arc<OnCpu>,
    /// CPU, then device.
    sides: [Side; 2],
    measured: Mutex<[Measured; 2]>,
}

struct Side {
    spec: Arc<Spec>,
    /// What its queue is called: all work of a device class queues together.
    queue: String,
    /// Batches that it works on at once.
    width: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    row_s: Option<f64>,
    /// A first batch is on its way.
    trying: bool,
    /// What was measured is old: the next measurement replaces it.
    stale: bool,
    /// Batches that went elsewhere since it was measured.
    passed_by: u32,
}

/// Seconds of placed work that have not ended, by queue.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<HashMap<String, f64>>);

impl Backlog {
    fn seconds(&self, queue: &str) -> f64 {
        self.0.lock().get(queue).copied().unwrap_or(0.0)
    }

    fn add(&self, queue: &str, seconds: f64) {
        *self.0.lock().entry(queue.to_owned()).or_default() += seconds;
    }
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placed").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Work that runs `on_cpu` or the kernel of a device, whichever ends first.
    ///
    /// # Errors
    /// As [`run`](Self::run); where no device of the class is, only for [`Choice::Device`].
    pub fn placed<F>(&self, options: PlacedOptions, on_cpu: F) -> Result<Placed>
    where
        F: Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        let cpu = self.spec(&options.work)?;
        let on_device = Resources::cpu(0.0).with_device(options.class.as_str(), options.share);
        let (choice, device) = match self.spec(&options.work.clone().resources(on_device)) {
            Ok(device) => (options.choice, Some(device)),
            Err(error) if options.choice == Choice::Device => return Err(error),
            Err(_) => (Choice::Cpu, None),
        };
        let cores = self.usage().total.cpu;
        let cpu_width = (cores / options.work.resources.cpu.max(1e-3)).clamp(1.0, cores.ceil());
        let devices = self
            .kernel()
            .with(|core| core.ledger.devices.iter().filter(|device| device.class == options.class).count());
        let cpu = Arc::new(cpu);
        let device = device.map_or_else(|| Arc::clone(&cpu), Arc::new);
        let inner = Inner {
            scheduler: self.clone(),
            name: options.work.name,
            choice,
            kernel: options.kernel,
            on_cpu: Arc::new(on_cpu),
            sides: [
                Side { spec: cpu, queue: "cpu".to_owned(), width: f64::from(cpu_width) },
                Side { spec: device, queue: options.class, width: devices.max(1) as f64 },
            ],
            measured: Mutex::default(),
        };
        Ok(Placed { inner: Arc::new(inner) })
    }
}

impl Placed {
    /// The output for `batch`, which is there and has so many `rows`.
    ///
    /// # Errors
    /// As [`Scheduler::run`], and `InvalidInput` for an object that is no batch. A failure on one side is not tried on the other.
    pub async fn run(&self, batch: &ObjectRef, rows: usize) -> Result<RecordBatch> {
        let kernel = self.inner.scheduler.kernel();
        let inputs = self.inner.scheduler.keys(std::slice::from_ref(batch))?;
        let (side, expected_s) = self.inner.choose(rows);
        let spec = Arc::clone(&self.inner.sides[side].spec);
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(Batch { inner: Arc::clone(&self.inner), side, expected_s, rows, output: None, sender });
        let new = NewTask { spec, inputs, output: None, actor: None, work };
        let task = kernel.with(|core| core.submit(new, Instant::now()))?;
        let _guard = Withdraw { kernel, task };
        receiver.await.unwrap_or_else(|_| Err(Error::internal("a batch was lost with its worker")))
    }

    /// Seconds a row on the CPU and on the device, as measured so far.
    pub fn row_seconds(&self) -> [Option<f64>; 2] {
        self.inner.measured.lock().map(|measured| measured.row_s)
    }
}

impl Inner {
    /// The side to go to, and the seconds of work that it is thereby given.
    fn choose(&self, rows: usize) -> (usize, f64) {
        let mut measured = self.measured.lock();
        let untried = (0..2).find(|side| measured[*side].row_s.is_none() && !measured[*side].trying);
        let work_s = |side: usize| measured[side].row_s.map(|row_s| row_s * rows as f64);
        let ends_s = |side: usize| {
            let queue = &self.sides[side];
            work_s(side).map_or(f64::INFINITY, |work_s| {
                self.scheduler.kernel().backlog.seconds(&queue.queue) / queue.width + work_s
            })
        };
        let side = match (self.choice, untried) {
            (Choice::Cpu, _) => 0,
            (Choice::Device, _) => 1,
            (Choice::Auto, Some(side)) => side,
            (Choice::Auto, None) => {
                let first = usize::from(ends_s(1) < ends_s(0));
                let is_old = measured[1 - first].passed_by >= TRIED_AGAIN_AFTER;
                if is_old { 1 - first } else { first }
            }
        };
        let expected_s = work_s(side).unwrap_or(0.0);
        measured[side].trying = true;
        measured[side].stale |= measured[side].passed_by >= TRIED_AGAIN_AFTER;
        measured[side].passed_by = 0;
        measured[1 - side].passed_by += 1;
        self.scheduler.kernel().backlog.add(&self.sides[side].queue, expected_s);
        (side, expected_s)
    }
}

struct Batch {
    inner: Arc<Inner>,
    side: usize,
    expected_s: f64,
    rows: usize,
    output: Option<RecordBatch>,
    sender: oneshot::Sender<Result<RecordBatch>>,
}

impl Work for Batch {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let batch = environment.inputs.first().ok_or_else(|| Error::internal("placed work came without its batch"))?;
        let batch = batch.batch()?;
        self.output = Some(match (self.side, environment.device.as_deref_mut()) {
            (0, _) => (self.inner.on_cpu)(batch)?,
            (_, Some(device)) => device.run(&self.inner.kernel, batch)?,
            (_, None) => return Err(Error::internal("work for a device came to another thread")),
        });
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, service: Duration) {
        let inner = &self.inner;
        inner.scheduler.kernel().backlog.add(&inner.sides[self.side].queue, -self.expected_s);
        {
            let measured = &mut inner.measured.lock()[self.side];
            measured.trying = measured.row_s.is_some();
            if outcome.is_ok() && self.rows > 0 {
                let row_s = service.as_secs_f64() / self.rows as f64;
                let mean = measured.row_s.filter(|_| !measured.stale);
                measured.row_s = Some(mean.map_or(row_s, |mean| mean + NEWEST_WEIGHT * (row_s - mean)));
                measured.stale = false;
            }
        }
        deliver(self.sender, outcome, self.output);
    }
}
