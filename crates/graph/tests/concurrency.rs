//! Searches concurrent with inserts, replacements, deletes and consolidation.

#![allow(clippy::unwrap_used)]

mod data;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cenote_base::Random;
use cenote_graph::{Graph, GraphOptions, LabelFilter, Metric};
use data::{clustered, distance, recall};

#[test]
fn no_search_beside_writers_sees_what_never_was() {
    const DIMENSION: usize = 16;
    let mut random = Random::new(1);
    let rows = clustered(&mut random, 4000, DIMENSION);
    let graph = Graph::new(GraphOptions::new(DIMENSION, Metric::L2)).unwrap();
    // Labels 0 to 999 are always there, each with one of two vectors; the others come and go.
    let steady = |label: u64, turn: u64| &rows[(label + 1000 * (turn % 2)) as usize];
    graph.insert_batch(&(0..1000).collect::<Vec<u64>>(), &rows[..1000].concat(), 2).unwrap();
    let gone = AtomicU64::new(2000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (graph, rows, gone, done) = (&graph, &rows, &gone, &done);
            scope.spawn(move || {
                let mut random = Random::new(100 + reader);
                let mut searches = 0;
                while !done.load(Ordering::Relaxed) || searches < 50 {
                    searches += 1;
                    let query = &rows[random.below(4000) as usize];
                    let gone_before = gone.load(Ordering::SeqCst);
                    let hits = match random.below(3) {
                        0 => graph.search(query, 10, 50, LabelFilter::All).unwrap(),
                        1 => graph.search_exact(query, 10, LabelFilter::All).unwrap(),
                        _ => {
                            let test = |label: u64| label < 1000;
                            let hits = graph
                                .search(query, 1000, 50, LabelFilter::Test { matches: &test, selectivity: 0.4 })
                                .unwrap();
                            assert_eq!(hits.len(), 1000, "a label that was always there was missed");
                            hits
                        }
                    };
                    assert!(hits.len() >= 10);
                    let mut labels: Vec<u64> = hits.iter().map(|hit| hit.label).collect();
                    labels.sort_unstable();
                    assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "doubled");
                    for hit in hits {
                        assert!(hit.label < 1000 || hit.label >= gone_before, "{} was deleted before", hit.label);
                        let truly = |row: &Vec<f32>| (distance(Metric::L2, row, query) - f64::from(hit.distance)).abs();
                        if hit.label < 1000 {
                            let either = truly(steady(hit.label, 0)).min(truly(steady(hit.label, 1)));
                            assert!(either < 1e-3, "label {} has neither of its vectors", hit.label);
                        } else {
                            assert!(truly(&rows[2000 + hit.label as usize % 2000]) < 1e-3, "{}", hit.label);
                        }
                    }
                }
            });
        }
        let (graph, rows, gone) = (&graph, &rows, &gone);
        let come_and_go = scope.spawn(move || {
            for label in 2000..6000 {
                graph.insert(label, &rows[2000 + label as usize % 2000]).unwrap();
                if label >= 2500 {
                    assert!(graph.delete(label - 500));
                    gone.store(label - 499, Ordering::SeqCst);
                }
            }
        });
        let replace = scope.spawn(move || {
            for turn in 1..4 {
                (0..1000).for_each(|label| graph.insert(label, steady(label, turn)).unwrap());
            }
        });
        while !(come_and_go.is_finished() && replace.is_finished()) {
            graph.consolidate(1);
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(graph.len(), 1500);
    graph.consolidate(2);
    let now: Vec<Vec<f32>> = (0..1000u64)
        .map(|label| steady(label, 3).clone())
        .chain((5500..6000).map(|label| rows[2000 + label % 2000].clone()))
        .collect();
    let found = recall(&graph, now.iter(), &rows[..100], 64);
    assert!(found >= 0.95, "{found}");
}
