#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use super::lloyd::{ClusterMembers, NearestCentroid, Reseed, Steps, reseeds};
use super::on_cpu::OnCpu;
use super::on_device::OnDevice;
use super::*;
use crate::kernels::distance::KernelMetric;
use crate::kernels::nearest;
use crate::matrix::Matrix;
use crate::testing;

fn options(centroids: usize) -> KMeansOptions {
    KMeansOptions { centroids, iterations_max: 20, improvement_min: 1e-4, init: CentroidInit::PlusPlus, seed: 7 }
}

fn plain_square(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

#[test]
fn one_step_agrees_with_the_plain_computation() {
    let device = testing::device();
    // Points, columns, centroids.
    for (count, columns, centroids) in [(1, 1, 1), (7, 3, 7), (257, 5, 67), (1009, 65, 3), (300, 129, 130)] {
        let mut random = Random::new(count as u64);
        let points = testing::numbers(&mut random, count * columns);
        let first = testing::numbers(&mut random, centroids * columns);
        // Parts of at most 100 points.
        let matrix = Matrix::upload_in_parts(&device, &points, columns, (100 * columns * 4) as u64).unwrap();
        let mut gpu = OnDevice::new(matrix, &points, &first).unwrap();
        let mut cpu = OnCpu { points: &points, columns, centroids: first.clone() };
        let (by_gpu, by_cpu) = (gpu.assign().unwrap(), cpu.assign().unwrap());
        assert_eq!((by_gpu.len(), by_cpu.len()), (count, count));
        for (point, (gpu, cpu)) in points.chunks_exact(columns).zip(by_gpu.iter().zip(&by_cpu)) {
            let squares: Vec<f64> = first.chunks_exact(columns).map(|row| plain_square(point, row)).collect();
            let least = squares.iter().copied().fold(f64::INFINITY, f64::min);
            for NearestCentroid { key, centroid } in [gpu, cpu] {
                // No coordinate is further than 1 from 0.
                let margin = f64::from(nearest::TOLERANCE) * 2.0 * columns as f64;
                assert!((squares[*centroid as usize] - least).abs() <= margin);
                assert!((f64::from(KernelMetric::SquaredL2.number(*key)) - least).abs() <= margin);
            }
        }
        let assigned: Vec<u32> = by_cpu.iter().map(|assigned| assigned.centroid).collect();
        let members = ClusterMembers::new(&assigned, centroids);
        let empty = (0..centroids).find(|&centroid| members.of(centroid).is_empty());
        let reseeds = empty.map(|centroid| Reseed { centroid: centroid as u32, point: 0 });
        gpu.update(&members, reseeds.as_slice()).unwrap();
        cpu.update(&members, reseeds.as_slice()).unwrap();
        let (gpu, cpu) = (gpu.centroids().unwrap(), cpu.centroids().unwrap());
        for centroid in 0..centroids {
            let rows: Vec<usize> = (0..count).filter(|&row| assigned[row] == centroid as u32).collect();
            for column in 0..columns {
                let at = centroid * columns + column;
                let sum: f64 = rows.iter().map(|row| f64::from(points[row * columns + column])).sum();
                let expected = match rows.len() {
                    0 if empty == Some(centroid) => f64::from(points[column]),
                    0 => f64::from(first[at]),
                    many => sum / many as f64,
                };
                for found in [gpu[at], cpu[at]] {
                    assert!((f64::from(found) - expected).abs() <= f64::from(TOLERANCE), "{found} for {expected}");
                }
            }
        }
    }
}

/// `count` points in blobs around the corners of a large square, blob by turns.
fn blobs(count: usize) -> Vec<f32> {
    let mut points = testing::numbers(&mut Random::new(3), count * 2);
    for (row, point) in points.chunks_exact_mut(2).enumerate() {
        point[0] += [0.0, 100.0][row % 2];
        point[1] += [0.0, 100.0][row / 2 % 2];
    }
    points
}

#[test]
fn blobs_are_found_by_both() {
    let device = testing::device();
    let points = blobs(1003);
    let cpu = on_cpu(&points, 2, &options(4)).unwrap();
    let gpu = on_device(&device, &points, 2, &options(4)).unwrap();
    assert_eq!(cpu.nearest, gpu.nearest);
    for (row, cluster) in cpu.nearest.iter().enumerate() {
        assert_eq!(*cluster, cpu.nearest[row % 4], "point {row}");
    }
    let exact: f64 = points
        .chunks_exact(2)
        .zip(&cpu.nearest)
        .map(|(point, &cluster)| plain_square(point, &cpu.centroids[cluster as usize * 2..][..2]))
        .sum();
    assert!((cpu.inertia - exact).abs() < exact * 1e-4 && (gpu.inertia - exact).abs() < exact * 1e-4);
}

#[test]
fn more_iterations_are_no_worse() {
    let points = testing::numbers(&mut Random::new(11), 2000 * 6);
    let mut last = f64::INFINITY;
    for iterations_max in [0, 1, 3, 10] {
        let options = KMeansOptions { iterations_max, improvement_min: 0.0, init: CentroidInit::Random, ..options(20) };
        let clusters = on_cpu(&points, 6, &options).unwrap();
        assert!(clusters.iterations <= iterations_max);
        assert!(clusters.inertia < last, "{} after {last}", clusters.inertia);
        last = clusters.inertia;
    }
}

#[test]
fn a_seed_gives_the_same_clusters() {
    let device = testing::device();
    let points = testing::numbers(&mut Random::new(12), 500 * 3);
    for init in [CentroidInit::Random, CentroidInit::PlusPlus] {
        let options = KMeansOptions { init, ..options(9) };
        assert_eq!(on_cpu(&points, 3, &options).unwrap(), on_cpu(&points, 3, &options).unwrap());
        let device_runs = [(); 2].map(|()| on_device(&device, &points, 3, &options).unwrap());
        assert_eq!(device_runs[0], device_runs[1]);
        let other = on_cpu(&points, 3, &KMeansOptions { seed: 8, ..options }).unwrap();
        assert_ne!(other.centroids, on_cpu(&points, 3, &options).unwrap().centroids);
    }
}

#[test]
fn an_empty_cluster_starts_again_at_the_farthest_point() {
    // Three points together and one far off: of two equal centroids the second gets nothing at first.
    let points = [0.0, 0.0, 0.0, 9.0];
    starts_again(OnCpu { points: &points, columns: 1, centroids: vec![0.0, 0.0] });
    let matrix = Matrix::upload(&testing::device(), &points, 1).unwrap();
    starts_again(OnDevice::new(matrix, &points, &[0.0, 0.0]).unwrap());
}

fn starts_again(mut steps: impl Steps) {
    let assigned = steps.assign().unwrap();
    let nearest: Vec<u32> = assigned.iter().map(|assigned| assigned.centroid).collect();
    assert_eq!(nearest, [0, 0, 0, 0], "the first of equal centroids");
    let members = ClusterMembers::new(&nearest, 2);
    let reseeds = reseeds(&members, &assigned, &[0, 1, 2, 3]);
    assert_eq!(reseeds, [Reseed { centroid: 1, point: 3 }]);
    steps.update(&members, &reseeds).unwrap();
    let nearest: Vec<u32> = steps.assign().unwrap().iter().map(|assigned| assigned.centroid).collect();
    assert_eq!(nearest, [0, 0, 0, 1]);
}

#[test]
fn points_that_are_no_numbers_have_no_cluster() {
    let device = testing::device();
    let mut points = blobs(41);
    points[4] = f32::NAN;
    points[21] = f32::INFINITY;
    for clusters in [on_cpu(&points, 2, &options(4)).unwrap(), on_device(&device, &points, 2, &options(4)).unwrap()] {
        let without: Vec<usize> = (0..41).filter(|&row| clusters.nearest[row] == NO_CLUSTER).collect();
        assert_eq!(without, [2, 10]);
        assert!(clusters.centroids.iter().all(|number| number.is_finite()));
    }
}

#[test]
fn equal_points_are_no_trouble() {
    let device = testing::device();
    let points = [5.0; 30];
    for clusters in [on_cpu(&points, 3, &options(4)).unwrap(), on_device(&device, &points, 3, &options(4)).unwrap()] {
        assert_eq!(clusters.nearest, [0; 10]);
        assert_eq!(clusters.inertia, 0.0);
        assert_eq!(clusters.centroids, [5.0; 12]);
    }
}

#[test]
fn more_centroids_than_points_are_refused() {
    for (points, centroids) in [(0, 1), (3, 4), (3, 0)] {
        let error = on_cpu(&[1.0; 3][..points], 1, &options(centroids)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let error = on_cpu(&[1.0, f32::NAN], 1, &options(2)).unwrap_err();
    assert!(error.message().contains("1 points with finite numbers"), "{error}");
}
