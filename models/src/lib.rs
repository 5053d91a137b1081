//! Models by name: their files, their hashes, and the sessions that run them.
//!
//! A [`Manifest`] names the source of a model's file (a package of a public registry, a local file, a converter that
//! runs here), and its inputs and outputs. [`ModelRegistry`] finds, fetches, builds and loads each model once, and
//! shares it. [`Package`] is a package of a registry, pinned by version and SHA-256, whose files are extracted into a
//! local cache. ONNX Runtime is loaded at run time; [`Runtime`] lists the places where it is looked for.
//!
//! This crate does not know operators, tables or media. It does not train, and does not download from model hubs.
//!
//! ```
//! use cenote_models::{ModelOptions, ModelRegistry};
//!
//! let options = ModelOptions { cache_dir: Some("cache".into()), fetch: false, ..ModelOptions::default() };
//! let models = ModelRegistry::new(options)?;
//! assert_eq!(models.manifest("minilm")?.licence, "Apache-2.0");
//! # Ok::<(), cenote_base::Error>(())
//! ```

mod fetch;
mod files;
mod registry;
mod run;

pub use fetch::cache::default_cache_dir;
pub use fetch::package::{Package, PackageRegistry};
pub use files::manifest::{Dtype, Manifest, TensorSpec};
pub use files::source::ModelSource;
pub use registry::{ModelOptions, ModelRegistry, ModelStatus};
pub use run::model::{Model, Tensor, TensorData};
pub use run::runtime::{Provider, Runtime};
pub use run::text::TextEncoder;
pub use run::tokenizer::{Tokenizer, Tokens};
