//! This crate's part of `make bench-ann`: builds a graph, searches it on one thread with ever wider walks and prints
//! one JSON object.
//!
//! Arguments: `DIMENSION METRIC BASE QUERIES TRUTH THREADS [OPTION=NUMBER ...]`. BASE and QUERIES hold consecutive
//! vectors of little-endian f32; TRUTH holds, for each query, the numbers of the 10 nearest vectors of BASE as
//! little-endian u32. Options are `m`, `ef_construction` and `float32`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::fs;
use std::time::Instant;

use cenote_graph::{Graph, GraphOptions, LabelFilter, Metric, Traversal};

const K: usize = 10;
const WIDTHS: [usize; 14] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
const PASSES: usize = 5;

/// Reads a file of 4-byte numbers.
fn words<T>(path: &str, from: impl Fn([u8; 4]) -> T) -> Vec<T> {
    fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|bytes| from(*bytes)).collect()
}

/// Returns the seconds that this thread was on a processor, which other programs disturb less than the wall clock.
fn thread_seconds() -> f64 {
    let spent = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    spent.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Returns the processor seconds of all threads of this process, including those that ended.
fn process_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|part| part.parse().unwrap())
        .collect();
    ticks.iter().sum::<f64>() / 100.0
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dimension, metric, base, queries, truth, threads, rest @ ..] = arguments.as_slice() else {
        panic!("usage: DIMENSION METRIC BASE QUERIES TRUTH THREADS [OPTION=NUMBER ...]");
    };
    let dimension: usize = dimension.parse().unwrap();
    let mut options = GraphOptions::new(dimension, metric.parse::<Metric>().unwrap());
    options.capacity_bytes = 8 << 30;
    for option in rest {
        let (name, number) = option.split_once('=').unwrap();
        let number: usize = number.parse().unwrap();
        match name {
            "m" => options.m = number,
            "ef_construction" => options.ef_construction = number,
            "float32" => options.traversal = if number == 1 { Traversal::Float32 } else { Traversal::Int8 },
            _ => panic!("unknown option {name}"),
        }
    }
    let (base, queries) = (words(base, f32::from_le_bytes), words(queries, f32::from_le_bytes));
    let truth = words(truth, u32::from_le_bytes);
    let labels: Vec<u64> = (0..(base.len() / dimension) as u64).collect();
    let graph = Graph::new(options).unwrap();
    let (start, start_cpu_s) = (Instant::now(), process_seconds());
    graph.insert_batch(&labels, &base, threads.parse().unwrap()).unwrap();
    let (build_s, build_cpu_s) = (start.elapsed().as_secs_f64(), process_seconds() - start_cpu_s);
    drop(base);
    let count = queries.len() / dimension;
    let mut points = Vec::new();
    for ef in WIDTHS {
        let (mut best_s, mut right) = (f64::MAX, 0);
        for _ in 0..PASSES {
            right = 0;
            let start_s = thread_seconds();
            for (query, truth) in queries.chunks(dimension).zip(truth.chunks(K)) {
                let hits = graph.search(query, K, ef, LabelFilter::All).unwrap();
                right += hits.iter().filter(|hit| truth.contains(&(hit.label as u32))).count();
            }
            best_s = best_s.min(thread_seconds() - start_s);
        }
        let recall = right as f64 / (count * K) as f64;
        points.push(format!(r#"{{"ef": {ef}, "recall": {recall:.4}, "qps": {:.0}}}"#, count as f64 / best_s));
    }
    println!(
        r#"{{"build_s": {build_s:.2}, "build_cpu_s": {build_cpu_s:.2}, "memory_bytes": {}, "points": [{}]}}"#,
        graph.memory_bytes(),
        points.join(", ")
    );
}
