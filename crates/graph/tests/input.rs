//! Unusual and wrong input.

#![allow(clippy::unwrap_used)]

mod data;

use cenote_base::{ErrorKind, Random};
use cenote_graph::{Graph, GraphOptions, LabelFilter, Metric};
use data::{nearest, share_right, uniform};

fn flat(dimension: usize) -> Graph {
    Graph::new(GraphOptions::new(dimension, Metric::L2)).unwrap()
}

#[test]
fn wrong_input_is_refused_and_changes_nothing() {
    let graph = flat(3);
    graph.insert(1, &vec![0.0, 0.0, 0.0]).unwrap();
    for (error, part) in [
        (graph.insert(2, &vec![0.0; 4]).unwrap_err(), "expected 3 numbers, found 4"),
        (graph.insert(2, &vec![0.0, f32::NAN, 0.0]).unwrap_err(), "number 1 is NaN, not finite"),
        (
            graph.insert_batch(&[2, 3], &vec![0.0; 5], 1).unwrap_err(),
            "expected 3 numbers for each of 2 vectors, found 5",
        ),
        (
            graph.insert_batch(&[2, 3], &vec![0., 0., 0., 0., f32::INFINITY, 0.], 1).unwrap_err(),
            "number 1 of vector 1 is inf",
        ),
        (graph.insert_batch(&[2, 2], &vec![0.0; 6], 1).unwrap_err(), "label 2 is twice in one batch"),
        (graph.insert(2, &vec![0u8; 3]).unwrap_err(), "l2 takes numbers, not packed bits"),
        (
            graph.search(&vec![0.0; 2], 1, 10, LabelFilter::All).unwrap_err(),
            "query a graph: expected 3 numbers, found 2",
        ),
        (graph.search(&vec![f32::NAN, 0.0, 0.0], 1, 10, LabelFilter::All).unwrap_err(), "number 0 is NaN"),
        (graph.search_exact(&vec![0u8; 3], 1, LabelFilter::All).unwrap_err(), "not packed bits"),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.message().contains(part), "{error} / {part}");
    }
    assert_eq!(graph.len(), 1);
    let bits = Graph::new(GraphOptions::new(16, Metric::Hamming)).unwrap();
    assert!(bits.insert(1, &vec![0.0; 16]).unwrap_err().message().contains("hamming takes packed bits"));
    assert!(bits.insert(1, &vec![0u8; 16]).unwrap_err().message().contains("expected 2 bytes"));
}

