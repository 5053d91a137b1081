//! The rows of a matrix that are nearest to each of several queries, found by comparing every row.
//!
//! Rows are found in order of distance, and rows of equal distance in order of their number. A row with NaN is not
//! found, and a query with NaN finds nothing; the cosine does not find a row of zeros. A query finds fewer rows than
//! wanted when there are fewer to find.
//!
//! The device agrees with the CPU within [`TOLERANCE`]; rows whose distances differ by less may change their order.
//! Equal rows have equal distances on both.

use cenote_base::{Error, Result};

use super::distance::{KernelMetric, NONE, for_each_key};
use crate::device::{Device, Shader};
use crate::matrix::{Matrix, count_rows};
use crate::simd::vectorised;
use crate::work::{Pending, Work};

/// Rows that a query can ask for, at most.
pub const WANTED_MAX: usize = 256;
/// Bound on the difference between a distance on the device and on the CPU: absolute for the cosine, otherwise as a
/// fraction of the sum of the squared lengths of both rows.
pub const TOLERANCE: f32 = 1e-5;

/// Bytes of keys, one for each query and row, that are kept at once, at most.
const KEYS_BYTES_MAX: u64 = 32 << 20;
/// Queries of a submission, at most.
const QUERIES_MAX: usize = 256;
/// Rows from which one work group picks; see the WGSL.
const PICK_ROWS: usize = 4096;
/// Rows of the matrix that one work group measures; see the WGSL.
const MEASURE_ROWS: usize = 64;
/// Rows of a block, at most: as many work groups as a row of the grid holds.
const BLOCK_ROWS_MAX: usize = 65_535 * MEASURE_ROWS;

const SOURCE: &str = concat!(include_str!("../distance.wgsl"), include_str!("nearest.wgsl"));

