//! Lloyd's algorithm, over any device that computes its two steps.

use cenote_base::{Error, Random, Result};

use crate::kernels::distance::{KernelMetric, NONE, for_each_key};
use crate::matrix::count_rows;
use crate::simd::vectorised;

/// The mark of a point that belongs to no cluster.
pub const NO_CLUSTER: u32 = u32::MAX;
/// Centroids of a clustering, at most.
pub const CENTROIDS_MAX: usize = 65_535;

/// The settings of a clustering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KMeansOptions {
    /// The number of centroids, from 1 to [`CENTROIDS_MAX`], and at most the number of points whose numbers are all
    /// finite.
    pub centroids: usize,
    /// Iterations, at most.
    pub iterations_max: usize,
    /// The clustering ends when an iteration reduces the inertia by at most this fraction.
    pub improvement_min: f64,
    /// The method that chooses the first centroids.
    pub init: CentroidInit,
    /// The seed of that method: the same points and options give the same clusters on the same device.
    pub seed: u64,
}

/// The method that chooses the points at which the first centroids are. It runs on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CentroidInit {
    /// Points drawn uniformly, without replacement.
    Random,
    /// Points far from each other: the probability of a point grows with its squared distance from the points chosen
    /// before it (Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007). This takes as long
    /// as one iteration on one CPU thread.
    PlusPlus,
}

/// The result of a clustering.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// The centroids, row by row.
    pub centroids: Vec<f32>,
    /// The index of each point's nearest centroid; [`NO_CLUSTER`] for a point that belongs to no cluster.
    pub nearest: Vec<u32>,
    /// The sum of the squared distances of the points from their centroids.
    pub inertia: f64,
    /// The number of iterations that moved the centroids.
    pub iterations: usize,
}

/// The two steps of Lloyd's algorithm, and the centroids that they share.
pub(super) trait Steps {
    /// Returns the nearest centroid of each point; of equally near ones, the first.
    fn assign(&mut self) -> Result<Vec<NearestCentroid>>;

    /// Moves each centroid to the mean of its points, and the centroids in `reseeds` to the points named there.
    fn update(&mut self, members: &ClusterMembers, reseeds: &[Reseed]) -> Result<()>;

    /// Returns the centroids, row by row.
    fn centroids(self) -> Result<Vec<f32>>;
}

/// A point's nearest centroid, as the kernel writes it.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct NearestCentroid {
    /// The key of the distance; [`NONE`] for a point without a centroid.
    pub(super) key: u32,
    pub(super) centroid: u32,
}

/// A centroid that lost its points, and the point that it moves to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reseed {
    pub(super) centroid: u32,
    pub(super) point: u32,
}

/// The points of each centroid.
#[derive(Debug, PartialEq)]
pub(super) struct ClusterMembers {
    /// The index in `points` of each centroid's first point, followed by the number of points.
    pub(super) starts: Vec<u32>,
    /// The points, centroid by centroid, those of a centroid ascending.
    pub(super) points: Vec<u32>,
}

impl ClusterMembers {
    /// Groups points by centroid with a counting sort; `nearest` holds the centroid of each point.
    pub(super) fn new(nearest: &[u32], centroids: usize) -> Self {
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

    /// Returns the members from `first` to before `end`, with `first` as point 0.
    pub(super) fn between(&self, first: usize, end: usize) -> Self {
        let mut starts = vec![0];
        let mut points = Vec::new();
        for centroid in 0..self.starts.len() - 1 {
            let all = self.of(centroid);
            // The points of a centroid ascend.
            let (from, to) =
                (all.partition_point(|&row| (row as usize) < first), all.partition_point(|&row| (row as usize) < end));
            points.extend(all[from..to].iter().map(|&row| row - first as u32));
            starts.push(points.len() as u32);
        }
        Self { starts, points }
    }

    /// Returns the points of `centroid`, ascending.
    pub(super) fn of(&self, centroid: usize) -> &[u32] {
        &self.points[self.starts[centroid] as usize..self.starts[centroid + 1] as usize]
    }
}

/// A checked clustering: the points, the options, and the points that take part.
pub(super) struct Clustering<'a> {
    points: &'a [f32],
    columns: usize,
    options: &'a KMeansOptions,
    /// The points whose numbers are all finite.
    usable: Vec<u32>,
}

