//! Builds a graph from raw vectors, searches it on one thread, and prints build time, speed against recall, and memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use cenote_graph::{Filter, Graph, Metric, Options};

fn floats(path: &str) -> Vec<f32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let dimension: usize = arguments[1].parse().unwrap();
    let metric: Metric = arguments[2].parse().unwrap();
    let (base, queries) = (floats(&arguments[3]), floats(&arguments[4]));
    let truth: Vec<u64> = std::fs::read(&arguments[5]).unwrap().as_chunks::<4>().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).collect();
    let mut options = Options::new(dimension, metric);
    options.ef_construction = arguments[6].parse().unwrap();
    options.capacity_bytes = 4 << 30;
    let k = truth.len() / (queries.len() / dimension);
    let graph = Graph::new(options).unwrap();
    let labels: Vec<u64> = (0..(base.len() / dimension) as u64).collect();
    let start = Instant::now();
    graph.insert_batch(&labels, &base, 2).unwrap();
    println!("build {:.1} s, {} MiB", start.elapsed().as_secs_f64(), graph.memory_bytes() >> 20);
    for ef in [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384] {
        let (mut best, mut right) = (f64::MAX, 0);
        for _ in 0..4 {
            right = 0;
            let start = Instant::now();
            for (query, truth) in queries.chunks(dimension).zip(truth.chunks(k)) {
                let hits = graph.search(query, 10, ef, Filter::All).unwrap();
                right += hits.iter().filter(|hit| truth[..10].contains(&hit.label)).count();
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let count = queries.len() / dimension;
        println!("ef {ef}: recall {:.4} qps {:.0}", right as f64 / (count * 10) as f64, count as f64 / best);
    }
}
