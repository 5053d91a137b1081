//! K-means clusters (Lloyd, "Least squares quantization in PCM", 1982): centroids such that points are near one of them.
//!
//! A point with NaN or an infinite number belongs to no cluster. A cluster that loses all its points goes on from the point that
//! is farthest from its centroid, the lowest of equals; when no point is off its centroid, it stays where it is.
//!
//! In one step from the same centroids, CPU and device assign a point alike unless two centroids are equally near within
//! [`nearest::TOLERANCE`](super::nearest::TOLERANCE), and from the same assignment their centroids differ by at most [`TOLERANCE`] of
//! the largest coordinate. Over many steps such differences may add up to other clusters that are as good.

use cenote_base::{Error, Random, Result};

use super::distance::{Metric, NONE, for_each_key};
use crate::matrix::count_rows;
use crate::simd::vectorised;

mod on_device;

pub use on_device::on_device;

/// How far a centroid's coordinate on the device may be from the CPU's, as a part of the largest coordinate of the points.
pub const TOLERANCE: f32 = 1e-5;
/// The number of a cluster, for a point that has none.
pub const NO_CLUSTER: u32 = u32::MAX;
/// The most centroids.
pub const CENTROIDS_MAX: usize = 65_535;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// How many centroids, from 1 to [`CENTROIDS_MAX`], and no more than points.
    pub centroids: usize,
    /// How often centroids move at most.
    pub iterations_max: usize,
    /// An iteration that lessens the inertia by a smaller part than this is the last.
    pub improvement_min: f64,
    /// Which points the centroids begin at.
    pub init: Init,
    /// The seed of that choice: the same points and options give the same clusters on the same device.
    pub seed: u64,
}

/// Which points centroids begin at. Both choices are made on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Init {
    /// Any, all different.
    Random,
    /// Each far from the others, with a probability that grows with the squared distance (Arthur and Vassilvitskii,
    /// "k-means++: The Advantages of Careful Seeding", 2007). It costs as much as one iteration on one CPU thread.
    PlusPlus,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// By rows.
    pub centroids: Vec<f32>,
    /// The number of each point's centroid; [`NO_CLUSTER`] for a point that has none.
    pub nearest: Vec<u32>,
    /// The squared distances of the points to their centroids, added up.
    pub inertia: f64,
    /// How often the centroids moved.
    pub iterations: usize,
}

/// Clusters `points`, rows of `columns` numbers.
///
/// # Errors
/// `InvalidInput` when `points` are no whole rows, or fewer points than centroids have only finite numbers.
pub fn on_cpu(points: &[f32], columns: usize, options: &Options) -> Result<Clusters> {
    let usable = check(points, columns, options)?;
    let centroids = first_centroids(points, columns, &usable, options);
    lloyd(OnCpu { points, columns, centroids }, points, columns, &usable, options)
}

/// The two steps of Lloyd's algorithm and the centroids between them.
trait Steps {
    /// Of each point, the key of the distance to its centroid, and the centroid's number; the first of equals.
    fn assign(&mut self) -> Result<Vec<[u32; 2]>>;

    /// Moves the centroids to the means of their points, and those without points to `reseeded`: centroid and point.
    fn update(&mut self, members: &Members, reseeded: &[(u32, u32)]) -> Result<()>;

    fn centroids(self) -> Result<Vec<f32>>;
}

/// Points by centroid.
#[derive(Debug, PartialEq)]
struct Members {
    /// Where each centroid's points begin, and, last, where they end.
    starts: Vec<u32>,
    /// Points in order, centroid by centroid.
    points: Vec<u32>,
}

impl Members {
    /// A counting sort of the points of `nearest`, which are numbered from 0.
    fn new(nearest: &[u32], centroids: usize) -> Self {
        let mut starts = vec![0u32; centroids + 1];
        let known = || (0u32..).zip(nearest).filter(|(_, nearest)| **nearest != NO_CLUSTER);
        for (_, &nearest) in known() {
            starts[nearest as usize + 1] += 1;
        }
        for centroid in 0..centroids {
            starts[centroid + 1] += starts[centroid];
        }
        let mut next = starts.clone();
        let mut points = vec![0; starts[centroids] as usize];
        for (point, &nearest) in known() {
            let place = &mut next[nearest as usize];
            points[*place as usize] = point;
            *place += 1;
        }
        Self { starts, points }
    }

    /// Those from `first` to `end`, numbered from `first`.
    fn between(&self, first: usize, end: usize) -> Self {
        let mut starts = vec![0];
        let mut points = Vec::new();
        for centroid in 0..self.starts.len() - 1 {
            let all = self.of(centroid);
            // Points of a centroid are in order.
            let (from, to) =
                (all.partition_point(|&row| (row as usize) < first), all.partition_point(|&row| (row as usize) < end));
            points.extend(all[from..to].iter().map(|&row| row - first as u32));
            starts.push(points.len() as u32);
        }
        Self { starts, points }
    }

    fn of(&self, centroid: usize) -> &[u32] {
        &self.points[self.starts[centroid] as usize..self.starts[centroid + 1] as usize]
    }
}

/// The points with only finite numbers, of which there are enough.
fn check(points: &[f32], columns: usize, options: &Options) -> Result<Vec<u32>> {
    count_rows("points", points, columns)?;
    let finite = |(_, point): &(u32, &[f32])| point.iter().all(|number| number.is_finite());
    let usable: Vec<u32> = (0..).zip(points.chunks_exact(columns)).filter(finite).map(|(row, _)| row).collect();
    let most = usable.len().min(CENTROIDS_MAX);
    if (1..=most).contains(&options.centroids) {
        return Ok(usable);
    }
    Err(Error::invalid_input(format!(
        "{} centroids of {} points with finite numbers: from 1 to {most} are possible",
        options.centroids,
        usable.len()
    )))
}

