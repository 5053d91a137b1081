//! Search settings by measurement: sampled queries by an index, compared with the exact search.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use cenote_base::{Error, Random, Result};
use cenote_store::{ScanRequest, Snapshot, Table};

use super::search::VectorQuery;
use crate::build::watch::silent;
use crate::catalog::Index;
use crate::definition::{IndexDefinition, Measured, SearchSettings};
use crate::hits::Hit;
use crate::indexes::Indexes;
use crate::metric::Metric;

/// Sampled queries of a measurement.
const QUERIES: usize = 100;
/// Sampled queries that check whether the recall of a tuned index still holds.
const QUERIES_CHECK: usize = 32;
/// Rows that a sampled query requests.
const K: usize = 10;
/// The relative difference up to which two distances count as equal.
const TIE: f32 = 1e-6;
/// Recall is checked again when the number of rows has changed by `1 / CHANGED_SHARE`.
const CHANGED_SHARE: usize = 4;
/// The largest difference of recall from its target that counts as reaching it.
const TOLERANCE: f64 = 0.02;
/// Partitions that are tried, at most: `2 ^ PROBES_BITS_MAX`.
const PROBES_BITS_MAX: u32 = 12;

/// A query of a sample, and what the exact search finds for it.
struct SampledQuery {
    vector: Vec<f32>,
    /// The distances of the nearest rows, ascending.
    distances: Vec<f32>,
}

/// Settings that were tried, and what was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TunePoint {
    /// The settings.
    pub search: SearchSettings,
    /// The share of the nearest rows that was found.
    pub recall: f64,
    /// Searches per second, one after the other.
    pub queries_per_s: f64,
}

/// The outcome of a tuning.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tuning {
    /// The name of the index.
    pub index: String,
    /// The settings that were tried, the quickest first.
    pub points: Vec<TunePoint>,
    /// The settings that were kept: the first to reach the target, or else the last.
    pub chosen: TunePoint,
    /// The recall that was requested.
    pub target: f64,
}

impl Indexes {
    /// Measures the vector index of `column` for `metric` (by default that of its first index) with sampled rows as
    /// queries, and keeps the quickest settings that find `recall` of the nearest 10 rows. `seed` chooses the sample.
    ///
    /// # Errors
    /// `NotFound` without such an index, or without rows to search; `InvalidInput` for a recall that is not above 0 and
    /// at most 1.
    pub async fn tune(
        &self,
        table: &Table,
        column: &str,
        metric: Option<Metric>,
        recall: f64,
        seed: u64,
    ) -> Result<Tuning> {
        if !(recall > 0.0 && recall <= 1.0) {
            return Err(Error::invalid_input(format!("recall {recall} is not above 0 and at most 1")));
        }
        let snapshot = table.snapshot().await?;
        let catalog = self.catalog(&snapshot).await?;
        let fits = |index: &&Index| {
            index.column == column && index.metric().is_some() && (metric.is_none() || index.metric() == metric)
        };
        let index = catalog.indexes.iter().find(fits).ok_or_else(|| {
            let name = table.name();
            Error::not_found(format!("column `{column}` of table `{name}` has no such vector index: make one first"))
        })?;
        if index.definition.kind.is_resident() {
            self.make_resident(&snapshot, index, &silent()).await?;
        }
        self.tune_index(table, &snapshot, index, recall, seed).await
    }

    /// Tries settings, the quickest first, until one reaches `target`, and keeps the last one tried.
    async fn tune_index(
        &self,
        table: &Table,
        snapshot: &Snapshot,
        index: &Index,
        target: f64,
        seed: u64,
    ) -> Result<Tuning> {
        let sample = self.sample(snapshot, index, QUERIES, seed).await?;
        let mut points = Vec::new();
        for search in ladder(index, partitions(snapshot, index).await?) {
            let point = self.measure(snapshot, index, search, &sample).await?;
            points.push(point);
            if point.recall >= target {
                break;
            }
        }
        let Some(chosen) = points.last().copied() else { return Err(Error::internal("nothing was tried")) };
        let rows = snapshot.count(None).await?;
        let measured = Measured { recall: chosen.recall, target, k: K, queries: sample.len(), rows };
        let mut definition = index.definition.clone();
        (definition.search, definition.measured) = (chosen.search, Some(measured));
        self.define(table, &index.name, &definition).await?;
        Ok(Tuning { index: index.name.clone(), points, chosen, target })
    }

