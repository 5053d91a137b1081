//! Building a model's file by a converter script with pinned Python packages.

use std::path::{Path, PathBuf};

use cenote_base::{Context, Result};

use crate::fetch::cache;
use crate::fetch::command;
use crate::fetch::digest;

/// Installs the packages of `requirements`, for the Python of this machine, into a directory in `cache`.
///
/// Unlike a virtual environment, `pip install --target` copies no interpreter and does not need the `venv` module,
/// which Debian packages separately. Dependencies are not installed, so that the list determines every package.
fn python_packages(cache: &Path, requirements: &str) -> Result<PathBuf> {
    let mut version = command::python();
    version.args(["-c", "import sys, sysconfig; print(sys.implementation.cache_tag, sysconfig.get_platform())"]);
    let tag = command::run(&mut version, "install Python 3.11 or newer (CENOTE_PYTHON names another than `python3`)")?;
    let key = digest::of_parts([requirements.as_bytes(), tag.as_bytes()]);
    cache::once(&cache.join("python").join(&key[..16]), |part| {
        let list = part.with_extension("txt");
        std::fs::write(&list, requirements).context(|| format!("write {}", list.display()))?;
        tracing::info!("installing Python packages for a model converter");
        let mut pip = command::python();
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--root-user-action=ignore", "--target"])
            .arg(part)
            .arg("--requirement")
            .arg(&list);
        let installed = command::run(&mut pip, "check that pip is installed and reaches PyPI");
        drop(std::fs::remove_file(&list));
        installed.map(drop)
    })
}

/// A converter script and all that it reads.
pub(super) struct Converter<'a> {
    pub(super) script: PathBuf,
    /// Pip requirements, every package at an exact version.
    pub(super) requirements: String,
    /// The files that the script reads, by key.
    pub(super) inputs: Vec<(&'a str, PathBuf)>,
}

impl Converter<'_> {
    /// Runs the script, which must write `output`, with `--KEY PATH` for each input.
    pub(super) fn run(&self, cache: &Path, output: &Path) -> Result<()> {
        let packages = python_packages(cache, &self.requirements)?;
        tracing::info!(script = %self.script.display(), "building a model");
        let mut python = command::python();
        python.env("PYTHONPATH", &packages).args(["-B", "-s"]).arg(&self.script);
        for (key, path) in &self.inputs {
            python.arg(format!("--{key}")).arg(path);
        }
        python.arg("--output").arg(output);
        command::run(&mut python, "check the script and its inputs").map(drop)
    }
}
