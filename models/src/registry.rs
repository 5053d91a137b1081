//! The registry of models, which are loaded once and shared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenote_base::sync::Mutex;
use cenote_base::{ByteSize, Context, Result};

use crate::fetch::cache;
use crate::files::embedded;
use crate::files::locate::Files;
use crate::files::manifest::Manifest;
use crate::run::model::Model;
use crate::run::runtime::{LibrarySearch, Provider, Runtime, SessionOptions};
use crate::run::text::TextEncoder;
use crate::run::tokenizer::Tokenizer;

/// Memory of a session: about `SESSION_FILES` times the bytes of the model's file, for the weights as stored and as the
/// kernels need them, and for the tensors between layers.
const SESSION_FILES: u64 = 4;

/// The settings of a [`ModelRegistry`].
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// The directory for fetched and built files. `None`: [`default_cache_dir`](crate::default_cache_dir).
    pub cache_dir: Option<PathBuf>,
    /// The directory of the user's own manifests. `None`: `$CENOTE_MODELS`, else `manifests` in the cache directory.
    pub manifest_dir: Option<PathBuf>,
    /// The path of ONNX Runtime's shared library. `None`: the first of the places that [`Runtime`] lists.
    pub onnxruntime: Option<PathBuf>,
    /// The threads of a session. Results may differ in the last bits between settings.
    pub threads_per_session: usize,
    /// Open sessions of a model, at most, each of which holds the model's weights. `None`: as many as CPU cores.
    pub sessions_max: Option<usize>,
    /// Bytes that the sessions of a model hold together, at most; one session may always be open. `None`: any number.
    pub sessions_bytes_max: Option<ByteSize>,
    /// The hardware that runs models.
    pub provider: Provider,
    /// Whether packages may be fetched from registries. Otherwise only installed and cached files are used.
    pub fetch: bool,
}

impl Default for ModelOptions {
    /// Returns one thread per session, as many sessions as cores, and fetching on.
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

/// The state of a model in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// The name of the model.
    pub name: String,
    /// The version of the model.
    pub version: String,
    /// The kind of its source: `package`, `build`, `local` …
    pub source: &'static str,
    /// ONNX Runtime's name of the execution provider that runs it, if it is loaded.
    pub provider: Option<&'static str>,
    /// The number of open sessions.
    pub sessions: usize,
}

/// A value that is loaded once, by the first caller, while others wait.
type Slot<T> = Arc<Mutex<Option<Arc<T>>>>;

/// The models of a process: the built-in ones and the user's, which replace built-in ones of the same name.
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
    search: LibrarySearch,
    session_options: SessionOptions,
    sessions_max: usize,
    sessions_bytes_max: Option<ByteSize>,
    models: Mutex<HashMap<String, Slot<Model>>>,
    tokenizers: Mutex<HashMap<(String, usize), Slot<Tokenizer>>>,
}

impl ModelRegistry {
    /// Makes a registry with the built-in manifests and those of the manifest directory, without fetching or loading.
    ///
    /// # Errors
    /// `InvalidInput` for a manifest that cannot be parsed, and without a cache directory.
    pub fn new(options: ModelOptions) -> Result<Self> {
        let cache = options.cache_dir.map_or_else(cache::default_cache_dir, Ok)?;
        let variable = std::env::var_os("CENOTE_MODELS").filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = options.manifest_dir.or(variable).unwrap_or_else(|| cache.join("manifests"));
        let built_in = embedded::MANIFESTS.iter().map(|(file, text)| Manifest::parse(text, file));
        let mut manifests = built_in.collect::<Result<Vec<_>>>()?;
        manifests.extend(Manifest::read_directory(&directory)?);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads_per_session.max(1);
        Ok(Self {
            search: LibrarySearch { explicit: options.onnxruntime, cache: cache.clone(), fetch: options.fetch },
            files: Files::new(cache, options.fetch, manifests),
            session_options: SessionOptions { threads, provider: options.provider },
            sessions_max: options.sessions_max.unwrap_or_else(cores).max(1),
            sessions_bytes_max: options.sessions_bytes_max,
            models: Mutex::default(),
            tokenizers: Mutex::default(),
        })
    }

    /// Returns the directory of fetched and built files.
    pub fn cache_dir(&self) -> &Path {
        self.files.cache_dir()
    }

