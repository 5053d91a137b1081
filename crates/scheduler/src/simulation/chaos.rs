//! Random graphs of tasks and actor calls that fail, panic, are cancelled, run late and lose their objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, ErrorKind, Random, Resources, Result, Share};
use tokio::task::JoinHandle;

use super::{SimulatedThreads, for_seeds, settle};
use crate::accelerator::{DeviceOptions, KernelSet};
use crate::{Cancel, Hold, Job, JobOptions, ObjectRef, Priority, SchedulerOptions, Value, WorkOptions};

const BUDGET_BYTES: u64 = 4000;
const OUTPUT_BYTES_MAX: u64 = 600;
const PUT_BYTES: usize = 900;
const CALL_RETRIES: u32 = 2;

/// The planned behaviour of a task or call.
#[derive(Debug, Clone)]
struct Plan {
    inputs: Vec<usize>,
    output_bytes: usize,
    /// First tries that fail with an error that may pass.
    failing_tries: u32,
    retries: u32,
    fails: bool,
    panics: bool,
    /// Whether the test may have stopped it, so that its outcome is not known.
    uncertain: bool,
}

/// The number of tries of each task that returned an object.
type MadeCounts = Mutex<BTreeMap<usize, u32>>;

impl Plan {
    fn random(random: &mut Random, before: usize) -> Self {
        let inputs = match random.below(3) {
            _ if before == 0 => Vec::new(),
            0 => Vec::new(),
            count => (0..count).map(|_| before - 1 - random.below(before.min(8) as u64) as usize).collect(),
        };
        let failing_tries = if random.below(6) == 0 { 1 + random.below(3) as u32 } else { 0 };
        Self {
            inputs,
            output_bytes: 8 + random.below(OUTPUT_BYTES_MAX - 8) as usize,
            failing_tries,
            retries: random.below(4) as u32,
            fails: random.below(25) == 0,
            panics: random.below(25) == 0,
            uncertain: false,
        }
    }

    fn works(&self) -> bool {
        !self.fails && !self.panics && self.failing_tries <= self.retries
    }

    fn run(&self, number: usize, attempt: u32, inputs: &[Value], made: &MadeCounts) -> Result<Value> {
        assert_eq!(inputs.len(), self.inputs.len());
        if attempt < self.failing_tries {
            return Err(Error::unavailable("not yet"));
        }
        if self.panics {
            std::panic::resume_unwind(Box::new("as planned"));
        }
        if self.fails {
            return Err(Error::invalid_input("never"));
        }
        let mut sum = number as u64 + 1;
        for input in inputs {
            sum = sum.wrapping_mul(31).wrapping_add(number_of(input));
        }
        *made.lock().entry(number).or_default() += 1;
        let mut bytes = sum.to_le_bytes().to_vec();
        bytes.resize(self.output_bytes, 0);
        Ok(Value::from(bytes))
    }
}

fn number_of(value: &Value) -> u64 {
    u64::from_le_bytes(*value.bytes().unwrap().first_chunk().unwrap())
}

/// The object that a task should have made.
struct Expected {
    /// The number in the object; `None` for a failure.
    number: Option<u64>,
    is_certain: bool,
}

/// Computes by a plain loop what each task should have made.
fn expected(plans: &[Plan]) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let is_certain = !plan.uncertain && plan.inputs.iter().all(|input| all[*input].is_certain);
        let inputs: Option<Vec<u64>> = plan.inputs.iter().map(|input| all[*input].number).collect();
        let made = inputs.filter(|_| plan.works());
        let fold = |inputs: Vec<u64>| {
            inputs.iter().fold(number as u64 + 1, |sum, input| sum.wrapping_mul(31).wrapping_add(*input))
        };
        all.push(Expected { number: made.map(fold), is_certain });
    }
    all
}

/// A simulated scheduler, and everything that the test has asked of it.
struct ChaosRun {
    threads: SimulatedThreads,
    random: Random,
    jobs: Vec<Job>,
    actors: Vec<crate::Actor<()>>,
    cancel: Cancel,
    plans: Vec<Plan>,
    objects: Vec<Option<ObjectRef>>,
    /// Calls of actors, which are not part of the graph.
    calls: Vec<(Plan, JoinHandle<Result<Value>>)>,
    holds: Vec<JoinHandle<Result<Hold>>>,
    reads: Vec<(usize, JoinHandle<Result<u64>>)>,
    puts: Vec<JoinHandle<Result<ObjectRef>>>,
    made: Arc<MadeCounts>,
    loses_files: bool,
    spill: std::path::PathBuf,
}

impl ChaosRun {
    fn resources(&mut self) -> Resources {
        let cpu = [0.0, 0.25, 0.5, 1.0][self.random.below(4) as usize];
        let mut resources = Resources::cpu(cpu).with_memory_bytes(self.random.below(3) * 500);
        if self.random.below(5) == 0 {
            resources = resources.with_named("licence", 1 + self.random.below(2) as u32);
        }
        if self.random.below(5) == 0 {
            let share = if self.random.below(2) == 0 { Share::Fraction(0.6) } else { Share::MemoryBytes(70) };
            resources = resources.with_device("gpu", share);
        }
        resources
    }