const fn shader(entry: &'static str, constants: &'static [(&'static str, u32)]) -> Shader {
    Shader { source: SOURCE, entry, constants }
}

const PICK: Shader = shader("pick", &[]);
const MERGE: Shader = shader("merge", &[]);
const GATHER: Shader = shader("gather", &[]);

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearestRow {
    /// The index of the row in the matrix.
    pub row: u32,
    /// The distance by the [`KernelMetric`]; for [`KernelMetric::InnerProduct`] the product itself.
    pub distance: f32,
}

/// Finds the `wanted` rows of `matrix` nearest to each row of `queries`. Both have rows of `columns` numbers.
///
/// # Errors
/// `InvalidInput` when the length of a slice is not a multiple of `columns`, or `wanted` is 0 or more than
/// [`WANTED_MAX`].
pub fn on_cpu(
    metric: KernelMetric,
    queries: &[f32],
    matrix: &[f32],
    columns: usize,
    wanted: usize,
) -> Result<Vec<Vec<NearestRow>>> {
    check(wanted)?;
    count_rows("matrix", matrix, columns)?;
    let mut found = vec![Nearest::new(wanted); count_rows("queries", queries, columns)?];
    find(metric, queries, matrix, columns, &mut found);
    Ok(found.into_iter().map(|nearest| nearest.into_rows(metric)).collect())
}

vectorised! {
    fn find(metric: KernelMetric, queries: &[f32], matrix: &[f32], columns: usize, found: &mut [Nearest]) {
        for_each_key(metric, queries, matrix, columns, |query, row, key| found[query].offer(key, row as u32));
    }
}

/// Runs [`on_cpu`] on the device that holds `matrix`. There may be any number of queries: they are submitted in groups.
///
/// # Errors
/// Those of [`on_cpu`], and `ResourceExhausted` when the memory bound leaves too little room.
pub fn on_device(
    metric: KernelMetric,
    queries: &[f32],
    matrix: &Matrix,
    wanted: usize,
) -> Result<Pending<Vec<Vec<NearestRow>>>> {
    check(wanted)?;
    let columns = matrix.columns();
    let count = count_rows("queries", queries, columns)?;
    if matrix.rows() == 0 {
        return Ok(Pending::new(move || Ok(vec![Vec::new(); count])));
    }
    let groups: Vec<_> = queries
        .chunks(QUERIES_MAX * columns)
        .map(|queries| submit(metric, queries, matrix, wanted))
        .collect::<Result<_>>()?;
    Ok(Pending::new(move || {
        let mut found = Vec::with_capacity(count);
        for group in groups {
            found.extend(group.wait()?);
        }
        Ok(found)
    }))
}

fn check(wanted: usize) -> Result<()> {
    if (1..=WANTED_MAX).contains(&wanted) {
        return Ok(());
    }
    Err(Error::invalid_input(format!("from 1 to {WANTED_MAX} rows can be asked for, not {wanted}")))
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    columns: u32,
    queries: u32,
    first_row: u32,
    end_row: u32,
    part_row: u32,
    wanted: u32,
    places: u32,
    first_place: u32,
    end_place: u32,
}

/// Returns the kernel that measures `queries` queries, and the rows of its grid.
fn measure(metric: KernelMetric, queries: usize) -> (Shader, u32) {
    /// Queries up to which a work group takes one query per lane. With four queries per lane it loads the matrix less
    /// often.
    const FEW: usize = 16;
    let few = queries <= FEW;
    let measure = shader(
        "measure",
        match (metric, few) {
            (KernelMetric::SquaredL2, true) => &[("METRIC", 0), ("ROWS", 1)],
            (KernelMetric::SquaredL2, false) => &[("METRIC", 0), ("ROWS", 4)],
            (KernelMetric::Cosine, true) => &[("METRIC", 1), ("ROWS", 1)],
            (KernelMetric::Cosine, false) => &[("METRIC", 1), ("ROWS", 4)],
            (KernelMetric::InnerProduct, true) => &[("METRIC", 2), ("ROWS", 1)],
            (KernelMetric::InnerProduct, false) => &[("METRIC", 2), ("ROWS", 4)],
        },
    );
    (measure, queries.div_ceil(if few { FEW } else { 4 * FEW }) as u32)
}

/// Returns the rows of the matrix whose keys are kept at once, for `queries` queries.
fn block_rows(device: &Device, queries: usize) -> usize {
    let bytes = KEYS_BYTES_MAX.min(device.pool().bytes_max() / 8);
    (bytes as usize / size_of::<u32>() / queries).clamp(MEASURE_ROWS, BLOCK_ROWS_MAX)
}

/// Submits one group of queries.
fn submit(
    metric: KernelMetric,
    queries: &[f32],
    matrix: &Matrix,
    wanted: usize,
) -> Result<Pending<Vec<Vec<NearestRow>>>> {
    let device = matrix.device();
    let columns = matrix.columns();
    let count = queries.len() / columns;
    let largest = matrix.parts().iter().map(|part| part.rows).max().unwrap_or_default();
    let block_rows = block_rows(device, count).min(largest);
    let places = 1 + block_rows.div_ceil(PICK_ROWS);

    let mut work = Work::new(device)?;
    let left = work.upload(queries)?;
    let keys = work.buffer::<u32>(count * block_rows)?;
    let picks = work.buffer::<[u32; 2]>(count * places * wanted)?;
    let (measure, query_groups) = measure(metric, count);
    let mut params = Params {
        columns: columns as u32,
        queries: count as u32,
        first_row: 0,
        end_row: 0,
        part_row: 0,
        wanted: wanted as u32,
        places: places as u32,
        first_place: 1,
        end_place: 1,
    };
    for part in matrix.parts() {
        for first_row in (0..part.rows).step_by(block_rows) {
            let rows = block_rows.min(part.rows - first_row);
            let groups = rows.div_ceil(PICK_ROWS);
            params.first_row = first_row as u32;
            params.end_row = (first_row + rows) as u32;
            params.part_row = part.first_row as u32;
            params.end_place = 1 + groups as u32;
            let measure_groups = [rows.div_ceil(MEASURE_ROWS) as u32, query_groups, 1];
            work.dispatch(measure, &[&left, &part.buffer, &keys], &params, measure_groups)?;
            work.dispatch(PICK, &[&keys, &picks], &params, [groups as u32, count as u32, 1])?;
            work.dispatch(MERGE, &[&picks], &params, [count as u32, 1, 1])?;
            params.first_place = 0;
        }
    }
    let nearest = work.buffer::<[u32; 2]>(count * wanted)?;
    work.dispatch(GATHER, &[&picks, &nearest], &params, [count as u32, 1, 1])?;
    work.finish(&nearest, move |bytes| {
        let entries: Vec<[u32; 2]> = bytemuck::pod_collect_to_vec(bytes);
        let rows = |entries: &[[u32; 2]]| {
            let found = entries.iter().filter(|[key, _]| *key != NONE);
            found.map(|&[key, row]| NearestRow { row, distance: metric.number(key) }).collect()
        };
        entries.chunks_exact(wanted).map(rows).collect()
    })
}

/// The `wanted` nearest so far: unordered candidates behind the kept, which are sorted when there are as many again.
#[derive(Clone)]
struct Nearest {
    wanted: usize,
    /// Key and row in one number, which sorts by key, then row.
    entries: Vec<u64>,
    /// The entry that another must precede to be kept.
    limit: u64,
}

impl Nearest {
    fn new(wanted: usize) -> Self {
        Self { wanted, entries: Vec::with_capacity(2 * wanted), limit: u64::from(NONE) << 32 }
    }

    #[inline(always)]
    fn offer(&mut self, key: u32, row: u32) {
        let entry = u64::from(key) << 32 | u64::from(row);
        if entry < self.limit {
            self.entries.push(entry);
            if self.entries.len() == 2 * self.wanted {
                self.shrink();
            }
        }
    }

    #[inline(never)]
    fn shrink(&mut self) {
        let (_, last, _) = self.entries.select_nth_unstable(self.wanted - 1);
        self.limit = *last;
        self.entries.truncate(self.wanted);
    }

    fn into_rows(mut self, metric: KernelMetric) -> Vec<NearestRow> {
        self.entries.sort_unstable();
        self.entries.truncate(self.wanted);
        let row = |entry: u64| NearestRow { row: entry as u32, distance: metric.number((entry >> 32) as u32) };
        self.entries.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests;
