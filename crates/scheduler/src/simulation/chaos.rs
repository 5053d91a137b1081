//! Random graphs of tasks and actor calls that fail, panic, are cancelled, run late and lose their objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Error, ErrorKind, Random, Resources, Result, Share};
use tokio::task::JoinHandle;

use super::{Threads, for_seeds, settle};
use crate::accelerator::{DeviceOptions, KernelSet};
use crate::core::audit::audit;
use crate::{Cancel, Hold, Job, JobOptions, ObjectRef, Priority, SchedulerOptions, Value, WorkOptions};

const BUDGET_BYTES: u64 = 4000;
const OUTPUT_BYTES_MAX: u64 = 600;
const CALL_RETRIES: u32 = 2;

/// What a task is meant to do, and what is known of it.
#[derive(Debug, Clone)]
struct Plan {
    inputs: Vec<usize>,
    output_bytes: usize,
    /// So many tries fail with an error that may pass.
    failing_tries: u32,
    retries: u32,
    fails: bool,
    panics: bool,
    /// It may be stopped by the test, so its end is not known.
    uncertain: bool,
}

/// What the bodies saw.
#[derive(Default)]
struct Seen {
    /// Tries of each task that returned an object.
    made: BTreeMap<usize, u32>,
}

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

    fn run(&self, number: usize, attempt: u32, inputs: &[Value], seen: &Mutex<Seen>) -> Result<Value> {
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
        *seen.lock().made.entry(number).or_default() += 1;
        let mut bytes = sum.to_le_bytes().to_vec();
        bytes.resize(self.output_bytes, 0);
        Ok(Value::from(bytes))
    }
}

fn number_of(value: &Value) -> u64 {
    u64::from_le_bytes(*value.bytes().unwrap().first_chunk().unwrap())
}

/// What each task should have made, by a plain loop: the number, `None` for a failure; and whether that is certain.
fn expected(plans: &[Plan]) -> Vec<(Option<u64>, bool)> {
    let mut numbers: Vec<(Option<u64>, bool)> = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        let certain = !plan.uncertain && plan.inputs.iter().all(|input| numbers[*input].1);
        let inputs: Option<Vec<u64>> = plan.inputs.iter().map(|input| numbers[*input].0).collect();
        let made = inputs.filter(|_| plan.works());
        let fold = |inputs: Vec<u64>| {
            inputs.iter().fold(number as u64 + 1, |sum, input| sum.wrapping_mul(31).wrapping_add(*input))
        };
        numbers.push((made.map(fold), certain));
    }
    numbers
}

struct World {
    threads: Threads,
    random: Random,
    jobs: Vec<Job>,
    actors: Vec<crate::Actor<()>>,
    cancel: Cancel,
    plans: Vec<Plan>,
    objects: Vec<Option<ObjectRef>>,
    /// Calls of actors, beside the graph.
    calls: Vec<(Plan, JoinHandle<Result<Value>>)>,
    holds: Vec<JoinHandle<Result<Hold>>>,
    reads: Vec<(usize, JoinHandle<Result<u64>>)>,
    puts: Vec<JoinHandle<Result<ObjectRef>>>,
    seen: Arc<Mutex<Seen>>,
    loses_files: bool,
    spill: std::path::PathBuf,
}

impl World {
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
        // What the test let go of cannot be an input any more.
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
        let seen = Arc::clone(&self.seen);
        let body = plan.clone();
        let resources = self.resources();
        let run = move |context: &crate::Context, inputs: &[Value]| body.run(number, context.attempt, inputs, &seen);
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
        let (body, seen) = (plan.clone(), Mutex::default());
        let call = async move {
            actor.call(move |(), context: &crate::Context| body.run(number, context.attempt, &[], &seen)).await
        };
        self.calls.push((plan, tokio::spawn(call)));
    }

    /// Holds memory, or lets go of some.
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

    /// Reads an object, or lets go of it, or lets its file go bad, or gives up a call.
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
                self.puts.push(tokio::spawn(async move { scheduler.put(vec![7; 900]).await }));
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
        let in_transit = self.threads.places.len() as u64 * OUTPUT_BYTES_MAX.max(900);
        self.threads.scheduler.kernel().with(|core| audit(core, in_transit));
    }

    async fn run(&mut self, tasks: usize) {
        loop {
            let submitting = self.plans.len() < tasks;
            if !submitting {
                // What is held for ever would keep others waiting for ever.
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
    let threads = Threads::new(options);
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
    let mut world = World {
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
        seen: Arc::default(),
        spill: spill.path().to_owned(),
    };
    world.run(60).await;
    let status = scheduler.status();
    assert_eq!((status.live, status.running.len()), (0, 0), "tasks are left though nothing moves: {status}");
    check_results(&mut world, &scheduler).await;
    drop(world.objects);
    drop(world.actors);
    settle().await;
    let kernel = Arc::clone(scheduler.kernel());
    kernel.with(|core| {
        assert_eq!(core.objects.arena.len(), 0, "objects are left");
        assert_eq!((core.ledger.memory.held, core.ledger.memory.idle), (0, 0));
        assert!(core.actors.grants().is_empty());
    });
    assert_eq!(kernel.spilled_bytes(), 0);
}

async fn check_results(world: &mut World, scheduler: &crate::Scheduler) {
    let numbers = expected(&world.plans);
    let lossy = world.loses_files;
    for (number, object) in world.objects.iter().enumerate() {
        if let Some(object) = object {
            let scheduler = scheduler.clone();
            let object = object.clone();
            let read = async move { Ok(number_of(&*scheduler.get(&object).await?)) };
            world.reads.push((number, tokio::spawn(read)));
        }
    }
    settle().await;
    loop {
        let began = world.threads.begin(&mut world.random, |_| Duration::ZERO).await;
        settle().await;
        if !began && !world.threads.advance().await {
            break;
        }
        settle().await;
    }
    for put in world.puts.drain(..) {
        assert!(put.is_finished(), "a put waits for ever: {}", scheduler.status());
        drop(put.await.unwrap().unwrap());
    }
    for (number, (plan, call)) in world.calls.drain(..).enumerate() {
        assert!(call.is_finished(), "call {number} waits for ever: {}", scheduler.status());
        match call.await {
            Ok(Ok(made)) => assert!(plan.works() && number_of(&made) == number as u64 + 1, "call {number}"),
            Ok(Err(_)) => assert!(!plan.works(), "call {number}"),
            Err(gone) => assert!(gone.is_cancelled() && plan.uncertain, "call {number}"),
        }
    }
    for (number, read) in world.reads.drain(..) {
        assert!(read.is_finished(), "task {number} is waited for for ever: {}", scheduler.status());
        match (read.await.unwrap(), numbers[number]) {
            (Ok(found), (Some(wanted), _)) => assert_eq!(found, wanted, "task {number}"),
            (Ok(_), (None, _)) => panic!("task {number} ended well and should not have"),
            (Err(_), (None, _) | (_, false)) => {}
            // A put that is lost on disk stays lost, and so does what is made from it.
            (Err(error), _) => {
                assert!(lossy, "task {number}: {error}");
                assert!(error.message().contains("nothing is known to make it again"), "task {number}: {error}");
            }
        }
    }
    for (number, made) in &world.seen.lock().made {
        assert!(*made == 1 || lossy, "task {number} was made {made} times");
    }
}

#[test]
fn random_work_ends_as_it_should_whatever_happens() {
    for_seeds(200, 5000, chaos);
}
