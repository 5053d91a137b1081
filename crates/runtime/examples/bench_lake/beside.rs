//! The measured side of `make bench-beside`: durable upserts of 100 rows of 128 numbers while the table's files are joined, its past is
//! collected and an index of it is built, against those of the table at rest.
//!
//! `bench_lake beside ROWS VERSIONS LAKE_DIRECTORY` loads `ROWS` rows in eight parts, makes `VERSIONS` versions of one row for the
//! collection, and prints one JSON line.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cenote_runtime::{
    DURABILITY_PROPERTY, Error, IndexKind, IndexSpec, Result, Table, TableSpec, VectorOptions, VectorStructure,
};
use serde_json::{Map, Value};

use crate::new_lake;
use crate::upsert::{Keys, batch, percentile};

const CALL_ROWS: usize = 100;
/// Upserts at rest, each some time after the one before, as they are beside work.
const CALLS: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(10);
const PARTS: i64 = 8;

pub async fn measure(arguments: &[String]) -> Result<Value> {
    let usage = || Error::invalid_input("usage: bench_lake beside ROWS VERSIONS LAKE_DIRECTORY");
    let [rows, versions, directory] = arguments else { return Err(usage()) };
    let rows: i64 = rows.parse().map_err(|_| usage())?;
    let versions: usize = versions.parse().map_err(|_| usage())?;
    let lake = new_lake(Path::new(directory)).await?;
    let table = lake.create_table("vectors", TableSpec::new(batch(vec![0])?.schema(), ["id"])).await?;
    for part in 0..PARTS {
        table.upsert(batch((rows * part / PARTS..rows * (part + 1) / PARTS).collect())?).await?;
    }
    let keys = Keys { next: 0, range: 2 * rows };
    let mut bench = Bench { table: table.clone(), keys, report: Map::new() };

    let rest = async {
        tokio::time::sleep(PAUSE * CALLS as u32).await;
        Ok(())
    };
    bench.beside("rest", rest).await?;
    let joining = table.clone();
    bench.beside("join", async move { joining.compact(false).await.map(drop) }).await?;
    bench.make_versions(versions).await?;
    let collecting = table.clone();
    bench.beside("collect", async move { collecting.stored().collect(Some(Duration::ZERO)).await.map(drop) }).await?;
    let options = VectorOptions { structure: VectorStructure::IvfHnswSq, ..VectorOptions::default() };
    let spec = IndexSpec::new("vector", IndexKind::Vector(options));
    bench.beside("build", async move { table.create_index(spec).await.map(drop) }).await?;
    Ok(Value::Object(bench.report))
}

struct Bench {
    table: Table,
    keys: Keys,
    report: Map<String, Value>,
}

impl Bench {
    /// Upserts until `work` is done.
    async fn beside(&mut self, name: &str, work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        let start = Instant::now();
        let work = tokio::spawn(async move { work.await.map(|()| start.elapsed().as_secs_f64()) });
        let mut times_ms = Vec::new();
        while !work.is_finished() {
            let batch = batch(self.keys.take(CALL_ROWS))?;
            let start = Instant::now();
            self.table.upsert(batch).await?;
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(PAUSE).await;
        }
        let seconds = work.await.map_err(|source| Error::internal("the work ended early").with_source(source))??;
        for (figure, value) in [
            ("s", seconds),
            ("p50_ms", percentile(&times_ms, 0.5)),
            ("p99_ms", percentile(&times_ms, 0.99)),
            ("max_ms", percentile(&times_ms, 1.0)),
        ] {
            self.report.insert(format!("{name}_{figure}"), value.into());
        }
        self.report.insert(format!("{name}_calls"), times_ms.len().into());
        Ok(())
    }

    /// Without syncing each: they are not what is measured.
    async fn make_versions(&mut self, versions: usize) -> Result<()> {
        let durability =
            |value: Option<&str>| BTreeMap::from([(DURABILITY_PROPERTY.to_owned(), value.map(str::to_owned))]);
        self.table.stored().set_properties(durability(Some("relaxed"))).await?;
        for _ in 0..versions {
            self.table.upsert(batch(self.keys.take(1))?).await?;
        }
        self.table.stored().set_properties(durability(None)).await.map(drop)
    }
}
