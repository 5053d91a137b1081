//! The measured side of `make bench-upsert`: durable upserts of 1, 100 and 10,000 rows of 128 numbers into a table, and
//! lookups of single keys before and after a fold.
//!
//! `bench_lake upsert ROWS CALLS LAKE_DIRECTORY` loads `ROWS` rows, makes `CALLS` calls of the small sizes, and prints
//! one JSON line.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cenote_runtime::arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use cenote_runtime::arrow::datatypes::{DataType, Field};
use cenote_runtime::{Error, Result, Table, TableSpec};
use serde_json::{Map, Value};

use crate::{new_lake, no_rows};

const DIMENSIONS: i32 = 128;
/// Calls of 10,000 rows.
const LARGE_CALLS: usize = 60;
const LOOKUPS: usize = 2_000;
/// Coprime to every number of rows in use, so that the keys of a call differ.
const STRIDE: i64 = 7_919;

/// A sequence of keys about half of which exist, the same for every contestant.
pub struct Keys {
    pub next: i64,
    pub range: i64,
}

impl Keys {
    pub fn take(&mut self, count: usize) -> Vec<i64> {
        let start = self.next;
        self.next += count as i64;
        (start..self.next).map(|number| number * STRIDE % self.range).collect()
    }
}

pub async fn measure(arguments: &[String]) -> Result<Value> {
    let usage = || Error::invalid_input("usage: bench_lake upsert ROWS CALLS LAKE_DIRECTORY");
    let [rows, calls, directory] = arguments else { return Err(usage()) };
    let rows: usize = rows.parse().map_err(|_| usage())?;
    let calls: usize = calls.parse().map_err(|_| usage())?;
    Ok(Value::Object(run(rows, calls, Path::new(directory)).await?))
}

async fn run(rows: usize, calls: usize, directory: &Path) -> Result<Map<String, Value>> {
    let lake = new_lake(directory).await?;
    let first = batch((0..rows as i64).collect())?;
    let table = lake.create_table("vectors", TableSpec::new(first.schema(), ["id"])).await?;
    table.upsert(first).await?;

    let mut report = Map::new();
    let mut keys = Keys { next: 0, range: 2 * rows as i64 };
    for (size, calls) in [(1, calls), (100, calls), (10_000, LARGE_CALLS)] {
        let mut times_ms = Vec::with_capacity(calls);
        for _ in 0..calls {
            let batch = batch(keys.take(size))?;
            let start = Instant::now();
            table.upsert(batch).await?;
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let tenth = calls.div_ceil(10);
        report.insert(format!("first_{size}_ms"), percentile(&times_ms[..tenth], 0.5).into());
        report.insert(format!("last_{size}_ms"), percentile(&times_ms[calls - tenth..], 0.5).into());
        report.insert(format!("p50_{size}_ms"), percentile(&times_ms, 0.5).into());
        report.insert(format!("p99_{size}_ms"), percentile(&times_ms, 0.99).into());
        let seconds = times_ms.iter().sum::<f64>() / 1e3;
        report.insert(format!("rows_s_{size}"), ((size * calls) as f64 / seconds).into());
    }
    report.insert("lookup_changed_ms".to_owned(), lookups(&table, rows).await?.into());
    table.fold().await?;
    report.insert("lookup_ms".to_owned(), lookups(&table, rows).await?.into());
    report.insert("count".to_owned(), table.snapshot().await?.count(None).await?.into());
    Ok(report)
}

/// Returns the median time of reading one row by its key, in milliseconds.
async fn lookups(table: &Table, rows: usize) -> Result<f64> {
    let mut times_ms = Vec::with_capacity(LOOKUPS);
    for number in 0..LOOKUPS as i64 {
        let key: ArrayRef = Arc::new(Int64Array::from(vec![number * STRIDE % rows as i64]));
        let key = RecordBatch::try_from_iter([("id", key)]).map_err(no_rows)?;
        let start = Instant::now();
        let found = table.get(&key, None).await?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        if found.num_rows() != 1 {
            return Err(Error::internal(format!("key {key:?} gave {} rows", found.num_rows())));
        }
    }
    Ok(percentile(&times_ms, 0.5))
}

pub fn batch(ids: Vec<i64>) -> Result<RecordBatch> {
    let numbers =
        ids.iter().flat_map(|id| (0..i64::from(DIMENSIONS)).map(move |at| ((id * 31 + at * 17) % 1000) as f32));
    let numbers: Float32Array = numbers.collect();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::try_new(item, DIMENSIONS, Arc::new(numbers), None).map_err(no_rows)?;
    let columns = [
        ("id", Arc::new(Int64Array::from(ids.clone())) as ArrayRef, false),
        ("vector", Arc::new(vectors), true),
        ("payload", Arc::new(Int64Array::from(ids)), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).map_err(no_rows)
}

pub fn percentile(times_ms: &[f64], share: f64) -> f64 {
    let mut sorted = times_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}