    /// Checks the recall of tuned indexes whose table has changed much since, and tunes those whose recall has fallen.
    /// Rebuilds an index that no settings bring to its target: it was trained on other rows. Returns a message for each
    /// index that was changed.
    pub async fn retune(&self, table: &Table) -> Result<Vec<String>> {
        let snapshot = table.snapshot().await?;
        let catalog = self.catalog(&snapshot).await?;
        let rows = snapshot.count(None).await?;
        let mut done = Vec::new();
        for index in &catalog.indexes {
            let Some(measured) = index.definition.measured else { continue };
            if rows.abs_diff(measured.rows) * CHANGED_SHARE < measured.rows || rows == 0 {
                continue;
            }
            let seed = snapshot.version().0;
            if measured.rows == 0 {
                self.tune_index(table, &snapshot, index, measured.target, seed).await?;
                continue;
            }
            let sample = self.sample(&snapshot, index, QUERIES_CHECK, seed).await?;
            let now = self.measure(&snapshot, index, index.definition.search, &sample).await?;
            if now.recall + TOLERANCE >= measured.target {
                let mut definition: IndexDefinition = index.definition.clone();
                definition.measured = Some(Measured { recall: now.recall, rows, queries: sample.len(), ..measured });
                self.define(table, &index.name, &definition).await?;
                continue;
            }
            let tuned = self.tune_index(table, &snapshot, index, measured.target, seed).await?;
            let name = &index.name;
            if tuned.chosen.recall + TOLERANCE >= measured.target || index.definition.kind.is_resident() {
                done.push(format!(
                    "recall of index `{name}` fell to {:.3}; it was tuned again and finds {:.3}",
                    now.recall, tuned.chosen.recall
                ));
                continue;
            }
            self.rebuild_index(table, index).await?;
            let snapshot = table.snapshot().await?;
            let catalog = self.catalog(&snapshot).await?;
            let index = catalog.find(table.name(), name)?;
            let again = self.tune_index(table, &snapshot, index, measured.target, seed).await?;
            done.push(format!(
                "recall of index `{name}` fell to {:.3}, and tuning reached only {:.3}; it was rebuilt and finds {:.3}",
                now.recall, tuned.chosen.recall, again.chosen.recall
            ));
        }
        Ok(done)
    }

    /// Samples rows as queries, and finds the nearest rows of each by the exact search.
    async fn sample(&self, snapshot: &Snapshot, index: &Index, queries: usize, seed: u64) -> Result<Vec<SampledQuery>> {
        let request = ScanRequest::default().columns([""; 0]).filter(format!("`{}` IS NOT NULL", index.column));
        let rows = snapshot.collect(&request.with_row_id()).await?;
        let row_ids = crate::rows::row_set::row_ids(&rows)?;
        let mut random = Random::new(seed);
        let chosen: Vec<u64> =
            (0..queries.min(row_ids.len())).map(|_| row_ids[random.below(row_ids.len() as u64) as usize]).collect();
        if chosen.is_empty() {
            return Err(Error::not_found(format!("column `{}` has no vectors to search for", index.column)));
        }
        let taken = snapshot.take(&chosen, std::slice::from_ref(&index.column)).await?;
        let lists = taken.column(0).as_fixed_size_list();
        let mut sample = Vec::with_capacity(chosen.len());
        for row in 0..lists.len() {
            let numbers = cast(&lists.value(row), &DataType::Float32).map_err(cenote_store::arrow_error)?;
            let vector = numbers.as_primitive::<Float32Type>().values().to_vec();
            // A zero vector has no distance under cosine.
            if vector.iter().all(|number| *number == 0.0) {
                continue;
            }
            let query = VectorQuery { metric: index.metric(), ..VectorQuery::new(&index.column, vector.clone(), K) };
            let hits = self.exact_hits(snapshot, &query).await?;
            let distances = hits.iter().filter_map(|hit| hit.distance).collect();
            sample.push(SampledQuery { vector, distances });
        }
        Ok(sample)
    }

    /// Measures the recall and the speed of `search` on `sample`.
    async fn measure(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        search: SearchSettings,
        sample: &[SampledQuery],
    ) -> Result<TunePoint> {
        let (mut found, mut wanted) = (0, 0);
        let mut spent = std::time::Duration::ZERO;
        for SampledQuery { vector, distances } in sample {
            let query = VectorQuery { metric: index.metric(), ..VectorQuery::new(&index.column, vector.clone(), K) };
            let start = std::time::Instant::now();
            let hits: Vec<Hit> = self.hits_by(snapshot, &query, index, search).await?;
            spent += start.elapsed();
            let Some(last) = distances.last() else { continue };
            let right = |hit: &&Hit| hit.distance.is_some_and(|own| own <= last + TIE * last.abs().max(1.0));
            found += hits.iter().filter(right).count().min(distances.len());
            wanted += distances.len();
        }
        let recall = if wanted == 0 { 1.0 } else { found as f64 / wanted as f64 };
        Ok(TunePoint { search, recall, queries_per_s: sample.len() as f64 / spent.as_secs_f64().max(1e-9) })
    }
}

/// Returns the number of partitions of the segment of `index` that has most.
async fn partitions(snapshot: &Snapshot, index: &Index) -> Result<usize> {
    let opened = match &index.built {
        Some(built) => built.vector_segments(snapshot, &index.column).await?,
        None => &[],
    };
    Ok(opened.iter().map(|segment| segment.index.total_partitions()).max().unwrap_or(1))
}

/// Returns the settings to try, the quickest first.
fn ladder(index: &Index, partitions: usize) -> Vec<SearchSettings> {
    let structure = index.built.as_ref().map_or("", |built| built.structure.as_str());
    let settings =
        |probes: Option<usize>, ef: Option<usize>, refine: Option<u32>| SearchSettings { probes, ef, refine };
    if index.definition.kind.is_resident() {
        return [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024]
            .map(|ef| settings(None, Some(ef), None))
            .to_vec();
    }
    let refines: &[u32] = if structure == "IVF_FLAT" { &[1] } else { &[2, 5, 10, 30] };
    let mut ladder = Vec::new();
    let probes = (0..=PROBES_BITS_MAX).map(|bits| 1 << bits).take_while(|probes| *probes < 2 * partitions);
    for probes in probes.map(|probes: usize| probes.min(partitions)) {
        for refine in refines {
            let ef = structure.contains("HNSW").then_some(K * *refine as usize * 2);
            ladder.push(settings(Some(probes), ef, (structure != "IVF_FLAT").then_some(*refine)));
        }
    }
    ladder
}
