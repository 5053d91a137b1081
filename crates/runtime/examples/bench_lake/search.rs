//! The measured side of `make bench-fresh`, `bench-filter` and `bench-runbook`, and one side of `bench-ann`: vector
//! searches through a table.
//!
//! `bench_lake search MODE KIND ROWS QUERIES DIMENSION BASE_FILE DIRECTORY` prints one JSON line. BASE_FILE holds
//! vectors of little-endian f32 one after the other; rows beyond its end start over with the vectors mirrored. KIND is
//! that of an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cenote_device::{KernelMetric, nearest};
use cenote_runtime::arrow::array::{ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch};
use cenote_runtime::arrow::datatypes::{DataType, Field, Float32Type, Int64Type};
use cenote_runtime::{Error, IndexKind, IndexSpec, Random, Result, Search, Table, TableSpec};
use serde_json::{Map, Value, json};

use crate::{new_lake, no_rows};

const K: usize = 10;
const CALL_ROWS: usize = 100;
const UPSERTS: usize = 60;
/// The big-ann streaming workload: rounds over clusters, each of which inserts, replaces and deletes rows.
const CLUSTERS: usize = 16;
const ROUNDS: usize = 5;
const TIE: f32 = 1e-6;
/// The recalls that searches are tuned to, and the times that each is measured.
const RECALLS: [f64; 3] = [0.95, 0.99, 0.999];
const PASSES: usize = 3;

struct Work {
    table: Table,
    width: usize,
    base: Vec<f32>,
    /// The vector of each row, by its place in `base`.
    rows: BTreeMap<i64, usize>,
    queries: usize,
    random: Random,
    report: Map<String, Value>,
}

pub async fn measure(arguments: &[String]) -> Result<Value> {
    let usage =
        || Error::invalid_input("usage: bench_lake search MODE KIND ROWS QUERIES DIMENSION BASE_FILE DIRECTORY");
    let [mode, kind, rows, queries, width, base_file, directory] = arguments else { return Err(usage()) };
    let number = |text: &String| text.parse::<usize>().map_err(|_| usage());
    let (rows, queries, width) = (number(rows)?, number(queries)?, number(width)?);
    let mut base = floats(Path::new(base_file))?;
    let mirrored: Vec<f32> = base.chunks(width).flat_map(|vector| vector.iter().rev().copied()).collect();
    base.extend(mirrored);

    let directory = Path::new(directory).join("lake");
    let lake = new_lake(&directory).await?;
    let schema = batch(&[], &[], width)?.schema();
    let table = lake.create_table("rows", TableSpec::new(schema, ["id"])).await?;
    let (random, report) = (Random::new(1), Map::new());
    let mut work = Work { table, width, base, rows: BTreeMap::new(), queries, random, report };
    let spec = IndexSpec::new("vector", IndexKind::parse(kind, [])?);
    match mode.as_str() {
        "fresh" => work.fresh(rows, spec).await?,
        "filter" => work.filter(rows, spec).await?,
        "runbook" => work.runbook(rows, spec).await?,
        "ann" => work.ann(rows, spec, Path::new(base_file)).await?,
        _ => return Err(usage()),
    }
    lake.release().await?;
    Ok(Value::Object(work.report))
}

fn floats(path: &Path) -> Result<Vec<f32>> {
    Ok(std::fs::read(path)?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Returns the CPU seconds of this process's threads.
fn process_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / 100.0)
}

/// Makes rows of `ids` and `vectors`, one after the other; the color of a row is its id modulo 1,000.
fn batch(ids: &[i64], vectors: &[f32], width: usize) -> Result<RecordBatch> {
    let field = Arc::new(Field::new_list_field(DataType::Float32, true));
    let vectors: ArrayRef = Arc::new(Float32Array::from(vectors.to_vec()));
    let vectors = FixedSizeListArray::try_new(field, width as i32, vectors, None).map_err(no_rows)?;
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("id", Arc::new(Int64Array::from(ids.to_vec())), false),
        ("color", Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| id % 1000))), true),
        ("vector", Arc::new(vectors), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).map_err(no_rows)
}

impl Work {
    fn vector(&self, at: usize) -> &[f32] {
        &self.base[at % (self.base.len() / self.width) * self.width..][..self.width]
    }

    /// Returns the squared distance from the vector at `at` to `query`.
    fn distance(&self, at: usize, query: &[f32]) -> f32 {
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        self.vector(at).iter().zip(query).map(square).sum::<f64>() as f32
    }

    async fn put(&mut self, rows: &[(i64, usize)]) -> Result<()> {
        for rows in rows.chunks(50_000) {
            let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
            let vectors: Vec<f32> = rows.iter().flat_map(|(_, at)| self.vector(*at)).copied().collect();
            self.table.upsert(batch(&ids, &vectors, self.width)?).await?;
        }
        self.rows.extend(rows.iter().copied());
        Ok(())
    }

    fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.report.insert(name.to_owned(), value.into());
    }

    async fn load(&mut self, rows: usize, spec: &IndexSpec) -> Result<f64> {
        let rows: Vec<(i64, usize)> = (0..rows).map(|row| (row as i64, row)).collect();
        self.put(&rows).await?;
        self.table.fold().await?;
        let start = Instant::now();
        self.table.create_index(spec.clone()).await?;
        let build_s = start.elapsed().as_secs_f64();
        self.note("build_s", build_s);
        Ok(build_s)
    }

    /// Runs searches one after the other, and compares their answers with all rows: notes the queries a second, the
    /// mean and the worst share of the nearest rows that were found, the rows missing, and the 99th percentile of the
    /// time.
    async fn search(&mut self, name: &str, filter: Option<(String, i64)>) -> Result<()> {
        let queries: Vec<Vec<f32>> = (0..self.queries).map(|_| self.query()).collect();
        let (mut times_ms, mut answers) = (Vec::new(), Vec::new());
        for query in &queries {
            let mut search = Search::new(K).vector("vector", query.clone()).columns(["id"]);
            if let Some((predicate, _)) = &filter {
                search = search.filter(predicate.as_str());
            }
            let start = Instant::now();
            answers.push(self.table.search(&search).await?);
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let below = filter.map_or(i64::MAX, |(_, below)| below);
        let (mut found, mut wanted, mut short, mut worst) = (0, 0, 0, 1.0_f64);
        let fits = |id: i64| id % 1000 < below;
        let rows = self.rows.iter().filter(|(id, _)| fits(**id)).flat_map(|(_, at)| self.vector(*at));
        let rows: Vec<f32> = rows.copied().collect();
        let near = nearest::on_cpu(KernelMetric::SquaredL2, &queries.concat(), &rows, self.width, K)?;
        for ((query, near), got) in queries.iter().zip(&near).zip(&answers) {
            let (right, there) = (self.right(name, query, near.last().map(|hit| hit.distance), fits, got)?, near.len());
            found += right;
            wanted += there;
            short += there - got.num_rows();
            worst = worst.min(right as f64 / there.max(1) as f64);
        }
        times_ms.sort_unstable_by(f64::total_cmp);
        let total_s = times_ms.iter().sum::<f64>() / 1e3;
        let p99 = times_ms[(times_ms.len() * 99 / 100).min(times_ms.len() - 1)];
        let recall = found as f64 / wanted.max(1) as f64;
        let figures = json!({ "qps": self.queries as f64 / total_s, "recall": recall, "worst": worst, "short": short,
                              "p99_ms": p99 });
        self.note(name, figures);
        Ok(())
    }

    fn query(&mut self) -> Vec<f32> {
        let place = self.random.below(self.rows.len() as u64) as usize;
        let at = self.rows.values().nth(place).copied().unwrap_or_default();
        let mut query = self.vector(at).to_vec();
        query.iter_mut().for_each(|number| *number += (self.random.unit() as f32 - 0.5) * 0.02);
        query
    }

    /// Counts the rows of `got` whose squared distance from `query` is at most `last`.
    ///
    /// # Errors
    /// `Internal` for a row that differs from the table's.
    fn right(
        &self,
        name: &str,
        query: &[f32],
        last: Option<f32>,
        fits: impl Fn(i64) -> bool,
        got: &RecordBatch,
    ) -> Result<usize> {
        let ids = got["id"].as_primitive::<Int64Type>().values();
        if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
            return Err(Error::internal(format!("{name}: a row was found twice")));
        }
        let mut right = 0;
        for (id, told) in ids.iter().zip(got["_distance"].as_primitive::<Float32Type>().values()) {
            let own = self.rows.get(id).map(|at| self.distance(*at, query));
            let own = own.filter(|own| fits(*id) && (own.sqrt() - told).abs() < 1e-3 * told.max(1.0));
            let own = own.ok_or_else(|| Error::internal(format!("{name}: row {id} is deleted, stale or unwanted")))?;
            right += usize::from(last.is_some_and(|last| own <= last * (1.0 + TIE) + TIE));
        }
        Ok(right)
    }

    /// Measures speed and recall before, during and after small upserts, and after a change of 3% of the rows.
    async fn fresh(&mut self, rows: usize, spec: IndexSpec) -> Result<()> {
        self.load(rows, &spec).await?;
        self.search("warm", None).await?;
        self.search("before", None).await?;
        let mut next = rows;
        let mut change = |work: &mut Self, count: usize| -> Vec<(i64, usize)> {
            let ids: BTreeSet<i64> = (0..count).map(|_| work.random.below(rows as u64) as i64).collect();
            next += ids.len();
            ids.into_iter().zip(next..).collect()
        };
        for _ in 0..UPSERTS {
            let rows = change(self, CALL_ROWS);
            self.put(&rows).await?;
        }
        self.twice("upserted").await?;
        self.table.fold().await?;
        self.twice("folded").await?;
        let rows = change(self, rows * 3 / 100);
        self.put(&rows).await?;
        self.twice("changed").await?;
        let start = Instant::now();
        self.table.optimize_indexes().await?;
        self.note("upkeep_s", start.elapsed().as_secs_f64());
        self.twice("tended").await
    }

    /// Searches at once, and once more after indexes have had time to take in changes.
    async fn twice(&mut self, name: &str) -> Result<()> {
        self.search(name, None).await?;
        self.search(&format!("later {name}"), None).await
    }

    async fn filter(&mut self, rows: usize, spec: IndexSpec) -> Result<()> {
        self.load(rows, &spec).await?;
        self.table.create_index(IndexSpec::new("color", IndexKind::scalar())).await?;
        for (name, below) in [("warm", 500), ("50%", 500), ("10%", 100), ("1%", 10), ("0.1%", 1)] {
            self.search(name, Some((format!("color < {below}"), below))).await?;
        }
        Ok(())
    }

    /// Measures speed and recall of the queries beside the base file, at settings tuned to each of `RECALLS`.
    async fn ann(&mut self, rows: usize, spec: IndexSpec, base: &Path) -> Result<()> {
        let queries = floats(&base.with_file_name("queries.f32"))?;
        let truth = std::fs::read(base.with_file_name("truth.u32"))?;
        let truth: Vec<i64> = truth.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect();
        let before_s = process_seconds()?;
        self.load(rows, &spec).await?;
        self.note("build_cpu_s", process_seconds()? - before_s);
        let mut points = Vec::new();
        for (place, recall) in RECALLS.into_iter().enumerate() {
            self.table.tune_index("vector", None, recall).await?;
            let (mut best_s, mut found) = (f64::INFINITY, 0);
            for _ in 0..PASSES {
                let mut answers = Vec::new();
                let start = Instant::now();
                for query in queries.chunks(self.width) {
                    let search = Search::new(K).vector("vector", query.to_vec()).columns(["id"]);
                    answers.push(self.table.search(&search).await?);
                }
                best_s = best_s.min(start.elapsed().as_secs_f64());
                let right = |(got, truth): (&RecordBatch, &[i64])| {
                    let ids = got["id"].as_primitive::<Int64Type>().values();
                    ids.iter().filter(|id| truth.contains(id)).count()
                };
                found = answers.iter().zip(truth.chunks(K)).map(right).sum();
            }
            let qps = (queries.len() / self.width) as f64 / best_s;
            points.push(json!({ "ef": place, "recall": found as f64 / truth.len() as f64, "qps": qps }));
        }
        self.note("points", points);
        let indexes = self.table.indexes().await?;
        self.note("memory_bytes", indexes.iter().filter_map(|index| index.memory_bytes).sum::<u64>());
        Ok(())
    }

    /// Inserts, deletes, replaces and searches clusters of rows; a deleted or stale hit is an error.
    async fn runbook(&mut self, rows: usize, spec: IndexSpec) -> Result<()> {
        self.load(rows / 4, &spec).await?;
        let start = Instant::now();
        let share = rows / CLUSTERS / ROUNDS;
        let (mut next, mut recalls, mut worst, mut p99): (usize, Vec<f64>, f64, f64) = (rows / 4, Vec::new(), 1.0, 0.0);
        for step in 0..CLUSTERS * ROUNDS {
            let new: Vec<(i64, usize)> = (next..next + share).map(|row| (row as i64, row)).collect();
            self.put(&new).await?;
            next += share;
            let known: Vec<i64> = self.rows.keys().copied().collect();
            let mut some = |count: usize| -> BTreeSet<i64> {
                (0..count).map(|_| known[self.random.below(known.len() as u64) as usize]).collect()
            };
            let (gone, replaced) = (some(share / 2), some(share / 4));
            let keys: Vec<Vec<String>> = gone.iter().map(|id| vec![id.to_string()]).collect();
            self.table.delete_keys(&keys).await?;
            self.rows.retain(|id, _| !gone.contains(id));
            let replaced: Vec<(i64, usize)> =
                replaced.difference(&gone).map(|id| (*id, *id as usize + 7 * rows + step)).collect();
            self.put(&replaced).await?;
            self.search("step", None).await?;
            let figure = |name: &str| self.report["step"][name].as_f64().unwrap_or_default();
            recalls.push(figure("recall"));
            (worst, p99) = (worst.min(figure("recall")), p99.max(figure("p99_ms")));
        }
        self.note("mean", recalls.iter().sum::<f64>() / recalls.len() as f64);
        self.note("worst", worst);
        self.note("p99_ms", p99);
        self.note("steps_s", start.elapsed().as_secs_f64());
        Ok(())
    }
}
