//! Search settings by measurement: sampled queries, compared with exact search.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use cenote_base::{Error, Random, Result};
use cenote_store::{ScanRequest, Snapshot, Table};

use super::search::VectorQuery;
use crate::build::watch::silent;
use crate::catalog::Index;
use crate::definition::{Definition, Measured, SearchSettings};
use crate::hits::Hit;
use crate::indexes::Indexes;
use crate::metric::Metric;

/// Queries tried for a measurement, and for a look whether recall still holds.
const QUERIES: usize = 100;
const QUERIES_CHECK: usize = 32;
const K: usize = 10;
/// Distances that differ by less are equal.
const TIE: f32 = 1e-6;
/// A measurement is repeated when the table has grown or shrunk by one in so many rows.
const CHANGED_SHARE: usize = 4;
/// Recall so far under its target has fallen.
const TOLERANCE: f64 = 0.02;

/// Up to so many partitions are searched, as a power of two.
const PROBES_BITS_MAX: u32 = 12;

/// One setting that was tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TunePoint {
    /// What was tried.
    pub search: SearchSettings,
    /// The share of the nearest rows that was found.
    pub recall: f64,
    /// Searches a second, one after the other.
    pub queries_per_s: f64,
}

/// What a tuning did.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// The index.
    pub index: String,
    /// The settings that were tried, from the quickest on.
    pub points: Vec<TunePoint>,
    /// The one that is kept: the first to reach the target, or else the last.
    pub chosen: TunePoint,
    /// The recall asked for.
    pub target: f64,
}

impl Indexes {
    /// Measures the vector index of `column` by `metric` (by default that of its first index) on sampled rows as queries, and
    /// keeps the quickest settings that find `recall` of the nearest 10 rows. `seed` chooses the sample.
    ///
    /// # Errors
    /// `NotFound` when there is no such index or nothing to search; `InvalidInput` for a recall that is not above 0 and at most 1.
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

    /// Measures tuned indexes again whose table has changed much since, and tunes those anew whose recall has fallen. One that finds
    /// too little however hard it looks is built anew: it learned from other rows. What was done, in words.
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
                let mut definition: Definition = index.definition.clone();
                definition.measured = Some(Measured { recall: now.recall, rows, queries: sample.len(), ..measured });
                self.define(table, &index.name, &definition).await?;
                continue;
            }
            let tuned = self.tune_index(table, &snapshot, index, measured.target, seed).await?;
            let name = &index.name;
            if tuned.chosen.recall + TOLERANCE >= measured.target || index.definition.kind.is_resident() {
                done.push(format!(
                    "recall of index `{name}` fell to {:.3}; searches by it look harder now and find {:.3}",
                    now.recall, tuned.chosen.recall
                ));
                continue;
            }
            self.renew(table, index).await?;
            let snapshot = table.snapshot().await?;
            let catalog = self.catalog(&snapshot).await?;
            let index = catalog.find(table.name(), name)?;
            let again = self.tune_index(table, &snapshot, index, measured.target, seed).await?;
            done.push(format!(
                "recall of index `{name}` fell to {:.3}, and {:.3} was the most it could find; it was built anew and finds {:.3}",
                now.recall, tuned.chosen.recall, again.chosen.recall
            ));
        }
        Ok(done)
    }

    /// Vectors of rows, with the exact distances of the rows nearest to each.
    async fn sample(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        queries: usize,
        seed: u64,
    ) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
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
            // A vector without a direction has no nearest under cosine.
            if vector.iter().all(|number| *number == 0.0) {
                continue;
            }
            let query = VectorQuery { metric: index.metric(), ..VectorQuery::new(&index.column, vector.clone(), K) };
            let hits = self.exact_hits(snapshot, &query).await?;
            sample.push((vector, hits.iter().filter_map(|hit| hit.distance).collect()));
        }
        Ok(sample)
    }

    async fn measure(
        &self,
        snapshot: &Snapshot,
        index: &Index,
        search: SearchSettings,
        sample: &[(Vec<f32>, Vec<f32>)],
    ) -> Result<TunePoint> {
        let (mut found, mut wanted) = (0, 0);
        let mut spent = std::time::Duration::ZERO;
        for (vector, near) in sample {
            let query = VectorQuery { metric: index.metric(), ..VectorQuery::new(&index.column, vector.clone(), K) };
            let start = std::time::Instant::now();
            let hits: Vec<Hit> = self.hits_by(snapshot, &query, index, search).await?;
            spent += start.elapsed();
            let Some(last) = near.last() else { continue };
            let right = |hit: &&Hit| hit.distance.is_some_and(|own| own <= last + TIE * last.abs().max(1.0));
            found += hits.iter().filter(right).count().min(near.len());
            wanted += near.len();
        }
        let recall = if wanted == 0 { 1.0 } else { found as f64 / wanted as f64 };
        Ok(TunePoint { search, recall, queries_per_s: sample.len() as f64 / spent.as_secs_f64().max(1e-9) })
    }
}

/// Of how many partitions the largest piece of `index` is.
async fn partitions(snapshot: &Snapshot, index: &Index) -> Result<usize> {
    let opened = match &index.built {
        Some(built) => built.vector_segments(snapshot, &index.column).await?,
        None => &[],
    };
    Ok(opened.iter().map(|segment| segment.index.total_partitions()).max().unwrap_or(1))
}

/// Settings to try, from the quickest on.
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
