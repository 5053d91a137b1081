//! The measured program of `make bench-scheduler`: the cost of a task, a call and an object.
//!
//! `bench_scheduler TASKS CALLS TRIPS FAN` prints one JSON line.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use cenote_base::{Error, Resources, Result};
use cenote_scheduler::{Actor, ObjectRef, Scheduler, SchedulerOptions, TaskContext, Value, WorkOptions};

/// Objects that are put and got for each size.
const PUTS: usize = 20;
/// Tasks of the mixed graph.
const MIXED: usize = 1_000;

#[allow(clippy::print_stdout)] // The harness reads the line.
fn main() -> Result<()> {
    let usage = || Error::invalid_input("usage: bench_scheduler TASKS CALLS TRIPS FAN");
    let arguments = std::env::args().skip(1).map(|count| count.parse());
    let counts: Vec<usize> = arguments.collect::<Result<_, _>>().map_err(|source| usage().with_source(source))?;
    let [tasks, calls, trips, fan] = counts[..] else { return Err(usage()) };
    let scheduler = Scheduler::new(SchedulerOptions::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let counter = scheduler.actor(WorkOptions::new("counter"), 1, Duration::from_secs(60), || Ok(0u64))?;

    let tasks_per_s = runtime.block_on(empty_tasks(&scheduler, tasks))?;
    let calls_per_s = runtime.block_on(pipelined_calls(&counter, calls))?;
    let called = runtime.block_on(counter.call(|calls, _| Ok(*calls)))?;
    let trip_us = runtime.block_on(round_trips(&counter, trips))?;
    let small = runtime.block_on(objects(&scheduler, 1_000_000))?;
    let large = runtime.block_on(objects(&scheduler, 100_000_000))?;
    let Fan { fan_ms, fan_sum } = runtime.block_on(fan_out_and_in(&scheduler, fan))?;
    let makespan = runtime.block_on(mixed_graph(&scheduler))?;
    let rates = format!(r#""tasks_per_s":{tasks_per_s},"calls_per_s":{calls_per_s},"called":{called}"#);
    let trips = format!(r#""trip_us":{trip_us:?}"#);
    let puts = format!(r#""put_1_us":{},"get_1_us":{},"put_100_us":{}"#, small.put_us, small.get_us, large.put_us);
    let graphs = format!(r#""fan_ms":{fan_ms},"fan_sum":{fan_sum},"makespan_over_bound":{makespan}"#);
    println!(r#"{{{rates},{trips},{puts},"get_100_us":{},{graphs}}}"#, large.get_us);
    Ok(())
}

fn count(calls: &mut u64, _: &TaskContext) -> Result<u64> {
    *calls += 1;
    Ok(*calls)
}

async fn get_all(scheduler: &Scheduler, objects: &[ObjectRef]) -> Result<()> {
    for object in objects {
        scheduler.get(object).await?;
    }
    Ok(())
}

/// Submits `count` empty tasks, then gets all their objects. Returns tasks per second.
async fn empty_tasks(scheduler: &Scheduler, count: usize) -> Result<f64> {
    let options = WorkOptions::new("empty");
    let began = Instant::now();
    let objects: Vec<ObjectRef> = (0..count)
        .map(|_| scheduler.submit(&options, &[], |_, _| Ok(Value::from(Vec::new()))))
        .collect::<Result<_>>()?;
    get_all(scheduler, &objects).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Makes `calls` calls, then awaits them all; the actor counts. Returns calls per second.
async fn pipelined_calls(counter: &Actor<u64>, calls: usize) -> Result<f64> {
    let began = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..calls {
        let counter = counter.clone();
        waiting.spawn(async move { counter.call(count).await });
    }
    while let Some(called) = waiting.join_next().await {
        called.map_err(|source| Error::internal("a call was lost").with_source(source))??;
    }
    Ok(calls as f64 / began.elapsed().as_secs_f64())
}

fn micros(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e8).round() / 100.0
}

/// Makes calls one after the other. Returns the time of each in µs.
async fn round_trips(counter: &Actor<u64>, times: usize) -> Result<Vec<f64>> {
    let mut trips_us = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        counter.call(count).await?;
        trips_us.push(micros(began));
    }
    Ok(trips_us)
}

/// The mean times of putting and of getting an object, in µs.
struct ObjectTimes {
    put_us: f64,
    get_us: f64,
}

/// Puts and gets objects of `bytes` bytes, and checks that they come back in the same memory.
async fn objects(scheduler: &Scheduler, bytes: usize) -> Result<ObjectTimes> {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..bytes as i64 / 8));
    let memory = column.to_data().buffers()[0].as_ptr();
    let arrow = |source| Error::internal("make a batch").with_source(source);
    let batch = RecordBatch::try_from_iter([("number", column)]).map_err(arrow)?;
    let (mut put_s, mut get_s) = (0.0, 0.0);
    for _ in 0..PUTS {
        let began = Instant::now();
        let object = scheduler.put(batch.clone()).await?;
        put_s += began.elapsed().as_secs_f64();
        let began = Instant::now();
        let value = scheduler.get(&object).await?;
        get_s += began.elapsed().as_secs_f64();
        if value.batch()?.column(0).to_data().buffers()[0].as_ptr() != memory {
            return Err(Error::internal("the object was copied"));
        }
    }
    Ok(ObjectTimes { put_us: put_s * 1e6 / PUTS as f64, get_us: get_s * 1e6 / PUTS as f64 })
}

/// The time and the result of a graph that fans out and in.
struct Fan {
    fan_ms: f64,
    fan_sum: u64,
}

/// Hands one number to `count` tasks, each of which adds its own number, and sums up their results in one task.
async fn fan_out_and_in(scheduler: &Scheduler, count: usize) -> Result<Fan> {
    let number = |value: &Value| -> Result<u64> {
        let bytes = value.bytes()?.first_chunk().ok_or_else(|| Error::internal("a number is too short"))?;
        Ok(u64::from_le_bytes(*bytes))
    };
    let began = Instant::now();
    let one = scheduler.put(1u64.to_le_bytes().to_vec()).await?;
    let options = WorkOptions::new("add");
    let add = |mine: usize| {
        let inputs = std::slice::from_ref(&one);
        scheduler.submit(&options, inputs, move |_, inputs| {
            Ok(Value::from((number(&inputs[0])? + mine as u64).to_le_bytes().to_vec()))
        })
    };
    let added: Vec<ObjectRef> = (0..count).map(add).collect::<Result<_>>()?;
    let options = WorkOptions::new("sum").resources(Resources::cpu(1.0));
    let sum = scheduler.submit(&options, &added, move |_, inputs| {
        let sum: u64 = inputs.iter().map(number).sum::<Result<u64>>()?;
        Ok(Value::from(sum.to_le_bytes().to_vec()))
    })?;
    let fan_sum = number(&*scheduler.get(&sum).await?)?;
    Ok(Fan { fan_ms: began.elapsed().as_secs_f64() * 1e3, fan_sum })
}

/// Runs a graph of tasks that sleep 1 to 10 ms, a third of them on two cores, and each after two of the twenty before
/// it. Returns its run time over a lower bound: no schedule ends before the longest path does, nor before all cores
/// together have done the work.
#[expect(clippy::disallowed_methods, reason = "the task sleeps on a thread of the scheduler's own")]
async fn mixed_graph(scheduler: &Scheduler) -> Result<f64> {
    let cores = scheduler.usage().total.cpu;
    // Knuth's MMIX generator, which draws the same numbers as `peer_ray.py`.
    let mut state = 0u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let (mut objects, mut ends): (Vec<ObjectRef>, Vec<u64>) = (Vec::new(), Vec::new());
    let mut work = 0.0;
    let began = Instant::now();
    for number in 0..MIXED {
        let milliseconds = 1 + below(10);
        let wide = if below(3) == 0 { cores.min(2.0) } else { 1.0 };
        let after: Vec<usize> =
            (0..2.min(number)).map(|_| number - 1 - below(20.min(number as u64)) as usize).collect();
        let inputs: Vec<ObjectRef> = after.iter().map(|input| objects[*input].clone()).collect();
        let options = WorkOptions::new("mixed").resources(Resources::cpu(wide));
        objects.push(scheduler.submit(&options, &inputs, move |_, _| {
            thread::sleep(Duration::from_millis(milliseconds));
            Ok(Value::from(Vec::new()))
        })?);
        ends.push(milliseconds + after.iter().map(|input| ends[*input]).max().unwrap_or(0));
        work += milliseconds as f64 * f64::from(wide);
    }
    get_all(scheduler, &objects).await?;
    let path = ends.iter().max().copied().unwrap_or(0) as f64;
    Ok(began.elapsed().as_secs_f64() * 1e3 / path.max(work / f64::from(cores)))
}
