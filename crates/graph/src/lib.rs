mod beam;
mod graph;
mod insert;
mod kernels;
mod links;
mod neighbours;
mod options;
mod quantizer;
mod rows;
mod search;
mod slots;
mod values;
mod vectors;

pub use graph::Graph;
pub use options::{Metric, Options, Traversal};
pub use search::{Filter, Hit, Strategy};
pub use values::Values;
