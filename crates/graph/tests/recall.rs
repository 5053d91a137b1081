//! The recall of searches against brute force.

#![allow(clippy::unwrap_used)]

mod data;

use cenote_base::Random;
use cenote_graph::{Graph, GraphOptions, GraphStrategy, LabelFilter, Metric, Traversal};
use data::{clustered, nearest, recall, share_right, uniform};

fn graph(metric: Metric, rows: &[Vec<f32>]) -> Graph {
    let graph = Graph::new(GraphOptions::new(rows[0].len(), metric)).unwrap();
    let labels: Vec<u64> = (0..rows.len() as u64).collect();
    graph.insert_batch(&labels, &rows.concat(), 2).unwrap();
    graph
}

#[test]
fn nearest_vectors_are_found_in_every_metric() {
    let mut random = Random::new(1);
    for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
        for (name, rows) in
            [("clustered", clustered(&mut random, 5100, 48)), ("uniform", uniform(&mut random, 5100, 12))]
        {
            let (rows, queries) = rows.split_at(5000);
            let found = recall(&graph(metric, rows), rows.iter(), queries, 100);
            assert!(found >= 0.95, "{metric} {name}: {found}");
        }
    }
}

#[test]
fn floats_are_walked_where_codes_are_too_coarse() {
    // Clusters so tight that all members have one code.
    let mut random = Random::new(2);
    let centres = uniform(&mut random, 10, 16);
    let rows: Vec<Vec<f32>> = (0..4000)
        .map(|at| centres[at % 10].iter().map(|value| value + 1e-4 * data::gauss(&mut random)).collect())
        .collect();
    let mut options = GraphOptions::new(16, Metric::L2);
    options.traversal = Traversal::Float32;
    let graph = Graph::new(options).unwrap();
    graph.insert_batch(&(0..4000).collect::<Vec<u64>>(), &rows.concat(), 2).unwrap();
    let mut right = 0.0;
    for query in rows.iter().step_by(40) {
        let hits = graph.search(query, 10, 100, LabelFilter::All).unwrap();
        let truth = nearest(Metric::L2, rows.iter(), query, 10);
        let within = hits.iter().filter(|hit| f64::from(hit.distance) <= truth[9] + 1e-7);
        right += within.count() as f64 / 10.0;
    }
    assert!(right / 100.0 >= 0.95, "{right}");
}

#[test]
fn bits_are_found_by_the_number_that_differ() {
    let mut random = Random::new(3);
    let rows: Vec<Vec<u8>> = (0..3000).map(|_| (0..8).map(|_| random.next_u64() as u8).collect()).collect();
    let graph = Graph::new(GraphOptions::new(64, Metric::Hamming)).unwrap();
    graph.insert_batch(&(0..3000).collect::<Vec<u64>>(), &rows.concat(), 2).unwrap();
    let differing = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() as f32;
    let mut right = 0;
    for _ in 0..100 {
        let query: Vec<u8> = (0..8).map(|_| random.next_u64() as u8).collect();
        let mut truth: Vec<f32> = rows.iter().map(|row| differing(row, &query)).collect();
        truth.sort_by(f32::total_cmp);
        let hits = graph.search(&query, 10, 200, LabelFilter::All).unwrap();
        assert!(hits.iter().all(|hit| hit.distance == differing(&rows[hit.label as usize], &query)));
        right += hits.iter().filter(|hit| hit.distance <= truth[9]).count();
    }
    assert!(right >= 950, "{right} of 1000");
}

#[test]
fn recall_survives_deletes_replacements_and_consolidation() {
    let mut random = Random::new(4);
    for rows in [clustered(&mut random, 6100, 32), uniform(&mut random, 6100, 10)] {
        let (rows, queries) = rows.split_at(6000);
        let graph = graph(Metric::L2, &rows[..4000]);
        // A round deletes 500, replaces 500 by vectors from elsewhere and adds 500.
        let mut now: std::collections::BTreeMap<u64, &Vec<f32>> = (0..4000).zip(rows).collect();
        for round in 0..8usize {
            let labels: Vec<u64> = now.keys().copied().collect();
            for _ in 0..500 {
                let label = labels[random.below(labels.len() as u64) as usize];
                assert_eq!(graph.delete(label), now.remove(&label).is_some());
                let label = labels[random.below(labels.len() as u64) as usize];
                let row = &rows[random.below(6000) as usize];
                graph.insert(label, row).unwrap();
                now.insert(label, row);
                let label = 10_000 + random.below(1 << 40);
                graph.insert(label, row).unwrap();
                now.insert(label, row);
            }
            if round % 2 == 1 {
                let deleted = graph.deleted();
                assert!(deleted > 0);
                assert_eq!(graph.consolidate(2), deleted);
                assert_eq!(graph.deleted(), 0);
            }
            assert_eq!(graph.len(), now.len());
            let found = recall(&graph, now.values().copied(), queries, 100);
            assert!(found >= 0.95, "round {round}: {found}");
        }
    }
}

