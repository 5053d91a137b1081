//! ONNX Runtime: finding its shared library, loading it once in a process, and opening sessions.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use cenote_base::sync::Mutex;
use cenote_base::{Error, Result};
use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use crate::fetch::command;
use crate::fetch::package::{Package, PackageRegistry};

/// The release that is fetched when none is installed.
const VERSION: &str = "1.31.1";

pub(super) const CPU: &str = "CPUExecutionProvider";

/// The library, loaded at most once in a process, because ONNX Runtime allows one environment. The lock is held while
/// the library is opened, and never while it is looked for: that may fetch a wheel.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// ONNX Runtime's loaded library.
///
/// The first of these that loads is taken:
/// 1. the path in the settings (then no other is tried);
/// 2. the path in the environment variable `ORT_DYLIB_PATH` (then no other is tried);
/// 3. a library beside the running program, or in `../lib` from there;
/// 4. the library of the Python package `onnxruntime`, if `python3` has it;
/// 5. the library of that package's wheel in Cenote's cache, fetched if that is allowed;
/// 6. the library on the system's library path.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
}

/// The hardware that runs models. A GPU needs the library of `onnxruntime-gpu`; that of `onnxruntime` has the CPU
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU if ONNX Runtime can use one, else the CPU. [`Model::provider`](crate::Model::provider) says which.
    Auto,
    /// An NVIDIA GPU. Values differ from the CPU's in their last bits.
    Cuda,
}

/// The settings of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionOptions {
    pub(crate) threads: usize,
    pub(crate) provider: Provider,
}

/// A session and ONNX Runtime's name of the execution provider that runs it.
pub(super) struct OpenSession {
    pub(super) session: Session,
    pub(super) provider: &'static str,
}

/// The settings of the search for the library.
#[derive(Debug, Clone)]
pub(crate) struct LibrarySearch {
    /// The path in the settings.
    pub(crate) explicit: Option<PathBuf>,
    pub(crate) cache: PathBuf,
    /// Whether the wheel may be fetched.
    pub(crate) fetch: bool,
}

impl Runtime {
    /// Returns the loaded library; the first call in a process finds and loads it.
    pub(crate) fn load(search: &LibrarySearch) -> Result<Self> {
        let loaded = LOADED.lock().clone();
        loaded.map_or_else(|| find(search), Ok)?.check_same(search)
    }

    /// Returns the path of the library.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Returns the library's own description of its build, which has the version.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Opens a session of the model file.
    pub(super) fn open_session(&self, model: &Path, options: SessionOptions) -> Result<OpenSession> {
        let SessionOptions { threads, provider: wanted } = options;
        let doing = || format!("open model {}", model.display());
        let begin = || -> ort::Result<SessionBuilder> {
            Ok(Session::builder(&self.environment)?
                .with_intra_threads(threads)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(false)?
                .with_deterministic_compute(true)?)
        };
        let mut builder = begin().map_err(|error| failed(doing(), error))?;
        let mut provider = CPU;
        if wanted != Provider::Cpu {
            match CUDA::default().register(&mut builder) {
                Ok(()) => provider = CUDA::NAME,
                Err(reason) if wanted == Provider::Auto => {
                    tracing::debug!(%reason, model = %model.display(), "the model runs on the CPU");
                    builder = begin().map_err(|error| failed(doing(), error))?;
                }
                Err(reason) => {
                    return Err(Error::unsupported(format!(
                        "ONNX Runtime in {} cannot use an NVIDIA GPU: {reason}; set ORT_DYLIB_PATH to the library of \
                         `pip install onnxruntime-gpu`, or run models on the CPU",
                        self.library.display()
                    ))
                    .with_source(reason));
                }
            }
        }
        let session = builder.commit_from_file(model);
        let session = session.map_err(|error| Error::corrupt(format!("{}: {error}", doing())).with_source(error))?;
        Ok(OpenSession { session, provider })
    }