#[test]
fn options_out_of_range_are_refused() {
    let with = |change: &dyn Fn(&mut GraphOptions)| {
        let mut options = GraphOptions::new(8, Metric::L2);
        change(&mut options);
        Graph::new(options).err().unwrap()
    };
    assert!(with(&|options| options.dimension = 0).message().contains("dimension 0"));
    assert!(with(&|options| options.dimension = 40_000).message().contains("32768"));
    assert!(with(&|options| options.m = 3).message().contains("m 3"));
    assert!(with(&|options| options.ef_construction = 1).message().contains("ef_construction 1"));
    let hamming = with(&|options| (options.metric, options.dimension) = (Metric::Hamming, 9));
    assert!(hamming.message().contains("whole bytes"));
    assert_eq!(with(&|options| options.capacity_bytes = 10).kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn capacity_is_kept_and_memory_of_deleted_vectors_is_reused() {
    let mut options = GraphOptions::new(32, Metric::L2);
    options.capacity_bytes = 200_000;
    let graph = Graph::new(options).unwrap();
    let rows = uniform(&mut Random::new(1), 1000, 32);
    let fitting = (0..).find(|&label| graph.insert(label, &rows[label as usize]).is_err()).unwrap();
    assert!(fitting > 300, "{fitting}");
    assert!(graph.memory_bytes() <= 200_000, "{}", graph.memory_bytes());
    let error = graph.insert(fitting, &rows[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.message().contains("195.3 KiB") && error.message().contains(&fitting.to_string()), "{error}");
    // No part of a batch that does not fit is inserted.
    (0..10).for_each(|label| assert!(graph.delete(label)));
    assert_eq!(graph.consolidate(1), 10);
    assert!(graph.insert_batch(&(2000..2011).collect::<Vec<u64>>(), &rows[..11].concat(), 1).is_err());
    assert_eq!(graph.len() as u64, fitting - 10);
    graph.insert_batch(&(2000..2010).collect::<Vec<u64>>(), &rows[..10].concat(), 1).unwrap();
    assert_eq!(graph.search(&rows[3], 1, 50, LabelFilter::All).unwrap()[0].label, 2003);
}

#[test]
fn empty_and_single() {
    let graph = flat(2);
    let query = vec![1.0, 1.0];
    assert!(graph.is_empty() && graph.search(&query, 5, 10, LabelFilter::All).unwrap().is_empty());
    assert!(graph.search_exact(&query, 5, LabelFilter::All).unwrap().is_empty());
    assert!(!graph.delete(1) && !graph.contains(1));
    assert_eq!(graph.consolidate(1), 0);
    graph.insert_batch(&[], &Vec::<f32>::new(), 4).unwrap();
    graph.insert(u64::MAX, &query).unwrap();
    for hits in [graph.search(&query, 5, 0, LabelFilter::All), graph.search_exact(&query, usize::MAX, LabelFilter::All)]
    {
        let hits = hits.unwrap();
        assert_eq!((hits.len(), hits[0].label, hits[0].distance), (1, u64::MAX, 0.0));
    }
    assert!(graph.search(&query, 0, 10, LabelFilter::All).unwrap().is_empty());
    assert!(graph.search(&query, 5, 10, LabelFilter::Labels(&[])).unwrap().is_empty());
}

#[test]
fn equal_vectors_are_all_found_by_label() {
    let graph = flat(4);
    let labels: Vec<u64> = (0..3000).rev().collect();
    graph.insert_batch(&labels, &vec![0.5; 3000 * 4], 2).unwrap();
    graph.insert(9999, &vec![7.0; 4]).unwrap();
    let hits = graph.search(&vec![0.5; 4], 10, 64, LabelFilter::All).unwrap();
    assert_eq!(hits.len(), 10);
    assert!(hits.iter().all(|hit| hit.distance == 0.0));
    assert!(hits.windows(2).all(|pair| pair[0].label < pair[1].label));
    assert_eq!(graph.search(&vec![6.0; 4], 1, 64, LabelFilter::All).unwrap()[0].label, 9999);
    let exact = graph.search_exact(&vec![0.5; 4], 5, LabelFilter::All).unwrap();
    assert_eq!(exact.iter().map(|hit| hit.label).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let all = graph.search(&vec![0.5; 4], 5000, 64, LabelFilter::All).unwrap();
    assert_eq!(all.len(), 3001);
}

#[test]
fn one_dimension_and_four_thousand() {
    let mut random = Random::new(4);
    for (dimension, count) in [(1, 2000), (4096, 300)] {
        let rows = uniform(&mut random, count, dimension);
        for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
            let graph = Graph::new(GraphOptions::new(dimension, metric)).unwrap();
            graph.insert_batch(&(0..count as u64).collect::<Vec<u64>>(), &rows.concat(), 2).unwrap();
            let mut right = 0.0;
            for query in uniform(&mut random, 20, dimension) {
                let hits = graph.search(&query, 10, 150, LabelFilter::All).unwrap();
                right += share_right(&hits, &nearest(metric, rows.iter(), &query, 10)) / 20.0;
            }
            assert!(right >= 0.95, "{metric}, dimension {dimension}: {right}");
        }
    }
}

#[test]
fn a_zero_vector_is_at_cosine_distance_one() {
    let graph = Graph::new(GraphOptions::new(2, Metric::Cosine)).unwrap();
    graph.insert_batch(&[1, 2, 3], &vec![0.0, 0.0, 5.0, 0.0, -1.0, 0.0], 1).unwrap();
    let distances = |query: &[f32]| -> Vec<(u64, f32)> {
        graph.search(query, 3, 10, LabelFilter::All).unwrap().iter().map(|hit| (hit.label, hit.distance)).collect()
    };
    assert_eq!(distances(&[9.0, 0.0]), [(2, 0.0), (1, 1.0), (3, 2.0)]);
    assert_eq!(distances(&[0.0, 0.0]), [(1, 1.0), (2, 1.0), (3, 1.0)]);
}

#[test]
fn very_large_and_very_small_numbers() {
    for scale in [1e-30, 1e18] {
        let rows: Vec<Vec<f32>> = uniform(&mut Random::new(5), 500, 4)
            .into_iter()
            .map(|row| row.into_iter().map(|x| x * scale).collect())
            .collect();
        let graph = Graph::new(GraphOptions::new(4, Metric::Cosine)).unwrap();
        graph.insert_batch(&(0..500).collect::<Vec<u64>>(), &rows.concat(), 1).unwrap();
        assert_eq!(graph.search(&rows[77], 1, 50, LabelFilter::All).unwrap()[0].label, 77);
    }
}
