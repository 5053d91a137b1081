//! The measured side of `make bench-lookup`: rows by key, one and 100 at a time, before and after small upserts.
//!
//! `bench_lake lookup ROWS GETS TAKES UPSERTS KEYS_FILE DIRECTORY` prints one JSON line; `benches/lookup/run.py`
//! describes the file.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cenote_runtime::arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use cenote_runtime::arrow::datatypes::{DataType, Field, Int64Type};
use cenote_runtime::{Error, Result, Table, TableSpec};
use serde_json::{Map, Value, json};

use crate::{new_lake, no_rows};

const NUMBERS: i64 = 8;
const CALL_ROWS: usize = 100;
const LOAD_ROWS: usize = 1_000_000;

/// The remaining keys of the file, and the findings so far.
struct Work {
    table: Table,
    keys: std::vec::IntoIter<i64>,
    found: usize,
    payload_sum: i64,
    report: Map<String, Value>,
}

pub async fn measure(arguments: &[String]) -> Result<Value> {
    let usage = || Error::invalid_input("usage: bench_lake lookup ROWS GETS TAKES UPSERTS KEYS_FILE DIRECTORY");
    let [counts @ .., keys, directory] = arguments else { return Err(usage()) };
    let counts: Vec<usize> = counts.iter().map(|count| count.parse().map_err(|_| usage())).collect::<Result<_>>()?;
    let [rows, gets, takes, upserts] = counts[..] else { return Err(usage()) };
    let keys = std::fs::read(keys)?.as_chunks().0.iter().map(|key| i64::from_le_bytes(*key)).collect::<Vec<_>>();

    let table = load(rows, &Path::new(directory).join("lake")).await?;
    let mut work = Work { table, keys: keys.into_iter(), found: 0, payload_sum: 0, report: Map::new() };
    work.look_up("loaded", gets, takes).await?;
    for call in 1..=upserts as i64 {
        let ids = work.keys.by_ref().take(CALL_ROWS).collect();
        work.table.upsert(batch(ids, |_| -call)?).await?;
    }
    work.look_up("upserted", gets, takes).await?;
    work.report.insert("found".to_owned(), json!(work.found));
    work.report.insert("payload_sum".to_owned(), json!(work.payload_sum));
    Ok(Value::Object(work.report))
}

async fn load(rows: usize, directory: &Path) -> Result<Table> {
    let lake = new_lake(directory).await?;
    let schema = batch(Vec::new(), |id| id)?.schema();
    let table = lake.create_table("rows", TableSpec::new(schema, ["id"])).await?;
    for first in (0..rows).step_by(LOAD_ROWS) {
        let ids = (first as i64..rows.min(first + LOAD_ROWS) as i64).collect();
        table.upsert(batch(ids, |id| id)?).await?;
    }
    Ok(table)
}

impl Work {
    async fn look_up(&mut self, when: &str, gets: usize, takes: usize) -> Result<()> {
        for (name, size, calls) in [("get", 1, gets), ("take", CALL_ROWS, takes)] {
            let mut times_ms = Vec::with_capacity(calls);
            for _ in 0..calls {
                let keys: ArrayRef = Arc::new(self.keys.by_ref().take(size).collect::<Int64Array>());
                let keys = RecordBatch::try_from_iter([("id", keys)]).map_err(no_rows)?;
                let start = Instant::now();
                let found = self.table.snapshot().await?.get(&keys, None).await?;
                times_ms.push(start.elapsed().as_secs_f64() * 1e3);
                self.found += found.num_rows();
                if size == 1 {
                    self.payload_sum += found["payload"].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
                }
            }
            self.report.insert(format!("{name}_{when}_ms"), json!(times_ms));
        }
        Ok(())
    }
}

fn batch(ids: Vec<i64>, payload: impl Fn(i64) -> i64) -> Result<RecordBatch> {
    let numbers = ids.iter().flat_map(|id| (0..NUMBERS).map(move |at| id * NUMBERS + at));
    let numbers: Float32Array =
        numbers.map(|number| (((number * 2_654_435_761) & 0xFFFF_FFFF) as f64 / 2f64.powi(32)) as f32).collect();
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let lists = FixedSizeListArray::try_new(item, NUMBERS as i32, Arc::new(numbers), None).map_err(no_rows)?;
    let payloads: Int64Array = ids.iter().map(|id| payload(*id)).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, false),
        ("numbers", Arc::new(lists), true),
        ("payload", Arc::new(payloads), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).map_err(no_rows)
}