    /// Checks that this is the library that the settings name, if they name one.
    fn check_same(self, search: &LibrarySearch) -> Result<Self> {
        let other = search.explicit.as_ref().filter(|path| !same_file(path, &self.library));
        match other {
            None => Ok(self),
            Some(path) => Err(Error::unsupported(format!(
                "ONNX Runtime cannot be loaded from {}: this process runs {} already, and one process runs one",
                path.display(),
                self.library.display()
            ))),
        }
    }
}

/// Makes an error of ONNX Runtime that is not due to an input.
pub(super) fn failed(doing: String, source: ort::Error) -> Error {
    Error::internal(format!("{doing}: {source}")).with_source(source)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// A place of the search: its name in the error, and a function that returns its library or the reason why it has none.
type Place<'a> = (&'static str, Box<dyn Fn() -> Result<PathBuf, String> + 'a>);

fn find(search: &LibrarySearch) -> Result<Runtime> {
    let variable = env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty()).map(PathBuf::from);
    for (what, path) in [("the settings", &search.explicit), ("ORT_DYLIB_PATH", &variable)] {
        if let Some(path) = path {
            return open(path).map_err(|reason| {
                Error::not_found(format!("ONNX Runtime's library, named by {what}, cannot be loaded: {reason}"))
            });
        }
    }
    let places: [Place<'_>; 4] = [
        ("beside the program", Box::new(beside_program)),
        ("Python package `onnxruntime`", Box::new(in_python)),
        ("Cenote's cache", Box::new(|| in_cache(search))),
        ("the system", Box::new(|| Ok(PathBuf::from(system_name())))),
    ];
    first_of(places)
}

/// Opens the library of the first of `places` that has one.
fn first_of<'a>(places: impl IntoIterator<Item = Place<'a>>) -> Result<Runtime> {
    let mut tried = Vec::new();
    for (what, place) in places {
        match place().and_then(|path| open(&path)) {
            Ok(runtime) => return Ok(runtime),
            Err(reason) => tried.push((what, reason)),
        }
    }
    Err(missing(&tried))
}

fn missing(tried: &[(&'static str, String)]) -> Error {
    let mut message = "ONNX Runtime's library was not found. Looked at:\n".to_owned();
    message.push_str("  the settings and ORT_DYLIB_PATH: not set\n");
    for (what, reason) in tried {
        message.push_str(&format!("  {what}: {reason}\n"));
    }
    message.push_str(&format!(
        "Set ORT_DYLIB_PATH to a libonnxruntime of version 1.{} or newer, or run `pip install onnxruntime=={VERSION}`, \
         or allow fetching.",
        ort::MINOR_VERSION
    ));
    Error::not_found(message)
}

/// Opens the library at `path`, or returns the one that another thread has opened meanwhile.
fn open(path: &Path) -> Result<Runtime, String> {
    let mut loaded = LOADED.lock();
    if let Some(runtime) = loaded.as_ref() {
        return Ok(runtime.clone());
    }
    let environment = ort::init_from(path)
        .map_err(|error| error.to_string())?
        .with_name("cenote")
        .with_telemetry(false)
        .build()
        .map_err(|error| error.to_string())?;
    tracing::info!(library = %path.display(), "loaded ONNX Runtime");
    Ok(loaded.insert(Runtime { environment, library: path.to_path_buf() }).clone())
}

fn beside_program() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let directory = program.parent().unwrap_or(Path::new("."));
    let places = [directory.to_path_buf(), directory.join("../lib")];
    let found = places.iter().find_map(|place| library_in(place));
    found.ok_or_else(|| format!("none in {} and ../lib", directory.display()))
}

fn in_python() -> Result<PathBuf, String> {
    let mut python = command::python();
    // `find_spec` finds the package without importing it, which would load the library into Python.
    python
        .args(["-c", "from importlib.util import find_spec as f; s = f('onnxruntime'); print(s.origin if s else '')"]);
    let origin = command::run(&mut python, "skip this place").map_err(|error| error.message().to_owned())?;
    let package = Path::new(origin.trim()).parent().filter(|path| path.is_dir()).ok_or("not installed")?;
    library_in(&package.join("capi")).ok_or_else(|| format!("no library in {}", package.join("capi").display()))
}

fn in_cache(search: &LibrarySearch) -> Result<PathBuf, String> {
    let (package, member) = wheel().ok_or("no wheel is known for this platform")?;
    if !search.fetch && package.fetched(&search.cache).is_none() {
        return Err(format!("not in {}, and fetching is off", search.cache.display()));
    }
    package.member(&search.cache, &member).map_err(|error| error.message().to_owned())
}

/// Returns the wheel with the library for this platform, and the library's path inside it.
fn wheel() -> Option<(Package, String)> {
    let (platform, sha256) = match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => {
            ("manylinux_2_28_x86_64", "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536")
        }
        ("linux", "aarch64") => {
            ("manylinux_2_28_aarch64", "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc")
        }
        ("macos", "aarch64") => {
            ("macosx_14_0_arm64", "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c")
        }
        _ => return None,
    };
    let package = Package::new(PackageRegistry::Pypi, "onnxruntime", VERSION, sha256).for_platform(platform);
    let library = match env::consts::OS {
        "macos" => format!("onnxruntime/capi/libonnxruntime.{VERSION}.dylib"),
        _ => format!("onnxruntime/capi/libonnxruntime.so.{VERSION}"),
    };
    Some((package, library))
}