impl<'a> Clustering<'a> {
    /// Finds the points that take part, and checks that `options` asks for a possible number of centroids.
    pub(super) fn new(points: &'a [f32], columns: usize, options: &'a KMeansOptions) -> Result<Self> {
        count_rows("points", points, columns)?;
        let finite = |(_, point): &(u32, &[f32])| point.iter().all(|number| number.is_finite());
        let usable: Vec<u32> = (0..).zip(points.chunks_exact(columns)).filter(finite).map(|(row, _)| row).collect();
        let most = usable.len().min(CENTROIDS_MAX);
        if (1..=most).contains(&options.centroids) {
            return Ok(Self { points, columns, options, usable });
        }
        Err(Error::invalid_input(format!(
            "{} centroids cannot be made of {} points with finite numbers: from 1 to {most} are possible",
            options.centroids,
            usable.len()
        )))
    }

    /// Chooses the centroids of the first iteration.
    pub(super) fn first_centroids(&self) -> Vec<f32> {
        let Self { points, columns, options, ref usable } = *self;
        let mut random = Random::new(options.seed);
        let point = |row: u32| &points[row as usize * columns..][..columns];
        match options.init {
            CentroidInit::Random => {
                // The first steps of a Fisher–Yates shuffle.
                let mut rows = usable.to_vec();
                for place in 0..options.centroids {
                    let other = place + random.below((rows.len() - place) as u64) as usize;
                    rows.swap(place, other);
                }
                rows[..options.centroids].iter().flat_map(|&row| point(row)).copied().collect()
            }
            CentroidInit::PlusPlus => {
                let mut chosen = point(usable[random.below(usable.len() as u64) as usize]).to_vec();
                let mut squares = vec![f32::INFINITY; usable.len()];
                let mut found = vec![NONE; points.len() / columns];
                while chosen.len() < options.centroids * columns {
                    let newest = &chosen[chosen.len() - columns..];
                    let mut total = 0.0;
                    measure(points, newest, &mut found);
                    for (square, &row) in squares.iter_mut().zip(usable) {
                        *square = square.min(KernelMetric::SquaredL2.number(found[row as usize]));
                        total += f64::from(*square);
                    }
                    let mut target = random.unit() * total;
                    let reached = squares.iter().position(|&square| {
                        target -= f64::from(square);
                        target < 0.0
                    });
                    // When every point is chosen already, or rounding passes the end, any point will do.
                    let place = reached.unwrap_or_else(|| random.below(usable.len() as u64) as usize);
                    chosen.extend_from_slice(point(usable[place]));
                }
                chosen
            }
        }
    }

    /// Iterates until the maximum of iterations is reached or an iteration improves the inertia too little.
    pub(super) fn run(&self, mut steps: impl Steps) -> Result<Clusters> {
        let mut iterations = 0;
        let mut before = f64::INFINITY;
        loop {
            let assigned = steps.assign()?;
            let mut nearest = vec![NO_CLUSTER; self.points.len() / self.columns];
            let mut inertia = 0.0;
            for &row in &self.usable {
                let NearestCentroid { key, centroid } = assigned[row as usize];
                nearest[row as usize] = centroid;
                inertia += f64::from(KernelMetric::SquaredL2.number(key));
            }
            // The first iteration has nothing to compare with.
            let improved = iterations == 0 || before - inertia > self.options.improvement_min * before;
            if iterations == self.options.iterations_max || !improved {
                return Ok(Clusters { centroids: steps.centroids()?, nearest, inertia, iterations });
            }
            let members = ClusterMembers::new(&nearest, self.options.centroids);
            steps.update(&members, &reseeds(&members, &assigned, &self.usable))?;
            before = inertia;
            iterations += 1;
        }
    }
}

/// Returns a new point for each centroid without members: the points farthest from their own centroids, farthest first.
pub(super) fn reseeds(members: &ClusterMembers, assigned: &[NearestCentroid], usable: &[u32]) -> Vec<Reseed> {
    let centroids = members.starts.len() - 1;
    let empty: Vec<u32> = (0..centroids as u32).filter(|&centroid| members.of(centroid as usize).is_empty()).collect();
    if empty.is_empty() {
        return Vec::new();
    }
    let key = |row: u32| assigned[row as usize].key;
    let off = |row: &u32| key(*row) != NONE && KernelMetric::SquaredL2.number(key(*row)) > 0.0;
    let mut farthest: Vec<u32> = usable.iter().copied().filter(off).collect();
    farthest.sort_unstable_by_key(|&row| (std::cmp::Reverse(key(row)), row));
    empty.into_iter().zip(farthest).map(|(centroid, point)| Reseed { centroid, point }).collect()
}

vectorised! {
    fn measure(points: &[f32], to: &[f32], keys: &mut [u32]) {
        for_each_key(KernelMetric::SquaredL2, points, to, to.len(), |point, _, key| keys[point] = key);
    }
}
