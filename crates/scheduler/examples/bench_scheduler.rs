//! The measured side of `make bench-scheduler`: what a task, a call and an object cost.
//!
//! `bench_scheduler TASKS CALLS TRIPS FAN` prints one JSON line.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use cenote_base::{Error, Resources, Result};
use cenote_scheduler::{Actor, Context, ObjectRef, Scheduler, SchedulerOptions, Value, WorkOptions};

const PUTS: usize = 20;
/// Tasks of the mixed graph.
const MIXED: usize = 1_000;

#[allow(clippy::print_stdout)] // The result line is what the harness reads.
fn main() -> Result<()> {
    let usage = || Error::invalid_input("usage: bench_scheduler TASKS CALLS TRIPS FAN");
    let arguments = std::env::args().skip(1);
    let counts: Vec<usize> = arguments.map(|count| count.parse()).collect::<Result<_, _>>().map_err(|_| usage())?;
    let [tasks, calls, trips, fan] = counts[..] else { return Err(usage()) };
    let scheduler = Scheduler::new(SchedulerOptions::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let counter = scheduler.actor(WorkOptions::new("counter"), 1, Duration::from_secs(60), || Ok(0u64))?;

    let tasks_per_s = runtime.block_on(empty_tasks(&scheduler, tasks))?;
    let calls_per_s = runtime.block_on(pipelined_calls(&counter, calls))?;
    let called = runtime.block_on(counter.call(|calls, _| Ok(*calls)))?;
    let trip_us = runtime.block_on(round_trips(&counter, trips))?;
    let (put_1_us, get_1_us) = runtime.block_on(objects(&scheduler, 1_000_000))?;
    let (put_100_us, get_100_us) = runtime.block_on(objects(&scheduler, 100_000_000))?;
    let (fan_ms, fan_sum) = runtime.block_on(fan_out_and_in(&scheduler, fan))?;
    let makespan = runtime.block_on(mixed_graph(&scheduler))?;
    let rates = format!(r#""tasks_per_s":{tasks_per_s},"calls_per_s":{calls_per_s},"called":{called}"#);
    let trips = format!(r#""trip_us":{trip_us:?}"#);
    let puts = format!(r#""put_1_us":{put_1_us},"get_1_us":{get_1_us},"put_100_us":{put_100_us}"#);
    let graphs = format!(r#""fan_ms":{fan_ms},"fan_sum":{fan_sum},"makespan_over_bound":{makespan}"#);
    println!(r#"{{{rates},{trips},{puts},"get_100_us":{get_100_us},{graphs}}}"#);
    Ok(())
}

fn count(calls: &mut u64, _: &Context) -> Result<u64> {
    *calls += 1;
    Ok(*calls)
}

async fn get_all(scheduler: &Scheduler, objects: &[ObjectRef]) -> Result<()> {
    for object in objects {
        scheduler.get(object).await?;
    }
    Ok(())
}

/// All handed in, then all fetched.
async fn empty_tasks(scheduler: &Scheduler, count: usize) -> Result<f64> {
    let options = WorkOptions::new("empty");
    let began = Instant::now();
    let objects: Vec<ObjectRef> = (0..count)
        .map(|_| scheduler.submit(&options, &[], |_, _| Ok(Value::from(Vec::new()))))
        .collect::<Result<_>>()?;
    get_all(scheduler, &objects).await?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// All handed in, then all awaited; the actor counts.
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

async fn round_trips(counter: &Actor<u64>, times: usize) -> Result<Vec<f64>> {
    let mut trips_us = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        counter.call(count).await?;
        trips_us.push(micros(began));
    }
    Ok(trips_us)
}

/// Means of putting and of getting, in µs. What comes back is what was put, in the same memory.
async fn objects(scheduler: &Scheduler, bytes: usize) -> Result<(f64, f64)> {
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
    Ok((put_s * 1e6 / PUTS as f64, get_s * 1e6 / PUTS as f64))
}

/// One number to `count` tasks, which each add theirs, and all of those into one sum.
async fn fan_out_and_in(scheduler: &Scheduler, count: usize) -> Result<(f64, u64)> {
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
    let sum = number(&*scheduler.get(&sum).await?)?;
    Ok((began.elapsed().as_secs_f64() * 1e3, sum))
}

/// How much longer than it must take takes a graph of tasks that sleep 1 to 10 ms, a third of them on two cores, and
/// each after two of the twenty before it: no schedule ends before its longest path does, nor before all cores together
/// have done its work.
#[expect(clippy::disallowed_methods, reason = "a task that takes so long, on a thread of the scheduler's own")]
async fn mixed_graph(scheduler: &Scheduler) -> Result<f64> {
    let cores = scheduler.usage().total.cpu;
    // The same numbers as in `peer_ray.py`: Knuth's MMIX generator.
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