#[test]
fn most_of_the_graph_may_be_deleted() {
    let mut random = Random::new(5);
    let rows = clustered(&mut random, 12_050, 32);
    let (rows, queries) = rows.split_at(12_000);
    let graph = graph(Metric::L2, rows);
    (0..12_000).filter(|label| label % 10 != 3).for_each(|label| assert!(graph.delete(label)));
    let left = || rows.iter().skip(3).step_by(10);
    assert!(recall(&graph, left(), queries, 64) >= 0.95);
    assert_eq!(graph.consolidate(2), 10_800);
    assert_eq!(graph.strategy(10, 64, LabelFilter::All), GraphStrategy::Walk { width: 64 });
    let found = recall(&graph, left(), queries, 64);
    assert!(found >= 0.95, "{found}");
    assert_eq!((0..12_000).filter(|&label| graph.delete(label)).count(), 1200);
    assert!(graph.search(&queries[0], 10, 64, LabelFilter::All).unwrap().is_empty());
    assert_eq!(graph.consolidate(2), 1200);
    graph.insert_batch(&(0..12_000).collect::<Vec<u64>>(), &rows.concat(), 2).unwrap();
    assert!(recall(&graph, rows.iter(), queries, 100) >= 0.95);
}

#[test]
fn survivors_of_clusters_are_linked_with_each_other() {
    // One of 30 vectors stays, first in some clusters, then in all: everything that it linked to, and that those linked
    // to, is deleted.
    let mut random = Random::new(8);
    let centres = uniform(&mut random, 1000, 6);
    let rows: Vec<Vec<f32>> = (0..30_000)
        .map(|at| centres[at % 1000].iter().map(|value| value + 1e-2 * data::gauss(&mut random)).collect())
        .collect();
    let mut options = GraphOptions::new(6, Metric::L2);
    (options.m, options.ef_construction) = (8, 30);
    let graph = Graph::new(options).unwrap();
    graph.insert_batch(&(0..30_000).collect::<Vec<u64>>(), &rows.concat(), 2).unwrap();
    let check = |clusters: u64| {
        let leaving = (1000..30_000u64).filter(|label| label % 1000 < clusters);
        let deleted = leaving.filter(|&label| graph.delete(label)).count();
        assert_eq!(graph.consolidate(2), deleted);
        assert_eq!(graph.strategy(10, 100, LabelFilter::All), GraphStrategy::Walk { width: 100 });
        let finds_itself = |label: &u64| {
            let hits = graph.search(&rows[*label as usize], 10, 100, LabelFilter::All).unwrap();
            hits.iter().any(|hit| hit.label == *label)
        };
        let found = (0..clusters).filter(finds_itself).count() as f64 / clusters as f64;
        assert!(found >= 0.95, "{clusters}: {found}");
    };
    check(200);
    check(1000);
    let found = recall(&graph, rows[..1000].iter(), &uniform(&mut random, 100, 6), 100);
    assert!(found >= 0.95, "{found}");
}

#[test]
fn a_filtered_search_is_never_short() {
    let mut random = Random::new(6);
    let rows = clustered(&mut random, 8040, 24);
    let (rows, queries) = rows.split_at(8000);
    let graph = graph(Metric::L2, rows);
    for part in [1, 2, 10, 100, 1000, 7999] {
        let matches = |label: u64| label.is_multiple_of(part);
        let labels: Vec<u64> = (0..8000).filter(|&label| matches(label)).collect();
        let selection = graph.select(&labels);
        // The estimate of the caller may be far off.
        for selectivity in [1.0 / part as f64, 1.0, 0.0, f64::NAN] {
            let mut right = 0.0;
            for query in queries {
                let truth = nearest(Metric::L2, rows.iter().step_by(part as usize), query, 10);
                for filter in [LabelFilter::Test { matches: &matches, selectivity }, LabelFilter::Labels(&labels)] {
                    let hits = graph.search(query, 10, 64, filter).unwrap();
                    assert_eq!(hits.len(), truth.len(), "one in {part}, believed {selectivity}");
                    assert!(hits.iter().all(|hit| matches(hit.label)));
                    right += share_right(&hits, &truth) / 120.0;
                }
                let hits = graph.search_selection(query, 10, &selection, |_| true).unwrap();
                right += share_right(&hits, &truth) / 120.0;
            }
            assert!(right >= 0.95, "one in {part}, believed {selectivity}: {right}");
        }
    }
    let few = [5, 5, 99_999, 6];
    assert_eq!(graph.strategy(10, 64, LabelFilter::Labels(&few)), GraphStrategy::Exact);
    assert_eq!(graph.strategy(10, 64, LabelFilter::All), GraphStrategy::Walk { width: 64 });
    let hits = graph.search(&queries[0], 10, 64, LabelFilter::Labels(&few)).unwrap();
    assert_eq!(hits.len(), 2);
}

#[test]
fn vectors_of_another_range_than_the_first_are_found() {
    // The scale of codes is learnt from the first vectors; the later ones are a thousand times as long.
    let mut random = Random::new(7);
    let small = uniform(&mut random, 2000, 16);
    let large: Vec<Vec<f32>> = uniform(&mut random, 3000, 16)
        .into_iter()
        .map(|row| row.into_iter().map(|x| x * 1000.0 + 500.0).collect())
        .collect();
    let graph = graph(Metric::L2, &small);
    small.iter().enumerate().for_each(|(label, _)| assert!(graph.delete(label as u64)));
    graph.consolidate(1);
    graph.insert_batch(&(0..3000).collect::<Vec<u64>>(), &large.concat(), 2).unwrap();
    graph.consolidate(1);
    let queries: Vec<Vec<f32>> = large.iter().step_by(60).cloned().collect();
    let found = recall(&graph, large.iter(), &queries, 100);
    assert!(found >= 0.95, "{found}");
}