    fn submit(&mut self) {
        let number = self.plans.len();
        let mut plan = Plan::random(&mut self.random, number);
        // An object that the test has dropped cannot be an input any more.
        plan.inputs.retain(|input| self.objects[*input].is_some());
        let inputs: Vec<ObjectRef> = plan.inputs.iter().filter_map(|input| self.objects[*input].clone()).collect();
        let mut options = WorkOptions::new(format!("task {number}")).retries(plan.retries);
        if self.random.below(8) == 0 {
            options = options.cancel(&self.cancel);
            plan.uncertain = true;
        }
        if let Some(job) = self.jobs.get(self.random.below(self.jobs.len() as u64 + 1) as usize) {
            options = options.job(job);
        }
        let made = Arc::clone(&self.made);
        let body = plan.clone();
        let resources = self.resources();
        let run =
            move |context: &crate::TaskContext, inputs: &[Value]| body.run(number, context.attempt, inputs, &made);
        let object = self.threads.scheduler.submit(&options.resources(resources), &inputs, run);
        if object.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled) {
            plan.uncertain = true;
        }
        self.objects.push(object.ok());
        self.plans.push(plan);
    }

    fn call(&mut self) {
        let number = self.calls.len();
        let plan = Plan { retries: CALL_RETRIES, ..Plan::random(&mut self.random, 0) };
        let actor = self.actors[self.random.below(self.actors.len() as u64) as usize].clone();
        let (body, made) = (plan.clone(), MadeCounts::default());
        let call = async move {
            actor.call(move |(), context: &crate::TaskContext| body.run(number, context.attempt, &[], &made)).await
        };
        self.calls.push((plan, tokio::spawn(call)));
    }

    /// Holds memory, or releases a hold.
    fn hold(&mut self) {
        if self.random.below(2) == 0 || self.holds.is_empty() {
            let (bytes, beside) = (self.random.below(1500), self.random.below(2500));
            let scheduler = self.threads.scheduler.clone();
            let hold = async move { scheduler.hold(&WorkOptions::new("hold"), bytes, beside).await };
            self.holds.push(tokio::spawn(hold));
        } else {
            let number = self.random.below(self.holds.len() as u64) as usize;
            self.holds.swap_remove(number).abort();
        }
    }

    /// Reads an object, drops one, puts one, cancels work, drops a call, or corrupts files.
    fn disturb(&mut self) {
        let number = self.random.below(self.objects.len().max(1) as u64) as usize;
        match self.random.below(7) {
            0 | 1 => {
                if let Some(Some(object)) = self.objects.get(number).cloned() {
                    let scheduler = self.threads.scheduler.clone();
                    let read = async move { Ok(number_of(&*scheduler.get(&object).await?)) };
                    self.reads.push((number, tokio::spawn(read)));
                }
            }
            2 => drop(self.objects.get_mut(number).and_then(Option::take)),
            3 => {
                let scheduler = self.threads.scheduler.clone();
                self.puts.push(tokio::spawn(async move { scheduler.put(vec![7; PUT_BYTES]).await }));
            }
            4 if self.random.below(20) == 0 => self.cancel.cancel(),
            5 => {
                let call = self.random.below(self.calls.len().max(1) as u64) as usize;
                if let Some((plan, handle)) = self.calls.get_mut(call) {
                    plan.uncertain = true;
                    handle.abort();
                }
            }
            6 if self.loses_files => {
                for directory in std::fs::read_dir(&self.spill).into_iter().flatten() {
                    let files = std::fs::read_dir(directory.unwrap().path()).unwrap();
                    for file in files.filter(|_| self.random.below(2) == 0) {
                        std::fs::write(file.unwrap().path(), b"lost").unwrap();
                    }
                }
            }
            _ => {}
        }
    }

    fn audit(&self) {
        let in_transit_bytes = self.threads.count() as u64 * OUTPUT_BYTES_MAX.max(PUT_BYTES as u64);
        self.threads.scheduler.driver().look(|core| core.audit(in_transit_bytes));
    }

    async fn run(&mut self, tasks: usize) {
        loop {
            let submitting = self.plans.len() < tasks;
            if !submitting {
                // A hold that is never released could block other work for ever.
                self.holds.drain(..).for_each(|hold| hold.abort());
            }
            match self.random.below(6) {
                0 if submitting => self.submit(),
                2 if submitting => self.call(),
                3 if submitting => self.hold(),
                1 if submitting => self.disturb(),
                _ => {
                    let lasts = |random: &mut Random| Duration::from_micros(random.below(20_000));
                    let began = self.threads.begin(&mut self.random, lasts).await;
                    if !began && !self.threads.advance().await && !submitting {
                        break;
                    }
                }
            }
            settle().await;
            self.audit();
        }
    }
}