fn system_name() -> &'static str {
    match env::consts::OS {
        "macos" => "libonnxruntime.dylib",
        "windows" => "onnxruntime.dll",
        _ => "libonnxruntime.so",
    }
}

/// Finds the library in `directory`, with or without a version in its name.
fn library_in(directory: &Path) -> Option<PathBuf> {
    let is_library = |name: &str| {
        name == system_name()
            || name
                .strip_prefix("libonnxruntime.")
                .is_some_and(|rest| rest.starts_with("so.") || rest.ends_with(".dylib"))
    };
    let entries = fs::read_dir(directory).ok()?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| is_library(&name.to_string_lossy())));
    paths.sort();
    paths.into_iter().next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_error_names_every_place_and_what_to_do() {
        let tried = [
            ("beside the program", "none in /opt/bin and ../lib".to_owned()),
            ("Python package `onnxruntime`", "not installed".to_owned()),
            ("Cenote's cache", "not in /cache, and fetching is off".to_owned()),
            ("the system", "no such file".to_owned()),
        ];
        assert_eq!(
            missing(&tried).message(),
            "ONNX Runtime's library was not found. Looked at:\n  \
             the settings and ORT_DYLIB_PATH: not set\n  \
             beside the program: none in /opt/bin and ../lib\n  \
             Python package `onnxruntime`: not installed\n  \
             Cenote's cache: not in /cache, and fetching is off\n  \
             the system: no such file\n\
             Set ORT_DYLIB_PATH to a libonnxruntime of version 1.24 or newer, or run \
             `pip install onnxruntime==1.31.1`, or allow fetching."
        );
    }

    #[test]
    fn a_path_in_the_settings_is_the_only_place() {
        let explicit = Some(PathBuf::from("/nowhere/libonnxruntime.so"));
        let error = find(&LibrarySearch { explicit, cache: PathBuf::new(), fetch: false }).err().unwrap();
        assert!(error.message().contains("named by the settings"), "{error}");
        assert!(error.message().contains("/nowhere/libonnxruntime.so"), "{error}");
    }

    #[test]
    fn no_lock_is_held_while_a_place_is_searched() {
        // A place that fetches may take minutes. This one would wait for ever if the search held the lock.
        let slow = || {
            drop(LOADED.lock());
            Err("the registry is slow".to_owned())
        };
        let place: Place<'_> = ("Cenote's cache", Box::new(slow));
        let error = first_of([place]).err().unwrap();
        assert!(error.message().contains("Cenote's cache: the registry is slow"), "{error}");
    }

    #[test]
    fn providers_are_not_taken_for_the_library() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("libonnxruntime_providers_shared.so"), "").unwrap();
        assert_eq!(library_in(dir.path()), None);
        let library = dir.path().join("libonnxruntime.so.1.31.1");
        fs::write(&library, "").unwrap();
        if env::consts::OS == "linux" {
            assert_eq!(library_in(dir.path()), Some(library));
        }
    }
}
