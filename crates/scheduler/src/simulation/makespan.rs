//! The run time of graphs, against a bound that no schedule beats and one that every greedy schedule keeps.

use std::sync::Arc;
use std::time::Duration;

use cenote_base::sync::Mutex;
use cenote_base::{Random, Resources, Share};
use tokio::time::Instant;

use super::{SimulatedThreads, for_seeds};
use crate::accelerator::{DeviceOptions, KernelSet};
use crate::{ObjectRef, SchedulerOptions, Value, WorkOptions};

const CORES: u64 = 4;
const TASKS: usize = 200;

/// Runs random graphs of CPU and device tasks, wide ones with some long chains. Their makespan never exceeds the bound
/// of list scheduling (Graham 1966, for two kinds of machine): all work of each kind over its machines, plus the
/// longest chain. On average it is within 10 % of the largest of those three, below which no schedule can be.
#[test]
fn graphs_take_hardly_longer_than_they_must() {
    let ratios: Mutex<Vec<f64>> = Mutex::default();
    for_seeds(60, 2000, |seed| {
        let ratios = &ratios;
        async move {
            let ratio = one_graph(seed).await;
            ratios.lock().push(ratio);
        }
    });
    let ratios = ratios.into_inner();
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    println!("makespan over lower bound: mean {mean:.3}, worst {:.3}", ratios.iter().copied().fold(0.0, f64::max));
    assert!(mean <= 1.10, "{mean}");
}

async fn one_graph(seed: u64) -> f64 {
    let mut random = Random::new(seed);
    let device = DeviceOptions {
        class: "gpu".to_owned(),
        memory_bytes: 1 << 30,
        open: Arc::new(|| Ok(Box::new(KernelSet::default()))),
    };
    let options = SchedulerOptions { cpu_cores: CORES as f32, devices: vec![device], ..SchedulerOptions::default() };
    let mut threads = SimulatedThreads::new(options);
    let lasts: Arc<Mutex<Duration>> = Arc::default();
    let (mut objects, mut chains): (Vec<ObjectRef>, Vec<Duration>) = (Vec::new(), Vec::new());
    let mut work = [Duration::ZERO; 2];
    for number in 0..TASKS {
        let inputs: Vec<usize> = match random.below(3) {
            0 => Vec::new(),
            count => (0..count.min(number as u64)).map(|_| random.below(number as u64) as usize).collect(),
        };
        let on_device = random.below(4) == 0;
        let scale = if on_device { 8.0 } else { 20.0 };
        let takes = Duration::from_millis((1.0 + scale * -(1.0 - random.unit()).ln()) as u64);
        let resources = match on_device {
            true => Resources::cpu(0.0).with_device("gpu", Share::Fraction(0.5)),
            false => Resources::cpu(1.0),
        };
        let refs: Vec<ObjectRef> = inputs.iter().map(|input| objects[*input].clone()).collect();
        let told = Arc::clone(&lasts);
        let body = move |_: &crate::TaskContext, _: &[Value]| {
            *told.lock() = takes;
            Ok(Value::from(Vec::new()))
        };
        objects.push(threads.scheduler.submit(&WorkOptions::new("task").resources(resources), &refs, body).unwrap());
        let before = inputs.iter().map(|input| chains[*input]).max().unwrap_or_default();
        chains.push(before + takes);
        work[usize::from(on_device)] += takes;
    }
    let began = Instant::now();
    loop {
        let told = Arc::clone(&lasts);
        let began = threads.begin(&mut random, move |_| *told.lock()).await;
        if !began && !threads.advance().await {
            break;
        }
    }
    let makespan = began.elapsed();
    let chain = chains.into_iter().max().unwrap_or_default();
    let (cpu, device) = (work[0] / CORES as u32, work[1]);
    assert!(makespan <= cpu + device + chain, "{makespan:?} is above the bound of list scheduling");
    makespan.as_secs_f64() / cpu.max(device).max(chain).as_secs_f64()
}
