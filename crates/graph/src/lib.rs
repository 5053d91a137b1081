//! Nearest-neighbour search in memory: a proximity graph that stays searchable while it changes.
//!
//! A [`Graph`] maps `u64` labels to vectors and finds the labels whose vectors are nearest to a query. It is a
//! Hierarchical Navigable Small World graph (Malkov and Yashunin 2016) with flat lists of links. A walk compares
//! vectors rounded to 8 bits; the best candidates are then compared as given, so distances are exact. Searches run
//! concurrently with inserts, replacements and deletes. Memory is limited, and [`Graph::save`] writes a snapshot that
//! [`Graph::load`] reads without building the graph again.
//!
//! Not useful for data that exceeds memory. This crate knows nothing of tables, nulls or transactions, nor of files
//! other than its snapshot.
//!
//! ```
//! use cenote_graph::{Graph, GraphOptions, LabelFilter, Metric};
//!
//! let graph = Graph::new(GraphOptions::new(2, Metric::L2))?;
//! graph.insert_batch(&[7, 8, 9], &vec![0.0, 0.0, 3.0, 4.0, 6.0, 8.0], 1)?;
//! graph.delete(7);
//! let hits = graph.search(&vec![0.0, 0.0], 1, 64, LabelFilter::All)?;
//! assert_eq!((hits[0].label, hits[0].distance), (8, 5.0));
//! # Ok::<(), cenote_base::Error>(())
//! ```

mod graph;
mod links;
mod neighbours;
mod options;
mod slots;
mod stable_rows;
mod values;
mod vectors;
mod walk;

pub use graph::Graph;
pub use graph::search::{GraphStrategy, LabelFilter, Neighbour};
pub use graph::selection::LabelSelection;
pub use options::{GraphOptions, Metric, Traversal};
pub use slots::Relabelling;
pub use values::VectorValues;
