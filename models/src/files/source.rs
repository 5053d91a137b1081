//! Where a file comes from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fetch::package::Package;

/// Where a model's file, or a file beside it, comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A file of this machine.
    Local {
        /// The path; a relative one starts at the manifest's directory.
        path: PathBuf,
    },
    /// A file inside a package of a public registry.
    Package {
        /// The package.
        package: Package,
        /// The path inside its archive.
        member: String,
    },
    /// A file that is part of Cenote: converter scripts, their requirements, labels.
    Embedded {
        /// Its name.
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
    /// Made here by a Python script, which runs with packages installed at pinned versions into the cache.
    ///
    /// The script is called with `--KEY PATH` for each input and `--output PATH`. The result is identified by everything
    /// that goes in, not by its own bytes: a script that runs a model may round its last bits otherwise on another CPU.
    Build {
        /// The script: a file beside the manifest, or one that is part of Cenote.
        script: String,
        /// Pip requirements, every package at an exact version: a file beside the manifest, or one that is part of Cenote.
        requirements: String,
        /// The files the script reads.
        #[serde(default)]
        inputs: BTreeMap<String, Source>,
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

impl Source {
    /// The kind, as a manifest writes it.
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
