//! Running a converter script with pinned Python packages.

use std::path::{Path, PathBuf};

use cenote_base::{Context, Result};

use crate::fetch::cache;
use crate::fetch::command;
use crate::fetch::digest;

/// A directory in `cache` with the packages of `requirements` for the Python at hand.
///
/// `pip install --target` makes it: unlike a virtual environment it copies no interpreter and needs no `venv` module,
/// which Debian packages apart. Only the packages listed are installed, so that the list is the whole truth.
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

/// Runs `script` with `--KEY PATH` for each of `inputs` and `--output`, which it must write.
pub(crate) fn convert(
    cache: &Path,
    script: &Path,
    requirements: &str,
    inputs: &[(&str, PathBuf)],
    output: &Path,
) -> Result<()> {
    let packages = python_packages(cache, requirements)?;
    tracing::info!(script = %script.display(), "building a model");
    let mut python = command::python();
    python.env("PYTHONPATH", &packages).args(["-B", "-s"]).arg(script);
    for (key, path) in inputs {
        python.arg(format!("--{key}")).arg(path);
    }
    python.arg("--output").arg(output);
    command::run(&mut python, "see what the converter said").map(drop)
}
