//! Models by name: found, fetched or built, loaded once and shared.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Context, Result};

use crate::fetch::cache;
use crate::files::embedded;
use crate::files::locate::Files;
use crate::files::manifest::Manifest;
use crate::run::model::Model;
use crate::run::runtime::{Provider, Runtime, Search};
use crate::run::text::TextEncoder;
use crate::run::tokenizer::Tokenizer;

/// A session holds about this many times the bytes of its model's file: its weights, as they are and as its kernels
/// want them, and what lies between its layers.
const SESSION_FILES: u64 = 4;

/// The settings of a [`ModelRegistry`].
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Where fetched and built files are kept. `None`: [`default_cache_dir`](crate::default_cache_dir).
    pub cache_dir: Option<PathBuf>,
    /// The user's own manifests. `None`: the directory in `CENOTE_MODELS`, else `manifests` in the cache directory.
    pub manifest_dir: Option<PathBuf>,
    /// ONNX Runtime's shared library. `None`: looked for as [`Runtime`] says.
    pub onnxruntime: Option<PathBuf>,
    /// Threads that one session uses for one run. Results may differ in the last bits between settings.
    pub threads_per_session: usize,
    /// Sessions of one model that may be open at a time; each holds the model's weights. `None`: as many as CPU cores.
    pub sessions_max: Option<usize>,
    /// Bytes that the sessions of one model may hold together; one may be open whatever it holds. `None`: any number.
    pub sessions_bytes_max: Option<ByteSize>,
    /// What runs them.
    pub provider: Provider,
    /// Whether packages may be fetched from registries; when off, only what is installed or cached is used.
    pub fetch: bool,
}

impl Default for ModelOptions {
    /// One thread a session, as many sessions as cores, fetching on.
    fn default() -> Self {
        Self {
            cache_dir: None,
            manifest_dir: None,
            onnxruntime: None,
            threads_per_session: 1,
            sessions_max: None,
            sessions_bytes_max: None,
            provider: Provider::default(),
            fetch: true,
        }
    }
}

/// What a registry knows of a model at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The kind of its source: `package`, `build`, `local` …
    pub source: &'static str,
    /// What runs it, if it is loaded.
    pub provider: Option<&'static str>,
    /// How many sessions are open.
    pub sessions: usize,
}

type Slot<T> = Arc<Mutex<Option<Arc<T>>>>;

/// The models a process knows: the built-in ones and the user's, which replace built-in ones of the same name.
///
/// ```no_run
/// use cenote_models::{ModelOptions, ModelRegistry};
///
/// let models = ModelRegistry::new(ModelOptions::default())?;
/// let vector = models.text_encoder("minilm", 256)?.embed("a red car")?;
/// assert_eq!(vector.len(), 384);
/// # Ok::<(), cenote_base::Error>(())
/// ```
pub struct ModelRegistry {
    files: Files,
    search: Search,
    threads: usize,
    provider: Provider,
    sessions_max: usize,
    sessions_bytes_max: Option<ByteSize>,
    models: Mutex<HashMap<String, Slot<Model>>>,
    tokenizers: Mutex<HashMap<(String, usize), Slot<Tokenizer>>>,
}

