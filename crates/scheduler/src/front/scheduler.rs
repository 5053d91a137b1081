//! The front: tasks and objects.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cenote_base::{Context as _, Error, Resources, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::accelerator::DeviceOptions;
use crate::cancel::OnCancel;
use crate::core::Core;
use crate::core::status::{Status, Usage};
use crate::front::options::{Job, JobHandle, JobOptions, SchedulerOptions, WorkOptions};
use crate::front::reference::ObjectRef;
use crate::kernel::Kernel;
use crate::objects::spill::SpillDirectory;
use crate::objects::value::Value;
use crate::state::arena::Key;
use crate::state::fair::Place;
use crate::state::ledger::{Device, Ledger};
use crate::state::task::{Call, Context, Environment, Function, NewTask, Recipe, Spec, Work};
use crate::state::trace::{self, Trace};

/// Hands out resources, runs work on threads of its own and keeps objects. Clones share them. When the last clone is
/// dropped, work that has not started is cancelled, and running work goes on to its end.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    kernel: Arc<Kernel>,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("usage", &self.usage()).finish()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.kernel.with(|core| core.close(Instant::now()));
    }
}

impl Scheduler {
    /// A scheduler with `options.cpu_cores` threads, rounded up, and one for each device.
    ///
    /// # Errors
    /// `InvalidInput` for less than a thousandth of a core; `ResourceExhausted` when threads cannot be started; what
    /// opening a device failed with.
    pub fn new(options: SchedulerOptions) -> Result<Self> {
        let threads = options.cpu_cores.ceil() as usize;
        let devices = options.devices.clone();
        let scheduler = Self::without_threads(options)?;
        let kernel = &scheduler.shared.kernel;
        for number in 0..threads {
            let kernel = Arc::clone(kernel);
            spawn(cpu_thread(number), move || kernel.work(Place::Pool, number, None))?;
        }
        for (number, device) in devices.into_iter().enumerate() {
            open_device(kernel, number, threads + number, device)?;
        }
        let kernel = Arc::clone(kernel);
        spawn("cenote-timer".to_owned(), move || kernel.keep_time())?;
        Ok(scheduler)
    }

