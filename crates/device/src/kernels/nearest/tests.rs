#![allow(clippy::unwrap_used)]
use cenote_base::{ErrorKind, Random};

use super::*;
use crate::testing;

const METRICS: [KernelMetric; 3] = [KernelMetric::SquaredL2, KernelMetric::Cosine, KernelMetric::InnerProduct];

/// Computes the distance in f64, `None` when it is undefined, and the scale that the tolerance is a part of.
fn plain(metric: KernelMetric, a: &[f32], b: &[f32]) -> (Option<f64>, f64) {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let (aa, bb, ab) = (product(a, a), product(b, b), product(a, b));
    let distance = match metric {
        KernelMetric::SquaredL2 => aa + bb - 2.0 * ab,
        KernelMetric::InnerProduct => ab,
        KernelMetric::Cosine => 1.0 - ab / (aa.sqrt() * bb.sqrt()),
    };
    let scale = if metric == KernelMetric::Cosine { 1.0 } else { aa + bb };
    ((!distance.is_nan()).then_some(distance), scale)
}

/// Checks that `hits` are those of an exact sort, but for distances within the tolerance.
fn check_hits(metric: KernelMetric, query: &[f32], matrix: &[f32], columns: usize, wanted: usize, hits: &[NearestRow]) {
    let near = |distance: f64| if metric == KernelMetric::InnerProduct { -distance } else { distance };
    let all: Vec<_> = matrix.chunks_exact(columns).map(|row| plain(metric, query, row)).collect();
    let mut defined: Vec<f64> = all.iter().filter_map(|(distance, _)| distance.map(near)).collect();
    defined.sort_by(f64::total_cmp);
    assert_eq!(hits.len(), wanted.min(defined.len()));
    for (hit, best) in hits.iter().zip(&defined) {
        let (exact, scale) = all[hit.row as usize];
        let margin = f64::from(TOLERANCE) * scale.max(1e-30);
        let exact = exact.unwrap();
        assert!((f64::from(hit.distance) - exact).abs() <= margin, "{metric:?}: {hit:?}, exactly {exact}");
        assert!((near(exact) - best).abs() <= 2.0 * margin, "{metric:?}: {hit:?} where {best} is next");
    }
    for pair in hits.windows(2) {
        let (a, b) = (near(f64::from(pair[0].distance)), near(f64::from(pair[1].distance)));
        assert!(a < b || a == b && pair[0].row < pair[1].row, "{pair:?}");
    }
    let mut rows: Vec<_> = hits.iter().map(|hit| hit.row).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), hits.len());
}

#[test]
fn both_find_the_nearest_at_odd_sizes() {
    let device = testing::device();
    // Queries, rows, columns, wanted.
    let sizes = [
        (1, 1, 1, 1),
        (1, 1, 1, 256),
        (3, 7, 2, 10),
        (16, 64, 16, 5),
        (17, 65, 17, 65),
        (67, 257, 31, 256),
        (1, 9001, 5, 100),
        (70, 4099, 13, 1),
        (259, 131, 3, 7),
        (2, 300, 769, 33),
    ];
    for (index, (queries, rows, columns, wanted)) in sizes.into_iter().enumerate() {
        let mut random = Random::new(index as u64);
        let (left, right) =
            (testing::numbers(&mut random, queries * columns), testing::numbers(&mut random, rows * columns));
        let matrix = Matrix::upload(&device, &right, columns).unwrap();
        for metric in METRICS {
            let cpu = on_cpu(metric, &left, &right, columns, wanted).unwrap();
            let gpu = on_device(metric, &left, &matrix, wanted).unwrap().wait().unwrap();
            assert_eq!((cpu.len(), gpu.len()), (queries, queries));
            for ((query, cpu), gpu) in left.chunks_exact(columns).zip(cpu).zip(gpu) {
                check_hits(metric, query, &right, columns, wanted, &cpu);
                check_hits(metric, query, &right, columns, wanted, &gpu);
            }
        }
    }
}

#[test]
fn parts_and_blocks_are_one_matrix() {
    let (rows, columns, wanted) = (12_345, 4, 200);
    let mut random = Random::new(5);
    let (left, right) = (testing::numbers(&mut random, 33 * columns), testing::numbers(&mut random, rows * columns));
    // With this little memory, the keys of 33 queries are made in blocks of some 1,000 rows.
    let device = testing::open_with(1 << 20);
    let matrix = Matrix::upload_in_parts(&device, &right, columns, 80_000).unwrap();
    assert_eq!(matrix.parts().len(), 3);
    assert!(block_rows(&device, 33) < 1000);
    let cpu = on_cpu(KernelMetric::SquaredL2, &left, &right, columns, wanted).unwrap();
    let gpu = on_device(KernelMetric::SquaredL2, &left, &matrix, wanted).unwrap().wait().unwrap();
    for ((query, cpu), gpu) in left.chunks_exact(columns).zip(cpu).zip(gpu) {
        check_hits(KernelMetric::SquaredL2, query, &right, columns, wanted, &cpu);
        check_hits(KernelMetric::SquaredL2, query, &right, columns, wanted, &gpu);
    }
}

