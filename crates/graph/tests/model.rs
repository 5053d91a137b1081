//! Random sequences of everything a graph can do, against a plain map. A failure names the seed that replays it:
//! `CENOTE_SEED=7 CENOTE_STEPS=5000 cargo test -p cenote-graph --test model`.

#![allow(clippy::unwrap_used)]

mod data;

use std::collections::{BTreeMap, BTreeSet};

use cenote_base::Random;
use cenote_graph::{Graph, GraphOptions, LabelFilter, LabelSelection, Metric, Relabelling};
use data::{distance, nearest};

const CAPACITY_BYTES: u64 = 1 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Draws a vector of few values, so that many vectors are equal and many distances tie.
fn vector(random: &mut Random, dimension: usize) -> Vec<f32> {
    (0..dimension).map(|_| random.below(3) as f32 - 1.0).collect()
}

fn run(seed: u64, steps: u64) {
    let mut random = Random::new(seed);
    let directory = tempfile::tempdir().unwrap();
    let metric = [Metric::L2, Metric::Cosine, Metric::Dot][random.below(3) as usize];
    let dimension = [1, 2, 5, 33][random.below(4) as usize];
    let mut options = GraphOptions::new(dimension, metric);
    options.capacity_bytes = CAPACITY_BYTES;
    options.m = 4 + random.below(5) as usize;
    options.ef_construction = 16 + random.below(40) as usize;
    options.seed = seed;
    let mut graph = Graph::new(options).unwrap();
    let mut model: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
    let mut selected: Option<(LabelSelection, BTreeSet<u64>)> = None;
    for step in 0..steps {
        let at = format!("seed {seed}, step {step}, {metric}, dimension {dimension}");
        let label = random.below(300);
        match random.below(100) {
            0..30 => {
                let row = vector(&mut random, dimension);
                graph.insert(label, &row).unwrap();
                model.insert(label, row);
            }
            30..35 => {
                let labels: Vec<u64> = (label..label + 1 + random.below(60)).collect();
                let rows: Vec<Vec<f32>> = labels.iter().map(|_| vector(&mut random, dimension)).collect();
                graph.insert_batch(&labels, &rows.concat(), 1 + random.below(3) as usize).unwrap();
                model.extend(labels.into_iter().zip(rows));
            }
            35..60 => assert_eq!(graph.delete(label), model.remove(&label).is_some(), "{at}"),
            60..62 => {
                graph.consolidate(1 + random.below(3) as usize);
                assert_eq!(graph.deleted(), 0, "{at}");
            }
            62 => {
                let path = directory.path().join("graph");
                graph.save(&path).unwrap();
                graph = Graph::load(&path, CAPACITY_BYTES).unwrap();
                selected = None;
            }
            64..67 => {
                let mut relabelling = || Relabelling { from: random.below(300), to: random.below(300) };
                let moves: Vec<Relabelling> = (0..5).map(|_| relabelling()).collect();
                let mut given = 0;
                for Relabelling { from, to } in &moves {
                    if let Some(row) = model.remove(from) {
                        model.insert(*to, row);
                        given += 1;
                    }
                }
                assert_eq!(graph.relabel(&moves), given, "{at}");
            }
            63 if random.below(10) == 0 => {
                model.keys().for_each(|&label| assert!(graph.delete(label), "{at}"));
                model.clear();
            }
            _ => {
                let query = vector(&mut random, dimension);
                let k = [1, 3, 10, 1000][random.below(4) as usize];
                let part = 1 + random.below(4);
                let matches = |label: u64| label.is_multiple_of(part);
                let matching: Vec<&Vec<f32>> =
                    model.iter().filter(|(label, _)| matches(**label)).map(|(_, row)| row).collect();
                let filter = LabelFilter::Test { matches: &matches, selectivity: random.unit() };
                let walked = graph.search(&query, k, 1 + random.below(40) as usize, filter).unwrap();
                let exact = graph.search_exact(&query, k, filter).unwrap();
                for hits in [&walked, &exact] {
                    assert_eq!(hits.len(), k.min(matching.len()), "{at}");
                    let labels: BTreeSet<u64> = hits.iter().map(|hit| hit.label).collect();
                    assert_eq!(labels.len(), hits.len(), "doubled, {at}");
                    assert!(labels.iter().all(|&label| matches(label)), "{at}");
                    assert!(
                        hits.windows(2)
                            .all(|pair| (pair[0].distance, pair[0].label) < (pair[1].distance, pair[1].label)),
                        "out of order, {at}: {hits:?}"
                    );
                    for hit in hits {
                        let truth = distance(metric, &model[&hit.label], &query);
                        assert!((f64::from(hit.distance) - truth).abs() < 1e-3, "{at}: {hit:?} {truth}");
                    }
                }
                let truth = nearest(metric, matching.into_iter(), &query, k);
                for (hit, truth) in exact.iter().zip(truth) {
                    assert!((f64::from(hit.distance) - truth).abs() < 1e-3, "{at}: {hit:?} {truth}");
                }
                check_selection(&graph, &model, &mut selected, &query, k, &matches, &at);
            }
        }
        assert_eq!(graph.len(), model.len(), "{at}");
        assert_eq!(graph.contains(label), model.contains_key(&label), "{at}");
        assert!(graph.memory_bytes() <= CAPACITY_BYTES, "{at}: {}", graph.memory_bytes());
    }
}

/// Checks that labels selected some steps ago are found by the vectors that they have now.
fn check_selection(
    graph: &Graph,
    model: &BTreeMap<u64, Vec<f32>>,
    selected: &mut Option<(LabelSelection, BTreeSet<u64>)>,
    query: &[f32],
    k: usize,
    matches: &dyn Fn(u64) -> bool,
    at: &str,
) {
    let (selection, labels) = selected.take().unwrap_or_else(|| {
        let labels: Vec<u64> = model.keys().copied().chain(1000..1010).filter(|label| label % 3 > 0).collect();
        let selection = graph.select(&labels);
        let known: BTreeSet<u64> = labels.into_iter().filter(|label| model.contains_key(label)).collect();
        assert_eq!(selection.len(), known.len(), "{at}");
        (selection, known)
    });
    let hits = graph.search_selection(query, k, &selection, matches).unwrap();
    let wanted: Vec<u64> =
        labels.iter().copied().filter(|label| matches(*label) && model.contains_key(label)).collect();
    let exact = graph.search_exact(query, k, LabelFilter::Labels(&wanted)).unwrap();
    assert_eq!(hits.len(), exact.len(), "{at}");
    for (hit, exact) in hits.iter().zip(&exact) {
        assert!(wanted.contains(&hit.label), "{at}: {hit:?}");
        let truth = distance(graph.options().metric, &model[&hit.label], query);
        assert!((f64::from(hit.distance) - truth).abs() < 1e-3, "{at}: {hit:?} {truth}");
        // All candidates are compared as given when there are at most this many.
        assert!(wanted.len() > 4 * k + 16 || hit == exact, "{at}: {hits:?} {exact:?}");
    }
    if query[0] > 0.0 {
        *selected = Some((selection, labels));
    }
}

#[test]
fn a_graph_does_what_a_map_does() {
    match std::env::var("CENOTE_SEED") {
        Ok(_) => run(number("CENOTE_SEED", 0), number("CENOTE_STEPS", 2000)),
        Err(_) => (0..24).for_each(|seed| run(seed, number("CENOTE_STEPS", 600))),
    }
}
