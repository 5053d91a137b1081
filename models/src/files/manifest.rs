//! Manifests: TOML files that describe models.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cenote_base::{Context, Error, Result, unknown};
use serde::{Deserialize, Serialize};

use super::source::ModelSource;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    F32,
    /// 64-bit signed integer.
    I64,
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// The name in the ONNX file.
    pub name: String,
    /// The type of the elements.
    pub dtype: Dtype,
    /// The size of each dimension: a number, or the name of a size that varies.
    pub shape: Vec<String>,
    /// The meaning of the numbers, with their unit.
    pub meaning: String,
}

/// The description of a model: its name, the sources of its files, its inputs and outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name by which operators and recipes refer to the model.
    pub name: String,
    /// The version of the model.
    pub version: String,
    /// A line that `cenote models` shows.
    pub summary: String,
    /// The SPDX name of the licence.
    pub licence: String,
    /// The SHA-256 of the model file, in hex. Optional for a local file, which is hashed instead, and for a file built
    /// here, which is identified by everything that goes into the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The source of the model file.
    pub source: ModelSource,
    /// The sources of files beside the model, such as a tokenizer, by role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, ModelSource>,
    /// The inputs.
    pub inputs: Vec<TensorSpec>,
    /// The outputs.
    pub outputs: Vec<TensorSpec>,
    /// The directory of relative paths; `None` for a built-in manifest.
    #[serde(skip)]
    pub directory: Option<PathBuf>,
}

impl Manifest {
    /// Parses the manifest `text`, which errors call `origin`.
    ///
    /// # Errors
    /// `InvalidInput` for text that is not TOML, a key that is unknown or missing, and a source that needs `sha256` and
    /// has none.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text).map_err(|source| {
            let reason = source.to_string();
            Error::invalid_input(format!("model manifest {origin}: {}", reason.trim())).with_source(source)
        })?;
        manifest.check().map_err(|error| error.context(format!("model manifest {origin}")))?;
        Ok(manifest)
    }

    /// Reads every `*.toml` in `directory`, in the order of their names. A missing directory counts as empty.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse), and `Unavailable` when a file cannot be read.
    pub fn read_directory(directory: &Path) -> Result<Vec<Self>> {
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut paths = fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
            .context(|| format!("list model manifests in {}", directory.display()))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        let read = |path: PathBuf| {
            let origin = path.display().to_string();
            let text = fs::read_to_string(&path).context(|| format!("read model manifest {origin}"))?;
            Ok(Self { directory: Some(directory.to_path_buf()), ..Self::parse(&text, &origin)? })
        };
        paths.into_iter().map(read).collect()
    }

    /// Returns the output `name`.
    ///
    /// # Errors
    /// `NotFound`, naming the model's outputs.
    pub fn output(&self, name: &str) -> Result<&TensorSpec> {
        self.outputs.iter().find(|output| output.name == name).ok_or_else(|| {
            let known = self.outputs.iter().map(|output| output.name.as_str());
            unknown("output", name, known).context(format!("model `{}`", self.name))
        })
    }

    fn check(&self) -> Result<()> {
        let plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
        };
        if !plain(&self.name) || !plain(&self.version) {
            return Err(Error::invalid_input(format!(
                "`name` and `version` must consist of letters, digits and . _ - +, found `{}` and `{}`",
                self.name, self.version
            )));
        }
        if self.outputs.is_empty() || self.inputs.is_empty() {
            return Err(Error::invalid_input("a model needs at least one input and one output"));
        }
        match &self.sha256 {
            Some(sha256) if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Err(Error::invalid_input(format!("`sha256` must be 64 hex digits, found `{sha256}`")))
            }
            None if matches!(self.source, ModelSource::Package { .. } | ModelSource::Hub { .. }) => {
                Err(Error::invalid_input(format!("`sha256` of the model file is required for {}", self.source.kind())))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::files::embedded;

    #[test]
    fn built_in_manifests_parse_and_are_named_like_their_files() {
        for (file, text) in embedded::MANIFESTS {
            assert_eq!(format!("{}.toml", Manifest::parse(text, file).unwrap().name), *file);
        }
    }

    #[test]
    fn mistakes_are_named_with_the_file() {
        let good = embedded::MANIFESTS[1].1;
        for (change, to, expect) in [
            ("licence", "license", "unknown field `license`"),
            ("kind = \"package\"", "kind = \"magic\"", "unknown variant `magic`"),
            ("sha256 = \"8199", "sha256 = \"819", "`sha256` must be 64 hex digits"),
            ("name = \"minilm\"", "name = \"../minilm\"", "must consist of letters"),
            ("registry = \"pypi\"", "registry = \"cran\"", "unknown variant `cran`"),
        ] {
            let error = Manifest::parse(&good.replacen(change, to, 1), "m.toml").unwrap_err();
            assert!(error.message().starts_with("model manifest m.toml: "), "{error}");
            assert!(error.message().contains(expect), "{error}");
        }
    }

    #[test]
    fn an_unknown_output_names_those_there_are() {
        let manifest = Manifest::parse(embedded::MANIFESTS[0].1, "m").unwrap();
        let error = manifest.output("text").unwrap_err();
        assert_eq!(
            error.message(),
            "model `efficientnet_lite0`: no output `text`; there are features, logits, text_space"
        );
    }
}