    /// A scheduler that runs nothing by itself, for whoever drives the kernel.
    pub(crate) fn without_threads(options: SchedulerOptions) -> Result<Self> {
        if !(0.001..=4096.0).contains(&options.cpu_cores) {
            return Err(Error::invalid_input(format!(
                "cpu_cores must be from 0.001 to 4096, found {}",
                options.cpu_cores
            )));
        }
        let total = Resources {
            cpu: options.cpu_cores,
            memory_bytes: options.memory_max.0,
            named: options.named,
            device: None,
        };
        let devices = options.devices.into_iter();
        let device = |device: DeviceOptions| Device::new(device.class, device.memory_bytes);
        let ledger = Ledger::new(&total, devices.map(device).collect());
        let now = Instant::now();
        let core = Core::new(ledger, Trace::new(options.trace_max, now), options.tasks_max, options.seed, now);
        let spill = SpillDirectory::new(&options.spill_directory, options.spill_max);
        let kernel = Arc::new(Kernel::new(core, spill, options.stall_after));
        Ok(Self { shared: Arc::new(Shared { kernel }) })
    }

    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        &self.shared.kernel
    }

    /// What there is and what is held.
    pub fn usage(&self) -> Usage {
        self.kernel().look(Core::usage)
    }

    /// What runs, what waits, and for what.
    pub fn status(&self) -> Status {
        let spilled = self.kernel().spilled_bytes();
        self.kernel().look(|core| core.status(spilled, Instant::now()))
    }

    /// Writes the newest tries as a timeline in Chrome's Trace Event Format, as many as `trace_max` has room for.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn write_trace(&self, to: &mut dyn std::io::Write) -> Result<()> {
        let (cores, devices, (since, tries)) = self.kernel().look(|core| {
            let classes = core.ledger.devices.iter().map(|device| device.class.clone());
            (core.ledger.total().cpu.ceil() as usize, classes.collect::<Vec<_>>(), core.trace.snapshot())
        });
        let devices = devices.iter().enumerate().map(|(number, class)| device_thread(class, number));
        let threads: Vec<String> = (0..cores).map(cpu_thread).chain(devices).collect();
        trace::write(since, &tries, &threads, to)
    }

    /// Returns a new job: a stream of work with a fair share of its own, which lives as long as its handle or its work.
    pub fn job(&self, options: JobOptions) -> Job {
        let key = self.kernel().with(|core| core.fair.add_job(options.name, options.priority));
        Job { inner: Arc::new(JobHandle { kernel: Arc::clone(self.kernel()), key }) }
    }

    /// Hands in a task, which runs once its `inputs` are there and its resources are free, and returns a reference to
    /// what it will make. The function gets its inputs in the order given. It may be called again: after an error that
    /// may pass, and when its object was lost and is still wanted; so it must not depend on how often it ran.
    ///
    /// If an input fails, so does the task's object, with the input's error.
    ///
    /// # Errors
    /// `ResourceExhausted` for a request that can never be met, or when too many tasks wait; `InvalidInput` for a
    /// request that makes no sense; `Cancelled`.
    pub fn submit<F>(&self, options: &WorkOptions, inputs: &[ObjectRef], function: F) -> Result<ObjectRef>
    where
        F: Fn(&Context, &[Value]) -> Result<Value> + Send + Sync + 'static,
    {
        self.submit_function(options, inputs, Arc::new(function))
    }

    pub(crate) fn submit_function(
        &self,
        options: &WorkOptions,
        inputs: &[ObjectRef],
        function: Arc<Function>,
    ) -> Result<ObjectRef> {
        let spec = Arc::new(self.spec(options)?);
        let inputs = self.keys(inputs)?;
        let recipe = Recipe { spec: Arc::clone(&spec), inputs: inputs.clone(), function: Arc::clone(&function) };
        let recipe = Arc::new(recipe);
        let submitted = self.kernel().with(|core| {
            let output = core.objects.create(Some(recipe));
            let work = Box::new(Call(function));
            let new = NewTask { spec, inputs, output: Some(output), actor: None, work };
            (output, core.submit(new, Instant::now()))
        });
        let object = ObjectRef::new(self.kernel(), submitted.0);
        submitted.1.map(|_| object)
    }

    /// Waits for the resources, runs `work` on a CPU thread, and tries again as `options` allows.
    ///
    /// # Errors
    /// `ResourceExhausted` at once for a request that can never be met; `Cancelled`; `Internal` when the work panics;
    /// else the work's own error. Dropping the future before the work started takes it back; once started it runs to
    /// its end.
    pub async fn run<T, F>(&self, options: &WorkOptions, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Context) -> Result<T> + Send + 'static,
    {
        let spec = Arc::new(self.spec(options)?);
        let (work, receiver) = typed(work);
        let new = NewTask { spec, inputs: Vec::new(), output: None, actor: None, work };
        let task = self.kernel().with(|core| core.submit(new, Instant::now()))?;
        let _guard = Withdraw { kernel: self.kernel(), task };
        receiver.await.unwrap_or_else(|_| Err(Error::internal("a task was lost with its worker")))
    }

    /// Takes no more work, and waits until all that was handed in has ended.
    pub async fn drain(&self) {
        let waiter = self.kernel().with(|core| {
            core.draining = true;
            if core.tasks.len() == 0 {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            core.drained.push(sender);
            Some(receiver)
        });
        if let Some(waiter) = waiter {
            // The sender goes only with the last task.
            let _ = waiter.await;
        }
    }

    /// `options` in the core's terms.
    pub(crate) fn spec(&self, options: &WorkOptions) -> Result<Spec> {
        let told: Arc<dyn OnCancel> = Arc::clone(self.kernel()) as _;
        options.cancel.tell(&told);
        let (request, job) = self.kernel().look(|core| (core.ledger.request(&options.resources), core.job));
        let request = request?;
        let job = match &options.job {
            Some(job) if !Arc::ptr_eq(&job.inner.kernel, self.kernel()) => {
                return Err(Error::invalid_input(format!(
                    "the job of `{}` belongs to another scheduler",
                    options.name
                )));
            }
            Some(job) => job.inner.key,
            None => job,
        };
        Ok(Spec {
            name: options.name.clone(),
            job,
            place: if request.device.is_some() { Place::DeviceOfClass } else { Place::Pool },
            request,
            retries_max: options.retries_max,
            cancel: options.cancel.clone(),
            hold: None,
        })
    }

    pub(crate) fn keys(&self, objects: &[ObjectRef]) -> Result<Vec<Key>> {
        if objects.iter().any(|object| !Arc::ptr_eq(&object.inner.kernel, self.kernel())) {
            return Err(Error::invalid_input("an input belongs to another scheduler"));
        }
        Ok(objects.iter().map(ObjectRef::key).collect())
    }
}

