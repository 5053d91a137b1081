//! Operators in SQL run on the scheduler: on its threads, under its memory budget, and cancelled by it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Field};
use cenote_base::{ByteSize, Error, ErrorKind, Resources};
use cenote_index::Indexes;
use cenote_operator::{Definition, Operator, Output, Port, PortType, Registry, Rows, Worker};
use cenote_query::{QueryEngine, QueryOptions};
use cenote_scheduler::{Scheduler, SchedulerOptions};
use cenote_store::{Store, StoreOptions};

type Process = dyn Fn(&Rows<'_>) -> cenote_base::Result<String> + Send + Sync;

/// An operator that answers every row with what a function returns, and reserves memory.
struct Says {
    outputs: Vec<Field>,
    memory_bytes: u64,
    process: Arc<Process>,
}

struct SaysWorker(Arc<Process>);

impl Operator for Says {
    fn outputs(&self) -> &[Field] {
        &self.outputs
    }

    fn worker(&self) -> cenote_base::Result<Box<dyn Worker>> {
        Ok(Box::new(SaysWorker(Arc::clone(&self.process))))
    }

    fn resources(&self) -> Resources {
        Resources::cpu(1.0).with_memory_bytes(self.memory_bytes)
    }
}

impl Worker for SaysWorker {
    fn process(&mut self, rows: &Rows<'_>) -> cenote_base::Result<Output> {
        let said = (self.0)(rows)?;
        let column: ArrayRef = Arc::new(StringArray::from(vec![said; rows.len()]));
        Ok(vec![column].into())
    }
}

struct Fixture {
    engine: QueryEngine,
    scheduler: Scheduler,
    _directory: tempfile::TempDir,
}

/// Makes an engine with the operator `say`, on a scheduler of four cores and 1,000 bytes.
async fn fixture(
    memory_bytes: u64,
    process: impl Fn(&Rows<'_>) -> cenote_base::Result<String> + Send + Sync + 'static,
) -> Fixture {
    let process: Arc<Process> = Arc::new(process);
    let definition = Definition::new("say", 1, "What a test says", move |_params| {
        let outputs = vec![Field::new("said", DataType::Utf8, true)];
        Ok(Box::new(Says { outputs, memory_bytes, process: Arc::clone(&process) }))
    });
    let mut registry = Registry::default();
    registry.register(definition.input(Port::new("text", PortType::Text)));
    let options = SchedulerOptions { cpu_cores: 4.0, memory_max: ByteSize(1000), ..SchedulerOptions::default() };
    let scheduler = Scheduler::new(options).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), StoreOptions::default()).await.unwrap();
    let (options, registry) = (QueryOptions::default(), Arc::new(registry));
    let engine = QueryEngine::new(options, store, Indexes::default(), registry, &scheduler).unwrap();
    Fixture { engine, scheduler, _directory: directory }
}

/// A query over several partitions, which are read side by side.
const ROWS: &str = "SELECT say(word) FROM (SELECT CAST(value AS VARCHAR) AS word FROM generate_series(1, 100000))";

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_in_sql_runs_on_the_schedulers_threads() {
    let thread = |_: &Rows<'_>| Ok(std::thread::current().name().unwrap_or_default().to_owned());
    let fixture = fixture(0, thread).await;
    for sql in ["SELECT say('word')", ROWS] {
        for batch in fixture.engine.sql(sql).await.unwrap().collect().await.unwrap() {
            let threads = batch.column(0).as_string::<i32>();
            assert!(threads.iter().flatten().all(|thread| thread.starts_with("cenote-cpu-")), "{sql}: {threads:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_in_sql_holds_its_memory() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&most);
    let fixture = fixture(600, move |_| {
        counted.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::yield_now();
        running.fetch_sub(1, Ordering::SeqCst);
        Ok(String::new())
    })
    .await;
    fixture.engine.sql(ROWS).await.unwrap().collect().await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 1, "two of them need more than there is");
    assert!(fixture.scheduler.status().counters.completed > 0);

    let larger = self::fixture(2000, |_| Ok(String::new())).await;
    let error = larger.engine.sql("SELECT say('word')").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.message().contains("2000 bytes of memory were asked for; the budget is 1000"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_dropped_stops_its_operators() {
    let (began, mut beginning) = tokio::sync::mpsc::channel(64);
    let (ended, mut ending) = tokio::sync::mpsc::channel(64);
    let fixture = fixture(600, move |rows| -> cenote_base::Result<String> {
        began.try_send(()).map_err(|_| Error::internal("nobody listens"))?;
        loop {
            if let Err(error) = rows.check() {
                let _ = ended.try_send(error.kind());
                return Err(error);
            }
            std::thread::yield_now();
        }
    })
    .await;
    let result = fixture.engine.sql(ROWS).await.unwrap();
    let reading = tokio::spawn(result.collect());
    beginning.recv().await.unwrap();
    reading.abort();
    assert_eq!(ending.recv().await, Some(ErrorKind::Cancelled));
    while !fixture.scheduler.status().running.is_empty() || fixture.scheduler.status().live > 0 {
        tokio::task::yield_now().await;
    }
}
