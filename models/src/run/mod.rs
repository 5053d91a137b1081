//! Running a model: ONNX Runtime, sessions, tensors, and sentences as vectors.
//!
//! This part does not know where a model's file comes from.

pub(crate) mod model;
pub(crate) mod runtime;
pub(crate) mod text;
pub(crate) mod tokenizer;

mod pool;
