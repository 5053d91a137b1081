//! Operators over text: decoding, chunking, word counts and embeddings.
//!
//! A text that cannot be read becomes a null with a reason. This crate does not know the scheduler or the store.
//!
//! ```
//! use std::sync::Arc;
//! use arrow::array::{ArrayRef, AsArray, StringArray};
//! use arrow::datatypes::Int32Type;
//! use cenote_models::{ModelOptions, ModelRegistry};
//! use cenote_operator::{OperatorSpec, Registry, Rows};
//!
//! let mut registry = Registry::default();
//! cenote_operators_text::register(&mut registry, &Arc::new(ModelRegistry::new(ModelOptions::default()).unwrap()));
//! let operator = registry.bind(&OperatorSpec::new("count_words")).unwrap();
//! let texts: ArrayRef = Arc::new(StringArray::from(vec!["two words"]));
//! let output = operator.worker().unwrap().process(&Rows::new(&[texts])).unwrap();
//! assert_eq!(output.columns[0].as_primitive::<Int32Type>().value(0), 2);
//! ```

use std::sync::Arc;

use cenote_models::ModelRegistry;
use cenote_operator::Registry;

mod chunk_text;
mod count_words;
mod decode_text;
mod embed_text;
mod entity;
mod html;
mod limit;

/// Adds every text operator to `registry`. Operators that run a model take it from `models`.
pub fn register(registry: &mut Registry, models: &Arc<ModelRegistry>) {
    registry.register(chunk_text::definition());
    registry.register(count_words::definition());
    registry.register(decode_text::definition());
    registry.register(embed_text::definition(Arc::clone(models)));
}