#[test]
fn equal_rows_come_in_order() {
    let device = testing::device();
    // Five rows over and over, so that each distance occurs 2,000 times; worst first, so that all are candidates once.
    let mut right: Vec<f32> = (0..10_000).flat_map(|row| [(9_999 - row) as f32 / 2000.0, 0.25]).collect();
    right.chunks_exact_mut(2).for_each(|row| row[0] = row[0].floor() + 1.0);
    let left = [0.0, 0.25, 1.0, -1.0];
    let matrix = Matrix::upload(&device, &right, 2).unwrap();
    for metric in METRICS {
        let cpu = on_cpu(metric, &left, &right, 2, 256).unwrap();
        let gpu = on_device(metric, &left, &matrix, 256).unwrap().wait().unwrap();
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            let rows = |hits: &[NearestRow]| hits.iter().map(|hit| hit.row).collect::<Vec<_>>();
            let first = if cpu[0].row < 2000 { 0 } else { 8000 };
            assert_eq!(rows(cpu), (first..first + 256).collect::<Vec<u32>>(), "{metric:?}");
            assert_eq!(rows(cpu), rows(gpu), "{metric:?}");
        }
    }
}

#[test]
fn what_is_undefined_is_not_found() {
    let device = testing::device();
    let mut right = testing::numbers(&mut Random::new(8), 100 * 3);
    right[4 * 3 + 1] = f32::NAN;
    right[50 * 3..51 * 3].fill(0.0);
    right[70 * 3] = f32::INFINITY;
    let left = [1.0, 2.0, 3.0, f32::NAN, 1.0, 1.0, 0.0, 0.0, 0.0];
    let matrix = Matrix::upload(&device, &right, 3).unwrap();
    for metric in METRICS {
        let cpu = on_cpu(metric, &left, &right, 3, 256).unwrap();
        let gpu = on_device(metric, &left, &matrix, 256).unwrap().wait().unwrap();
        let counts = |hits: &[Vec<NearestRow>]| hits.iter().map(Vec::len).collect::<Vec<_>>();
        let expected = match metric {
            KernelMetric::SquaredL2 => [99, 0, 99],
            // Infinity times zero is NaN.
            KernelMetric::InnerProduct => [99, 0, 98],
            KernelMetric::Cosine => [97, 0, 0],
        };
        assert_eq!(counts(&cpu), expected, "{metric:?}");
        assert_eq!(counts(&gpu), expected, "{metric:?}");
        assert!(gpu[0].iter().all(|hit| hit.row != 4));
    }
}

#[test]
fn nothing_in_nothing_out() {
    let device = testing::device();
    let empty = Matrix::upload(&device, &[], 3).unwrap();
    let some = Matrix::upload(&device, &[1.0, 2.0, 3.0], 3).unwrap();
    assert!(on_device(KernelMetric::SquaredL2, &[], &some, 5).unwrap().wait().unwrap().is_empty());
    assert!(on_cpu(KernelMetric::SquaredL2, &[], &[1.0, 2.0, 3.0], 3, 5).unwrap().is_empty());
    let nothing: Vec<Vec<NearestRow>> = vec![Vec::new(); 2];
    assert_eq!(on_device(KernelMetric::SquaredL2, &[0.0; 6], &empty, 5).unwrap().wait().unwrap(), nothing);
    assert_eq!(on_cpu(KernelMetric::SquaredL2, &[0.0; 6], &[], 3, 5).unwrap(), nothing);
}

#[test]
fn wrong_shapes_are_refused() {
    let device = testing::device();
    let matrix = Matrix::upload(&device, &[0.0; 6], 3).unwrap();
    let kind = |result: Result<_>| result.map(|_: Pending<_>| ()).unwrap_err().kind();
    for (queries, wanted) in [(4, 1), (3, 0), (3, 257)] {
        assert_eq!(
            kind(on_device(KernelMetric::SquaredL2, &[0.0; 6][..queries], &matrix, wanted)),
            ErrorKind::InvalidInput
        );
        let cpu = on_cpu(KernelMetric::SquaredL2, &[0.0; 6][..queries], &[0.0; 6], 3, wanted);
        assert_eq!(cpu.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert!(Matrix::upload(&device, &[0.0; 6], 0).is_err());
}

#[test]
fn keys_are_in_the_order_of_numbers() {
    let numbers = [f32::NEG_INFINITY, -3.5, -1e-40, -0.0, 1e-40, 0.1, 7.0, f32::MAX, f32::INFINITY, f32::NAN];
    let keys: Vec<u32> = numbers.iter().map(|&number| KernelMetric::SquaredL2.key(number, 0.0, 0.0)).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    assert_eq!(KernelMetric::SquaredL2.key(0.0, 0.0, 0.0), KernelMetric::SquaredL2.key(-0.0, 0.0, 0.0));
    for (number, key) in numbers.iter().zip(keys).filter(|(number, _)| !number.is_nan()) {
        assert_eq!(KernelMetric::SquaredL2.number(key), *number);
    }
}