/// Takes a task back when nobody waits for it any more.
pub(crate) struct Withdraw<'a> {
    pub(crate) kernel: &'a Arc<Kernel>,
    pub(crate) task: Key,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.kernel.with(|core| core.withdraw(self.task, Instant::now()));
    }
}

/// `work`, and where its result will come.
pub(crate) fn typed<T, F>(work: F) -> (Box<dyn Work>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnMut(&Context) -> Result<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    (Box::new(Typed { work: Some(work), result: None, sender }), receiver)
}

/// Work whose result goes to whoever waits for it.
struct Typed<T, F> {
    work: Option<F>,
    result: Option<T>,
    sender: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Context) -> Result<T> + Send> Work for Typed<T, F> {
    fn run(&mut self, environment: &mut Environment<'_>) -> Result<Option<Value>> {
        let work = self.work.as_mut().ok_or_else(|| Error::internal("the work was done before"))?;
        self.result = Some(work(&environment.context)?);
        // What the work holds goes before what it was granted does.
        self.work = None;
        Ok(None)
    }

    fn settle(self: Box<Self>, outcome: Result<()>, _service: Duration) {
        deliver(self.sender, outcome, self.result);
    }
}

/// Sends what came of some work. Nobody waits when the caller was dropped: the result is not wanted then.
pub(crate) fn deliver<T>(sender: oneshot::Sender<Result<T>>, outcome: Result<()>, result: Option<T>) {
    let lost = || Error::internal("a task ended well without a result");
    let _ = sender.send(outcome.and_then(|()| result.ok_or_else(lost)));
}

fn cpu_thread(number: usize) -> String {
    format!("cenote-cpu-{number}")
}

fn device_thread(class: &str, number: usize) -> String {
    format!("cenote-{class}-{number}")
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let doing = format!("start thread {name}");
    thread::Builder::new().name(name).spawn(work).map(drop).context(|| doing)
}

/// Opens a device on a thread of its own, which then works for it.
fn open_device(kernel: &Arc<Kernel>, number: usize, thread: usize, device: DeviceOptions) -> Result<()> {
    let kernel = Arc::clone(kernel);
    let (opened, outcome) = std::sync::mpsc::sync_channel(1);
    let name = device_thread(&device.class, number);
    let class = device.class.clone();
    spawn(name, move || match (device.open)() {
        Ok(accelerator) => {
            // The scheduler waits for this word.
            let _ = opened.send(Ok(()));
            kernel.work(Place::Device(number), thread, Some(accelerator));
        }
        Err(error) => drop(opened.send(Err(error))),
    })?;
    let lost = |_| Err(Error::internal("its thread ended"));
    outcome.recv().unwrap_or_else(lost).context(|| format!("open device {number}, a `{class}`"))
}
