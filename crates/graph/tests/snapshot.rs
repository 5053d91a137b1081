//! Snapshots: a load returns what was saved, or an error.

#![allow(clippy::unwrap_used)]

mod data;

use std::path::Path;

use cenote_base::{ErrorKind, Random};
use cenote_graph::{Graph, GraphOptions, LabelFilter, Metric, Traversal};
use data::clustered;

const CAPACITY_BYTES: u64 = 1 << 22;

/// Builds a graph with upper layers, deleted and free slots, and replaced labels.
fn worn(metric: Metric, traversal: Traversal) -> Graph {
    let mut options = GraphOptions::new(24, metric);
    (options.traversal, options.m, options.seed, options.capacity_bytes) = (traversal, 4, 1 << 40, CAPACITY_BYTES);
    let graph = Graph::new(options).unwrap();
    let mut random = Random::new(9);
    for round in 0..3u64 {
        let labels: Vec<u64> = (round * 50..round * 50 + 200).map(|label| label << 33).collect();
        if metric == Metric::Hamming {
            let bits: Vec<u8> = (0..200 * 3).map(|_| random.next_u64() as u8).collect();
            graph.insert_batch(&labels, &bits, 1).unwrap();
        } else {
            graph.insert_batch(&labels, &clustered(&mut random, 200, 24).concat(), 1).unwrap();
        }
        labels.iter().step_by(7).for_each(|&label| assert!(graph.delete(label)));
        if round == 1 {
            assert!(graph.consolidate(1) > 0);
        }
    }
    assert!(graph.deleted() > 0);
    graph
}

fn kind(path: &Path) -> ErrorKind {
    Graph::load(path, CAPACITY_BYTES).err().unwrap().kind()
}

#[test]
fn a_loaded_graph_answers_as_the_saved_one_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("graph");
    for (metric, traversal) in [
        (Metric::L2, Traversal::Int8),
        (Metric::Cosine, Traversal::Int8),
        (Metric::Dot, Traversal::Float32),
        (Metric::Hamming, Traversal::Int8),
    ] {
        let graph = worn(metric, traversal);
        graph.save(&path).unwrap();
        let loaded = Graph::load(&path, CAPACITY_BYTES).unwrap();
        assert_eq!(loaded.options(), graph.options());
        assert_eq!((loaded.len(), loaded.deleted()), (graph.len(), graph.deleted()));
        let mut random = Random::new(10);
        for query in clustered(&mut random, 50, 24) {
            let bits: Vec<u8> = (0..3).map(|_| random.next_u64() as u8).collect();
            let ask = |graph: &Graph| match metric {
                Metric::Hamming => graph.search(&bits, 10, 20, LabelFilter::All).unwrap(),
                _ => graph.search(&query, 10, 20, LabelFilter::All).unwrap(),
            };
            assert_eq!(ask(&loaded), ask(&graph));
        }
        assert_eq!(loaded.consolidate(1), graph.deleted());
        assert!(std::fs::read_dir(directory.path()).unwrap().count() == 1, "a temporary file was left");
    }
    let empty = Graph::new(GraphOptions::new(3, Metric::L2)).unwrap();
    empty.save(&path).unwrap();
    let loaded = Graph::load(&path, CAPACITY_BYTES).unwrap();
    loaded.insert(1, &vec![1.0, 2.0, 3.0]).unwrap();
    assert_eq!(loaded.search(&vec![1.0, 2.0, 3.0], 5, 10, LabelFilter::All).unwrap()[0].distance, 0.0);
}

#[test]
fn a_file_that_was_cut_or_changed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("graph");
    worn(Metric::L2, Traversal::Int8).save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in (0..200).chain((200..whole.len()).step_by(997)).chain(whole.len() - 8..whole.len()) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(kind(&path), ErrorKind::Corrupt, "cut to {length} of {}", whole.len());
    }
    for at in (0..200).chain((200..whole.len()).step_by(499)).chain(whole.len() - 8..whole.len()) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        let kind = kind(&path);
        let version = (8..12).contains(&at) && kind == ErrorKind::Unsupported;
        assert!(kind == ErrorKind::Corrupt || version, "byte {at} changed: {kind}");
    }
    std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert_eq!(kind(&path), ErrorKind::Corrupt);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(&path), ErrorKind::NotFound);
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(Graph::load(&path, 4096).err().unwrap().kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("graph");
    worn(Metric::L2, Traversal::Int8).save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    // A directory is in the place of the new file.
    std::fs::create_dir(directory.path().join("graph.writing")).unwrap();
    worn(Metric::Dot, Traversal::Int8).save(&path).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}
