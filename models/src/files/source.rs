//! The sources of a model's files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fetch::package::Package;

/// The source of a model's file, or of a file beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ModelSource {
    /// A file of this machine.
    Local {
        /// The path; a relative one is below the manifest's directory.
        path: PathBuf,
    },
    /// A file inside a package of a public registry.
    Package {
        /// The package.
        package: Package,
        /// The path inside its archive.
        member: String,
    },
    /// A file that is compiled into Cenote: converter scripts, their requirements, labels.
    Embedded {
        /// The name of the file.
        name: String,
    },
    /// The file of another model.
    Model {
        /// The model's name.
        name: String,
        /// One of its `files`; the model file itself when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
    /// A file that a Python script makes here, with packages at pinned versions, which are installed into the cache.
    ///
    /// The script is called with `--KEY PATH` for each input and `--output PATH`. The result is identified by
    /// everything that goes into it, not by its own bytes, because a script that runs a model may round differently on
    /// another CPU.
    Build {
        /// The script: a file beside the manifest, or one that is compiled into Cenote.
        script: String,
        /// The pip requirements, every package at an exact version: a file beside the manifest, or one that is compiled
        /// into Cenote.
        requirements: String,
        /// The files that the script reads, by key.
        #[serde(default)]
        inputs: BTreeMap<String, ModelSource>,
    },
    /// A file of a model hub. Cenote fetches from package registries only, so the file must be supplied by hand.
    Hub {
        /// The repository on the hub.
        repository: String,
        /// The revision.
        revision: String,
        /// The path inside the repository.
        file: String,
    },
}

impl ModelSource {
    /// Returns the kind, as a manifest writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Package { .. } => "package",
            Self::Embedded { .. } => "embedded",
            Self::Model { .. } => "model",
            Self::Build { .. } => "build",
            Self::Hub { .. } => "hub",
        }
    }
}
