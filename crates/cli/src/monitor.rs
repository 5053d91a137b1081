//! A view of this process for others: over a socket that `cenote top` finds, and over TCP for Prometheus.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cenote_runtime::models::ModelStatus;
use cenote_runtime::sync::Mutex;
use cenote_runtime::{ByteSize, Context, Error, Lake, Progress, Result, SchedulerStatus};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::{memory, output};

/// Time for one request and its answer.
const PATIENCE: Duration = Duration::from_secs(2);
const REQUEST_BYTES_MAX: usize = 4096;

/// The state of a process at one moment, as it answers `cenote top`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProcessView {
    pub process: u32,
    /// The arguments of its command line.
    pub command: String,
    pub lake: String,
    /// The time since it began.
    pub elapsed: Duration,
    /// Its resident memory as the system counts it; 0 where the system does not tell.
    pub resident_bytes: u64,
    pub stages: Vec<StageView>,
    pub models: Vec<ModelView>,
    pub scheduler: SchedulerStatus,
}

/// A model in memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct ModelView {
    pub name: String,
    /// The execution provider that runs it, which may differ from the one requested.
    pub provider: String,
    pub sessions: usize,
}

/// Running work that counts its units.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageView {
    pub name: String,
    pub done: u64,
    pub total: Option<u64>,
    /// The time since it began.
    pub elapsed: Duration,
}

/// A running stage as this process sees it.
struct RunningStage {
    done: u64,
    total: Option<u64>,
    since: Instant,
}

/// The running stages of this process.
static STAGES: Mutex<BTreeMap<String, RunningStage>> = Mutex::new(BTreeMap::new());
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Progress that is recorded for the view of this process and passed on.
pub struct Watched(Arc<dyn Progress>);

impl Watched {
    /// Records progress before it goes to `next`.
    pub fn new(next: Arc<dyn Progress>) -> Self {
        Self(next)
    }
}

impl Progress for Watched {
    fn begin(&self, stage: &str, total: Option<u64>) {
        let begun = RunningStage { done: 0, total, since: Instant::now() };
        STAGES.lock().insert(stage.to_owned(), begun);
        self.0.begin(stage, total);
    }

    fn advance(&self, stage: &str, units: u64) {
        if let Some(begun) = STAGES.lock().get_mut(stage) {
            begun.done += units;
        }
        self.0.advance(stage, units);
    }

    fn end(&self, stage: &str) {
        STAGES.lock().remove(stage);
        self.0.end(stage);
    }
}

fn view(lake: &Lake) -> ProcessView {
    let stages = STAGES.lock();
    let stage = |(name, begun): (&String, &RunningStage)| StageView {
        name: name.clone(),
        done: begun.done,
        total: begun.total,
        elapsed: begun.since.elapsed(),
    };
    let stages = stages.iter().map(stage).collect();
    let loaded = |model: ModelStatus| {
        Some(ModelView { provider: model.provider?.to_owned(), name: model.name, sessions: model.sessions })
    };
    ProcessView {
        process: std::process::id(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        lake: lake.location().display().to_string(),
        elapsed: BEGAN.elapsed(),
        resident_bytes: memory::resident().unwrap_or(ByteSize(0)).0,
        stages,
        models: lake.models().status().into_iter().filter_map(loaded).collect(),
        scheduler: lake.scheduler().status(),
    }
}

/// The servers of this process's view, which answer until this is dropped.
pub struct Monitor {
    _servers: JoinSet<()>,
    socket: PathBuf,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // A socket that is left behind is removed by the next process that fails to connect to it.
        drop(std::fs::remove_file(&self.socket));
    }
}

/// Serves the view of `lake` in this process to `cenote top`, and to Prometheus at the address `metrics`.
///
/// # Errors
/// `Unavailable` when the address cannot be bound.
pub async fn serve(lake: &Lake, metrics: Option<SocketAddr>) -> Result<Monitor> {
    LazyLock::force(&BEGAN);
    let mut servers = JoinSet::new();
    let socket = directory().join(format!("{}.sock", std::process::id()));
    match listen(&socket) {
        Ok(listener) => {
            let lake = lake.clone();
            servers.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // One request at a time, each with a timeout: an answer is a few kilobytes.
                    drop(tokio::time::timeout(PATIENCE, answer(stream, &lake)).await);
                }
            });
        }
        // The command's own work does not depend on the view.
        Err(error) => output::note(&format!("`cenote top` cannot see this process: {error}")),
    }
    if let Some(address) = metrics {
        let listener = TcpListener::bind(address).await.context(|| format!("listen at {address}"))?;
        let of_metrics = lake.clone();
        servers.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(tokio::time::timeout(PATIENCE, answer(stream, &of_metrics)).await);
            }
        });
    }
    Ok(Monitor { _servers: servers, socket })
}

fn listen(socket: &Path) -> Result<UnixListener> {
    let directory = directory();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.context(|| format!("make {}", directory.display()))?;
    // Without a runtime directory, it is in the shared temporary directory, where another user may have created it.
    let ours =
        std::fs::metadata("/proc/self").and_then(|ours| Ok((ours.uid(), std::fs::symlink_metadata(&directory)?)));
    let (user, found) = ours.context(|| format!("look at {}", directory.display()))?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(Error::unavailable(format!("{} is open to other users", directory.display())));
    }
    // A killed process with the same number may have left a socket.
    drop(std::fs::remove_file(socket));
    UnixListener::bind(socket).context(|| format!("listen at {}", socket.display()))
}

/// Answers one request in HTTP/1.1: `/metrics` or `/view`.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, lake: &Lake) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (status, kind, body) = match request.split(|byte| *byte == b' ').nth(1) {
        Some(b"/metrics") => ("200 OK", "text/plain; version=0.0.4", lake.scheduler().status().to_prometheus()),
        Some(b"/view") => ("200 OK", "application/json", serde_json::to_string(&view(lake))?),
        _ => ("404 Not Found", "text/plain", "there are /metrics and /view\n".to_owned()),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Returns the views of this user's processes that work on a lake, the oldest process first.
pub async fn views() -> Result<Vec<ProcessView>> {
    let directory = directory();
    let mut entries = match tokio::fs::read_dir(&directory).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("list {}", directory.display()))?,
    };
    let mut views = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        let stream = match UnixStream::connect(&path).await {
            // Its process is gone.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                drop(tokio::fs::remove_file(&path).await);
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            stream => stream.context(|| format!("look at {}", path.display()))?,
        };
        match tokio::time::timeout(PATIENCE, ask(stream)).await {
            Ok(Ok(view)) => views.push(view),
            // The process has just ended, or is of another version.
            Ok(Err(error)) => output::note(&format!("{} has no view: {error}", path.display())),
            Err(_) => output::note(&format!("{} does not answer", path.display())),
        }
    }
    views.sort_by_key(|view| std::cmp::Reverse(view.elapsed));
    Ok(views)
}

async fn ask(mut stream: UnixStream) -> Result<ProcessView> {
    stream.write_all(b"GET /view HTTP/1.1\r\nHost: cenote\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |end| end + 4);
    let wrong = |source| Error::corrupt("the process answers in another format").with_source(source);
    serde_json::from_slice(&answer[body..]).map_err(wrong)
}

/// Returns the directory of the sockets of this user's processes.
fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory).join("cenote"),
        None => {
            std::env::temp_dir().join(format!("cenote-{}", std::env::var("USER").unwrap_or_else(|_| "user".to_owned())))
        }
    }
}