impl ModelRegistry {
    /// A registry with the built-in manifests and those of the manifest directory. Fetches and loads nothing.
    ///
    /// # Errors
    /// `InvalidInput` for a manifest that cannot be read, and when there is no cache directory.
    pub fn new(options: ModelOptions) -> Result<Self> {
        let cache = options.cache_dir.map_or_else(cache::default_cache_dir, Ok)?;
        let variable = std::env::var_os("CENOTE_MODELS").filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = options.manifest_dir.or(variable).unwrap_or_else(|| cache.join("manifests"));
        let mut manifests = BTreeMap::new();
        for (file, text) in embedded::MANIFESTS {
            let manifest = Manifest::parse(text, file)?;
            manifests.insert(manifest.name.clone(), manifest);
        }
        for manifest in Manifest::read_directory(&directory)? {
            manifests.insert(manifest.name.clone(), manifest);
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            search: Search { explicit: options.onnxruntime, cache: cache.clone(), fetch: options.fetch },
            files: Files { cache, fetch: options.fetch, manifests },
            threads: options.threads_per_session.max(1),
            provider: options.provider,
            sessions_max: options.sessions_max.unwrap_or_else(cores).max(1),
            sessions_bytes_max: options.sessions_bytes_max,
            models: Mutex::default(),
            tokenizers: Mutex::default(),
        })
    }

    /// The directory in which fetched and built files are kept.
    pub fn cache_dir(&self) -> &Path {
        &self.files.cache
    }

    /// All manifests, by name.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.files.manifests.values()
    }

    /// The manifest of the model `name`.
    ///
    /// # Errors
    /// `NotFound`, with the nearest name there is.
    pub fn manifest(&self, name: &str) -> Result<&Manifest> {
        self.files.manifest(name)
    }

    /// The hash that identifies the model and its files: part of the fingerprint of every value derived by it. Taken from
    /// the manifest; nothing is fetched or loaded. (Local files that their manifest gives no `sha256` for are read.)
    ///
    /// # Errors
    /// `NotFound` for an unknown name or a local file that is not there.
    pub fn model_hash(&self, name: &str) -> Result<String> {
        self.files.model_hash(name)
    }

    /// The path of the model's file, fetched, built or checked as its source says.
    ///
    /// # Errors
    /// `NotFound` for an unknown name or a missing local file, `Unavailable` when fetching or building fails or is off,
    /// `Corrupt` when the file is not the one that the manifest names, `Unsupported` for a hub file not supplied by hand.
    pub fn model_file(&self, name: &str) -> Result<PathBuf> {
        self.files.model_file(name)
    }

    /// The path of the file that the model's manifest lists under `files` as `role`.
    ///
    /// # Errors
    /// As [`model_file`](Self::model_file).
    pub fn file(&self, name: &str, role: &str) -> Result<PathBuf> {
        self.files.file(name, role)
    }

    /// The model `name`, loaded at the first call and shared from then on.
    ///
    /// # Errors
    /// As [`model_file`](Self::model_file), and `NotFound` when ONNX Runtime is nowhere to be found.
    pub fn model(&self, name: &str) -> Result<Arc<Model>> {
        let manifest = self.manifest(name)?;
        let slot = Arc::clone(self.models.lock().entry(name.to_owned()).or_default());
        shared(&slot, || {
            let path = self.model_file(name)?;
            let runtime = Runtime::load(&self.search)?;
            let hash = self.model_hash(name)?;
            let how = (self.threads, self.provider);
            Model::load(manifest.clone(), hash, &path, runtime, how, self.sessions_of(&path)?)
                .map_err(|error| error.context(format!("load model `{name}`")))
        })
    }

    /// How many sessions of the model at `path` may be open.
    fn sessions_of(&self, path: &Path) -> Result<usize> {
        let Some(bytes_max) = self.sessions_bytes_max else { return Ok(self.sessions_max) };
        let bytes = std::fs::metadata(path).context(|| format!("look at model {}", path.display()))?.len();
        let fitting = usize::try_from(bytes_max.0 / (SESSION_FILES * bytes).max(1)).unwrap_or(usize::MAX);
        Ok(self.sessions_max.min(fitting).max(1))
    }

    /// The tokenizer of the model `name` (its file `tokenizer`), cutting texts after `tokens_max` tokens; read once.
    ///
    /// # Errors
    /// As [`file`](Self::file), and `Corrupt` when the file is no tokenizer.
    pub fn tokenizer(&self, name: &str, tokens_max: usize) -> Result<Arc<Tokenizer>> {
        let slot = Arc::clone(self.tokenizers.lock().entry((name.to_owned(), tokens_max)).or_default());
        shared(&slot, || Tokenizer::from_file(&self.file(name, "tokenizer")?, tokens_max))
    }

    /// A sentence encoder over the model `name`, reading at most `tokens_max` tokens of a text.
    ///
    /// # Errors
    /// As [`model`](Self::model) and [`tokenizer`](Self::tokenizer).
    pub fn text_encoder(&self, name: &str, tokens_max: usize) -> Result<TextEncoder> {
        TextEncoder::new(self.model(name)?, self.tokenizer(name, tokens_max)?)
    }

    /// ONNX Runtime, loaded if it is not yet.
    ///
    /// # Errors
    /// `NotFound`, naming every place where it was looked for.
    pub fn runtime(&self) -> Result<Runtime> {
        Runtime::load(&self.search)
    }

    /// The state of every model, by name.
    pub fn status(&self) -> Vec<ModelStatus> {
        let models = self.models.lock();
        let status = |manifest: &Manifest| {
            // A model that is being loaded now counts as not loaded.
            let slot = models.get(&manifest.name).and_then(|slot| slot.try_lock().and_then(|model| model.clone()));
            ModelStatus {
                name: manifest.name.clone(),
                version: manifest.version.clone(),
                source: manifest.source.kind(),
                provider: slot.as_ref().map(|model| model.provider()),
                sessions: slot.as_ref().map_or(0, |model| model.sessions()),
            }
        };
        self.files.manifests.values().map(status).collect()
    }
}

fn shared<T>(slot: &Mutex<Option<Arc<T>>>, load: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    let mut slot = slot.lock();
    if let Some(value) = slot.as_ref() {
        return Ok(Arc::clone(value));
    }
    Ok(Arc::clone(slot.insert(Arc::new(load()?))))
}
