//! The operator SDK: what an operator is, how one is registered, found, bound and checked.
//!
//! An operator goes through three stages. [`OperatorSpec`] is plain data: a name and parameters, as a recipe writes
//! them. [`Registry::bind`] checks it and makes a [`BoundOperator`], which has its models and knows its output columns.
//! Each thread that runs it asks for a [`Worker`], which may hold state of its own. If an operator has a [`Kernel`],
//! workers can stop at preparing rows, and the rest of the work may go to a device.
//!
//! This crate does not know who runs an operator, where batches come from or where they go.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{Array, ArrayRef, Int32Array, StringArray, cast::AsArray};
//! use arrow::datatypes::{DataType, Field};
//! use cenote_operator::{Definition, OperatorSpec, Port, PortType, Registry, Rows, row_wise};
//!
//! let mut registry = Registry::default();
//! registry.register(
//!     Definition::new("count_words", 1, "Number of words separated by white space", |_params| {
//!         Ok(row_wise(vec![Field::new("words", DataType::Int32, true)], |rows: &Rows<'_>| {
//!             let text = rows.column(0).as_string::<i32>();
//!             let words: Int32Array = text.iter().map(|t| t.map(|t| t.split_whitespace().count() as i32)).collect();
//!             Ok(vec![Arc::new(words) as ArrayRef].into())
//!         }))
//!     })
//!     .input(Port::new("text", PortType::Text)),
//! );
//!
//! let operator = registry.bind(&OperatorSpec::new("count_words")).unwrap();
//! let input: ArrayRef = Arc::new(StringArray::from(vec![Some("a b"), None]));
//! let output = operator.worker().unwrap().process(&Rows::new(&[input])).unwrap();
//! assert_eq!(output.columns[0].null_count(), 1);
//! ```

mod bound;
pub mod conformance;
mod definition;
mod kernel;
mod operator;
mod registry;
mod spec;
mod worker;

pub use bound::BoundOperator;
pub use definition::{Definition, Param, ParamType, Port, PortType, Shape};
pub use kernel::Kernel;
pub use operator::{Operator, row_wise};
pub use registry::Registry;
pub use spec::{Fingerprint, OperatorSpec, Params};
pub use worker::{Output, RowError, Rows, Worker};