fn first_centroids(points: &[f32], columns: usize, usable: &[u32], options: &Options) -> Vec<f32> {
    let mut random = Random::new(options.seed);
    let point = |row: u32| &points[row as usize * columns..][..columns];
    match options.init {
        Init::Random => {
            // The first steps of a Fisher–Yates shuffle.
            let mut rows = usable.to_vec();
            for place in 0..options.centroids {
                let other = place + random.below((rows.len() - place) as u64) as usize;
                rows.swap(place, other);
            }
            rows[..options.centroids].iter().flat_map(|&row| point(row)).copied().collect()
        }
        Init::PlusPlus => {
            let mut chosen = point(usable[random.below(usable.len() as u64) as usize]).to_vec();
            let mut squares = vec![f32::INFINITY; usable.len()];
            let mut found = vec![NONE; points.len() / columns];
            while chosen.len() < options.centroids * columns {
                let newest = &chosen[chosen.len() - columns..];
                let mut total = 0.0;
                measure(points, newest, &mut found);
                for (square, &row) in squares.iter_mut().zip(usable) {
                    *square = square.min(Metric::L2.number(found[row as usize]));
                    total += f64::from(*square);
                }
                let mut target = random.unit() * total;
                let reached = squares.iter().position(|&square| {
                    target -= f64::from(square);
                    target < 0.0
                });
                // When all points are chosen already, or rounding passes the end, any will do.
                let place = reached.unwrap_or_else(|| random.below(usable.len() as u64) as usize);
                chosen.extend_from_slice(point(usable[place]));
            }
            chosen
        }
    }
}

fn lloyd(mut steps: impl Steps, points: &[f32], columns: usize, usable: &[u32], options: &Options) -> Result<Clusters> {
    let mut iterations = 0;
    let mut before = f64::INFINITY;
    loop {
        let assigned = steps.assign()?;
        let mut nearest = vec![NO_CLUSTER; points.len() / columns];
        let mut inertia = 0.0;
        for &row in usable {
            let [key, centroid] = assigned[row as usize];
            nearest[row as usize] = centroid;
            inertia += f64::from(Metric::L2.number(key));
        }
        // The first iteration has nothing to compare with.
        let improved = iterations == 0 || before - inertia > options.improvement_min * before;
        if iterations == options.iterations_max || !improved {
            return Ok(Clusters { centroids: steps.centroids()?, nearest, inertia, iterations });
        }
        let members = Members::new(&nearest, options.centroids);
        steps.update(&members, &reseeded(&members, &assigned, usable, options.centroids))?;
        before = inertia;
        iterations += 1;
    }
}

/// A point for each centroid without one: the farthest from their centroids.
fn reseeded(members: &Members, assigned: &[[u32; 2]], usable: &[u32], centroids: usize) -> Vec<(u32, u32)> {
    let empty: Vec<u32> = (0..centroids as u32).filter(|&centroid| members.of(centroid as usize).is_empty()).collect();
    if empty.is_empty() {
        return Vec::new();
    }
    let key = |row: u32| assigned[row as usize][0];
    let off = |row: &u32| key(*row) != NONE && Metric::L2.number(key(*row)) > 0.0;
    let mut farthest: Vec<u32> = usable.iter().copied().filter(off).collect();
    farthest.sort_unstable_by_key(|&row| (std::cmp::Reverse(key(row)), row));
    empty.into_iter().zip(farthest).collect()
}

vectorised! {
    fn measure(points: &[f32], to: &[f32], keys: &mut [u32]) {
        for_each_key(Metric::L2, points, to, to.len(), |point, _, key| keys[point] = key);
    }
}

vectorised! {
    fn assign(points: &[f32], centroids: &[f32], columns: usize, nearest: &mut [[u32; 2]]) {
        for_each_key(Metric::L2, points, centroids, columns, |point, centroid, key| {
            if key < nearest[point][0] {
                nearest[point] = [key, centroid as u32];
            }
        });
    }
}

struct OnCpu<'a> {
    points: &'a [f32],
    columns: usize,
    centroids: Vec<f32>,
}

impl Steps for OnCpu<'_> {
    fn assign(&mut self) -> Result<Vec<[u32; 2]>> {
        let mut nearest = vec![[NONE, NO_CLUSTER]; self.points.len() / self.columns];
        assign(self.points, &self.centroids, self.columns, &mut nearest);
        Ok(nearest)
    }

    fn update(&mut self, members: &Members, reseeded: &[(u32, u32)]) -> Result<()> {
        let columns = self.columns;
        let mut sums = vec![0.0f64; columns];
        for (centroid, mean) in self.centroids.chunks_exact_mut(columns).enumerate() {
            let members = members.of(centroid);
            if members.is_empty() {
                continue;
            }
            sums.fill(0.0);
            for &row in members {
                let point = &self.points[row as usize * columns..][..columns];
                sums.iter_mut().zip(point).for_each(|(sum, &number)| *sum += f64::from(number));
            }
            mean.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean = (sum / members.len() as f64) as f32);
        }
        for &(centroid, row) in reseeded {
            let point = &self.points[row as usize * columns..][..columns];
            self.centroids[centroid as usize * columns..][..columns].copy_from_slice(point);
        }
        Ok(())
    }

    fn centroids(self) -> Result<Vec<f32>> {
        Ok(self.centroids)
    }
}

#[cfg(test)]
mod tests;
