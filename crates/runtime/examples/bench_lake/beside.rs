//! The measured side of `make bench-beside`: durable upserts of 100 rows of 128 numbers, at rest and beside long work
//! on the same table (a join of its files, a collection of its past, an index build); and updates of one column in
//! `ROWS` rows that have media.
//!
//! `bench_lake beside ROWS VERSIONS LAKE_DIRECTORY` loads `ROWS` rows in eight parts, makes `VERSIONS` versions of one
//! row for the collection, and prints one JSON line.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cenote_runtime::arrow::array::{ArrayRef, Int64Array, LargeBinaryArray, RecordBatch};
use cenote_runtime::arrow::datatypes::{DataType, Field, Schema};
use cenote_runtime::{
    DURABILITY_PROPERTY, Error, IndexKind, IndexSpec, Lake, Result, Table, TableSpec, VectorOptions, VectorStructure,
    blob_field,
};
use serde_json::{Map, Value};

use crate::upsert::{Keys, batch, percentile};
use crate::{new_lake, no_rows};

const CALL_ROWS: usize = 100;
/// Upserts at rest, each `PAUSE` after the one before, as beside work.
const CALLS: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(10);
const PARTS: i64 = 8;
const MEDIA_BYTES: usize = 256;
const UPDATES: usize = 200;

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
    bench.beside("collect", async move { collecting.collect(Some(Duration::ZERO)).await.map(drop) }).await?;
    let options = VectorOptions { structure: VectorStructure::IvfHnswSq, ..VectorOptions::default() };
    let spec = IndexSpec::new("vector", IndexKind::Vector(options));
    bench.beside("build", async move { table.create_index(spec).await.map(drop) }).await?;
    update_beside_media(rows, &lake, &mut bench.report).await?;
    Ok(Value::Object(bench.report))
}

/// Measures updates of a number in one row, and in 100, of `rows` that have media too.
async fn update_beside_media(rows: i64, lake: &Lake, report: &mut Map<String, Value>) -> Result<()> {
    let fields = [Field::new("id", DataType::Int64, false), Field::new("payload", DataType::Int64, true)];
    let schema = Arc::new(Schema::new(fields.into_iter().chain([blob_field("media")]).collect::<Vec<_>>()));
    let table = lake.create_table("media", TableSpec::new(Arc::clone(&schema), ["id"])).await?;
    for part in 0..PARTS {
        let ids = || rows * part / PARTS..rows * (part + 1) / PARTS;
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(ids()));
        let media = LargeBinaryArray::from_iter_values(ids().map(|id| [id as u8; MEDIA_BYTES]));
        let columns = vec![Arc::clone(&numbers), numbers, Arc::new(media)];
        table.upsert(RecordBatch::try_new(Arc::clone(&schema), columns).map_err(no_rows)?).await?;
    }
    let mut keys = Keys { next: 0, range: rows };
    for (name, size) in [("update_1", 1), ("update_100", 100)] {
        let mut times_ms = Vec::with_capacity(UPDATES);
        for call in 0..UPDATES as i64 {
            let values: ArrayRef = Arc::new(Int64Array::from(vec![-call; size]));
            let batch = [("id", Arc::new(Int64Array::from(keys.take(size))) as ArrayRef), ("payload", values)];
            let batch = RecordBatch::try_from_iter(batch).map_err(no_rows)?;
            let start = Instant::now();
            table.update(batch).await?;
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        report.insert(format!("{name}_p50_ms"), percentile(&times_ms, 0.5).into());
        report.insert(format!("{name}_p99_ms"), percentile(&times_ms, 0.99).into());
    }
    Ok(())
}

struct Bench {
    table: Table,
    keys: Keys,
    report: Map<String, Value>,
}

impl Bench {
    /// Measures upserts until `work` is done.
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

    /// Makes versions without syncing each, because they are not measured.
    async fn make_versions(&mut self, versions: usize) -> Result<()> {
        let durability =
            |value: Option<&str>| BTreeMap::from([(DURABILITY_PROPERTY.to_owned(), value.map(str::to_owned))]);
        self.table.set_properties(durability(Some("relaxed"))).await?;
        for _ in 0..versions {
            self.table.upsert(batch(self.keys.take(1))?).await?;
        }
        self.table.set_properties(durability(None)).await.map(drop)
    }
}