async fn chaos(seed: u64) {
    let mut random = Random::new(seed);
    let spill = tempfile::tempdir().unwrap();
    let device = |_| DeviceOptions {
        class: "gpu".to_owned(),
        memory_bytes: 100,
        open: Arc::new(|| Ok(Box::new(KernelSet::default()))),
    };
    let options = SchedulerOptions {
        cpu_cores: 1.0 + random.below(7) as f32 / 2.0,
        memory_max: ByteSize(BUDGET_BYTES),
        named: BTreeMap::from([("licence".to_owned(), 2)]),
        devices: (0..1 + random.below(2)).map(device).collect(),
        spill_directory: spill.path().to_owned(),
        ..SchedulerOptions::default()
    };
    let threads = SimulatedThreads::new(options);
    let scheduler = threads.scheduler.clone();
    let job = |(name, priority)| scheduler.job(JobOptions::new(name).priority(priority));
    let jobs = [("backfill", Priority::Backfill), ("a", Priority::Normal), ("b", Priority::Normal)].map(job).into();
    let mut actors = Vec::new();
    for (name, states_max, idle_ms, resources) in [
        ("one", 1, 1000, Resources::cpu(0.5).with_memory_bytes(3000)),
        ("many", 3, 40, Resources::cpu(1.0).with_memory_bytes(1000)),
        ("licensed", 2, 10_000, Resources::cpu(0.0).with_named("licence", 1)),
    ] {
        let options = WorkOptions::new(name).resources(resources).retries(CALL_RETRIES);
        actors.push(scheduler.actor(options, states_max, Duration::from_millis(idle_ms), || Ok(())).unwrap());
    }
    let mut run = ChaosRun {
        threads,
        loses_files: random.below(2) == 0,
        random,
        jobs,
        actors,
        cancel: Cancel::default(),
        plans: Vec::new(),
        objects: Vec::new(),
        calls: Vec::new(),
        holds: Vec::new(),
        reads: Vec::new(),
        puts: Vec::new(),
        made: Arc::default(),
        spill: spill.path().to_owned(),
    };
    run.run(60).await;
    let status = scheduler.status();
    assert_eq!((status.live, status.running.len()), (0, 0), "tasks are left though nothing moves: {status}");
    check_results(&mut run, &scheduler).await;
    drop(run.objects);
    drop(run.actors);
    settle().await;
    let driver = Arc::clone(scheduler.driver());
    driver.look(|core| core.assert_empty());
    assert_eq!(driver.spilled_bytes(), 0);
}

async fn check_results(run: &mut ChaosRun, scheduler: &crate::Scheduler) {
    let expected = expected(&run.plans);
    let lossy = run.loses_files;
    for (number, object) in run.objects.iter().enumerate() {
        if let Some(object) = object {
            let scheduler = scheduler.clone();
            let object = object.clone();
            let read = async move { Ok(number_of(&*scheduler.get(&object).await?)) };
            run.reads.push((number, tokio::spawn(read)));
        }
    }
    settle().await;
    loop {
        let began = run.threads.begin(&mut run.random, |_| Duration::ZERO).await;
        settle().await;
        if !began && !run.threads.advance().await {
            break;
        }
        settle().await;
    }
    for put in run.puts.drain(..) {
        assert!(put.is_finished(), "a put waits for ever: {}", scheduler.status());
        drop(put.await.unwrap().unwrap());
    }
    for (number, (plan, call)) in run.calls.drain(..).enumerate() {
        assert!(call.is_finished(), "call {number} waits for ever: {}", scheduler.status());
        match call.await {
            Ok(Ok(made)) => assert!(plan.works() && number_of(&made) == number as u64 + 1, "call {number}"),
            Ok(Err(_)) => assert!(!plan.works(), "call {number}"),
            Err(gone) => assert!(gone.is_cancelled() && plan.uncertain, "call {number}"),
        }
    }
    for (number, read) in run.reads.drain(..) {
        assert!(read.is_finished(), "task {number} is waited for for ever: {}", scheduler.status());
        match (read.await.unwrap(), &expected[number]) {
            (Ok(found), Expected { number: Some(wanted), .. }) => assert_eq!(found, *wanted, "task {number}"),
            (Ok(_), Expected { number: None, .. }) => panic!("task {number} ended well and should not have"),
            (Err(_), Expected { number: None, .. } | Expected { is_certain: false, .. }) => {}
            // An object whose lineage is not known stays lost, and so does everything made from it.
            (Err(error), _) => {
                assert!(lossy, "task {number}: {error}");
                assert!(error.message().contains("nothing is known to make it again"), "task {number}: {error}");
            }
        }
    }
    for (number, made) in &*run.made.lock() {
        assert!(*made == 1 || lossy, "task {number} was made {made} times");
    }
}

#[test]
fn random_work_ends_as_it_should_whatever_happens() {
    for_seeds(200, 5000, chaos);
}