    /// Lists all manifests, in the order of their names.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.files.manifests()
    }

    /// Returns the manifest of the model `name`.
    ///
    /// # Errors
    /// `NotFound`, with the known name most like it.
    pub fn manifest(&self, name: &str) -> Result<&Manifest> {
        self.files.manifest(name)
    }

    /// Returns the hash that identifies the model and its files, which is part of the fingerprint of every value
    /// derived by the model. It comes from the manifest, without fetching or loading; only local files without `sha256`
    /// in the manifest are read.
    ///
    /// # Errors
    /// `NotFound` for an unknown name or a missing local file.
    pub fn model_hash(&self, name: &str) -> Result<String> {
        self.files.model_hash(name)
    }

    /// Finds, fetches or builds the model's file, as its source says, and returns its path.
    ///
    /// # Errors
    /// `NotFound` for an unknown name or a missing local file, `Unavailable` when fetching or building fails or is off,
    /// `Corrupt` when the file is not the one that the manifest names, `Unsupported` for a hub file not supplied by
    /// hand.
    pub fn model_file(&self, name: &str) -> Result<PathBuf> {
        self.files.model_file(name)
    }

    /// Finds, fetches or builds the file that the model's manifest lists under `files` as `role`, and returns its path.
    ///
    /// # Errors
    /// Those of [`model_file`](Self::model_file).
    pub fn file(&self, name: &str, role: &str) -> Result<PathBuf> {
        self.files.file(name, role)
    }

    /// Returns the model `name`, which the first call loads and all calls share.
    ///
    /// # Errors
    /// Those of [`model_file`](Self::model_file), and `NotFound` when ONNX Runtime is not found.
    pub fn model(&self, name: &str) -> Result<Arc<Model>> {
        let manifest = self.manifest(name)?;
        let slot = Arc::clone(self.models.lock().entry(name.to_owned()).or_default());
        shared(&slot, || {
            let path = self.model_file(name)?;
            let runtime = Runtime::load(&self.search)?;
            let hash = self.model_hash(name)?;
            let sessions_max = self.sessions_of(&path)?;
            Model::load(manifest.clone(), hash, path, runtime, self.session_options, sessions_max)
                .map_err(|error| error.context(format!("load model `{name}`")))
        })
    }

    /// Returns the maximum number of open sessions of the model at `path`.
    fn sessions_of(&self, path: &Path) -> Result<usize> {
        let Some(bytes_max) = self.sessions_bytes_max else { return Ok(self.sessions_max) };
        let bytes = std::fs::metadata(path).context(|| format!("look at model {}", path.display()))?.len();
        let fitting = usize::try_from(bytes_max.0 / (SESSION_FILES * bytes).max(1)).unwrap_or(usize::MAX);
        Ok(self.sessions_max.min(fitting).max(1))
    }

    /// Returns the tokenizer of the model `name`, its file `tokenizer`, which truncates texts to `tokens_max` tokens.
    /// The first call reads it, and all calls share it.
    ///
    /// # Errors
    /// Those of [`file`](Self::file), and `Corrupt` when the file is not a tokenizer.
    pub fn tokenizer(&self, name: &str, tokens_max: usize) -> Result<Arc<Tokenizer>> {
        let slot = Arc::clone(self.tokenizers.lock().entry((name.to_owned(), tokens_max)).or_default());
        shared(&slot, || Tokenizer::from_file(&self.file(name, "tokenizer")?, tokens_max))
    }

    /// Makes a sentence encoder over the model `name`, which reads at most `tokens_max` tokens of a text.
    ///
    /// # Errors
    /// Those of [`model`](Self::model) and [`tokenizer`](Self::tokenizer).
    pub fn text_encoder(&self, name: &str, tokens_max: usize) -> Result<TextEncoder> {
        TextEncoder::new(self.model(name)?, self.tokenizer(name, tokens_max)?)
    }

    /// Returns ONNX Runtime, which the first call in the process loads.
    ///
    /// # Errors
    /// `NotFound`, naming every place that was searched.
    pub fn runtime(&self) -> Result<Runtime> {
        Runtime::load(&self.search)
    }

    /// Returns the state of every model, in the order of their names.
    pub fn status(&self) -> Vec<ModelStatus> {
        let models = self.models.lock();
        let status = |manifest: &Manifest| {
            // A model that is still loading counts as not loaded.
            let slot = models.get(&manifest.name).and_then(|slot| slot.try_lock().and_then(|model| model.clone()));
            ModelStatus {
                name: manifest.name.clone(),
                version: manifest.version.clone(),
                source: manifest.source.kind(),
                provider: slot.as_ref().map(|model| model.provider()),
                sessions: slot.as_ref().map_or(0, |model| model.sessions()),
            }
        };
        self.files.manifests().map(status).collect()
    }
}

fn shared<T>(slot: &Mutex<Option<Arc<T>>>, load: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    let mut slot = slot.lock();
    if let Some(value) = slot.as_ref() {
        return Ok(Arc::clone(value));
    }
    Ok(Arc::clone(slot.insert(Arc::new(load()?))))
}
