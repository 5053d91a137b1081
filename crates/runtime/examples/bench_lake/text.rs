//! The measured side of `make bench-text`: full-text searches through a table.
//!
//! `bench_lake text TEXTS QUERIES DIRECTORY` prints one JSON line. TEXTS and QUERIES are files with one text or query a
//! line; rows are numbered from 0.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cenote_runtime::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use cenote_runtime::arrow::datatypes::Int64Type;
use cenote_runtime::{Error, IndexKind, IndexSpec, Result, Search, Table, TableSpec};
use serde_json::{Map, Value, json};

use crate::{new_lake, no_rows};

const K: usize = 10;
const LOAD_ROWS: usize = 50_000;
/// Every `CHANGED`-th row is changed, or, every `DELETED`-th of them, deleted.
const CHANGED: usize = 100;
const DELETED: usize = 10;
/// Changed rows that are searched by their new texts, at most.
const LOOKED_UP: usize = 300;

pub async fn measure(arguments: &[String]) -> Result<Value> {
    let usage = || Error::invalid_input("usage: bench_lake text TEXTS QUERIES DIRECTORY");
    let [texts, queries, directory] = arguments else { return Err(usage()) };
    let (texts, queries) = (std::fs::read_to_string(texts)?, std::fs::read_to_string(queries)?);
    let (texts, queries): (Vec<&str>, Vec<&str>) = (texts.lines().collect(), queries.lines().collect());

    let directory = Path::new(directory).join("lake");
    let lake = new_lake(&directory).await?;
    let table = lake.create_table("pages", TableSpec::new(batch::<&str>(&[], &[])?.schema(), ["id"])).await?;
    let ids: Vec<i64> = (0..texts.len() as i64).collect();
    for (ids, texts) in ids.chunks(LOAD_ROWS).zip(texts.chunks(LOAD_ROWS)) {
        table.upsert(batch(ids, texts)?).await?;
    }
    table.fold().await?;
    let mut report = Map::new();
    let start = Instant::now();
    table.create_index(IndexSpec::new("text", IndexKind::full_text())).await?;
    report.insert("build_s".to_owned(), json!(start.elapsed().as_secs_f64()));
    report.insert("index_bytes".to_owned(), json!(bytes_under(&directory.join("tables/pages.lance/_indices"))?));

    let mut gone = BTreeSet::new();
    search(&table, &queries, &gone).await?;
    report.insert("before".to_owned(), search(&table, &queries, &gone).await?.0);

    let chosen: Vec<i64> = ids.iter().copied().step_by(CHANGED).collect();
    let (deleted, changed): (Vec<i64>, Vec<i64>) =
        chosen.iter().partition(|id| (**id as usize / CHANGED).is_multiple_of(DELETED));
    let new: Vec<String> = changed.iter().map(|id| format!("{} renewed{id}", texts[*id as usize])).collect();
    let start = Instant::now();
    table.upsert(batch(&changed, &new)?).await?;
    let keys: Vec<Vec<String>> = deleted.iter().map(|id| vec![id.to_string()]).collect();
    table.delete_keys(&keys).await?;
    let mut found = find(&table, &changed[0].to_string()).await?;
    report.insert("change_s".to_owned(), json!(start.elapsed().as_secs_f64()));
    let sample = &changed[..changed.len().min(LOOKED_UP)];
    for id in &sample[1..] {
        found += find(&table, &id.to_string()).await?;
    }
    report.insert("found".to_owned(), json!(found as f64 / sample.len() as f64));
    gone.extend(deleted);
    let (changed, gone) = search(&table, &queries, &gone).await?;
    report.insert("changed".to_owned(), changed);
    report.insert("gone".to_owned(), json!(gone));
    lake.release().await?;
    Ok(Value::Object(report))
}

fn batch<S: AsRef<str>>(ids: &[i64], texts: &[S]) -> Result<RecordBatch> {
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("id", Arc::new(Int64Array::from(ids.to_vec())), false),
        ("text", Arc::new(StringArray::from_iter_values(texts)), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).map_err(no_rows)
}

fn bytes_under(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        bytes += if entry.path().is_dir() { bytes_under(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

async fn ask(table: &Table, text: &str) -> Result<Vec<i64>> {
    let search = Search::new(K).text_in("text", text).columns(["id"]);
    Ok(table.search(&search).await?["id"].as_primitive::<Int64Type>().values().to_vec())
}

/// Returns 1 if a search by its new text finds the row `id` alone, and 0 otherwise.
async fn find(table: &Table, id: &str) -> Result<usize> {
    let found = ask(table, &format!("renewed{id}")).await?;
    Ok(usize::from(found.len() == 1 && found[0].to_string() == id))
}

/// Returns the milliseconds of each search and the count of all hits, and how many of these are `gone`.
async fn search(table: &Table, queries: &[&str], gone: &BTreeSet<i64>) -> Result<(Value, usize)> {
    let (mut times_ms, mut hits) = (Vec::new(), Vec::new());
    for query in queries {
        let start = Instant::now();
        hits.extend(ask(table, query).await?);
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let gone = hits.iter().filter(|id| gone.contains(id)).count();
    Ok((json!({ "times_ms": times_ms, "hits": hits.len() }), gone))
}
