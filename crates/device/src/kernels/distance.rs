//! Distances between rows, and their order.

use crate::simd::LANES;

/// The measure of how near two rows are to each other. Whatever the metric, the nearest row comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelMetric {
    /// The squared Euclidean distance, which has the order of its root.
    SquaredL2,
    /// One minus the cosine of the angle; undefined, and so never found, for a row of zeros.
    Cosine,
    /// The inner product: the larger, the nearer.
    InnerProduct,
}

/// The key of NaN and of an absent row, which comes after all others.
pub(super) const NONE: u32 = u32::MAX;

/// Returns the key of `number`. Keys, as unsigned numbers, are in the order of the numbers, with NaN last.
#[inline(always)]
fn ordered(number: f32) -> u32 {
    let bits = number.to_bits();
    if number.is_nan() {
        NONE
    } else if bits == 1 << 31 {
        // Minus zero has the key of zero.
        bits
    } else if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

impl KernelMetric {
    /// Returns the key of a sum over the columns. Only the cosine needs the squared lengths.
    #[inline(always)]
    pub(super) fn key(self, sum: f32, left_square: f32, right_square: f32) -> u32 {
        match self {
            Self::SquaredL2 => ordered(sum),
            Self::InnerProduct => ordered(-sum),
            Self::Cosine if left_square == 0.0 || right_square == 0.0 => NONE,
            Self::Cosine => ordered(1.0 - sum / (left_square.sqrt() * right_square.sqrt())),
        }
    }

    /// Returns the number whose key is `key`.
    pub(super) fn number(self, key: u32) -> f32 {
        let number = f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key });
        if self == Self::InnerProduct { -number } else { number }
    }
}

/// Sums squared differences (`SQUARES`) or products over the columns, for each `left` row with one right row.
///
/// Each sum has [`LANES`] partial sums, which are added at the end, so a sum depends on its two rows alone.
#[inline(always)]
fn sums<const SQUARES: bool, const ROWS: usize>(left: [&[f32]; ROWS], right: &[f32]) -> [f32; ROWS] {
    let step = |a: f32, b: f32| if SQUARES { (a - b) * (a - b) } else { a * b };
    let mut lanes = [[0.0f32; LANES]; ROWS];
    let (right_whole, right_rest) = right.as_chunks::<LANES>();
    let left_whole = left.map(|row| &row.as_chunks::<LANES>().0[..right_whole.len()]);
    for (place, right) in right_whole.iter().enumerate() {
        for row in 0..ROWS {
            let left = &left_whole[row][place];
            let sums = &mut lanes[row];
            for lane in 0..LANES {
                sums[lane] += step(left[lane], right[lane]);
            }
        }
    }
    let rest = right.len() - right_rest.len();
    for row in 0..ROWS {
        for (lane, (&a, &b)) in left[row][rest..].iter().zip(right_rest).enumerate() {
            lanes[row][lane] += step(a, b);
        }
    }
    lanes.map(add_up)
}

/// Adds up the lanes by halves, which vectorises and rounds little.
#[inline(always)]
fn add_up(mut lanes: [f32; LANES]) -> f32 {
    let mut count = LANES / 2;
    while count > 0 {
        for lane in 0..count {
            lanes[lane] += lanes[lane + count];
        }
        count /= 2;
    }
    lanes[0]
}

/// Calls `take(left row, right row, key)` for every pair, the right rows in order for each left row. `left` and `right`
/// are whole rows of `columns` numbers.
#[inline(always)]
pub(super) fn for_each_key(
    metric: KernelMetric,
    left: &[f32],
    right: &[f32],
    columns: usize,
    mut take: impl FnMut(usize, usize, u32),
) {
    /// Left rows that are compared with a right row at once, so that it is loaded once for all of them.
    const ROWS: usize = 4;
    /// Bytes of a block of right rows, which stays in the second-level cache.
    const BLOCK_BYTES: usize = 128 << 10;
    let squares = |rows: &[f32]| -> Vec<f32> {
        let square = |row: &[f32]| sums::<false, 1>([row], row)[0];
        if metric == KernelMetric::Cosine { rows.chunks_exact(columns).map(square).collect() } else { Vec::new() }
    };
    let (left_squares, right_squares) = (squares(left), squares(right));
    let square = |squares: &[f32], row: usize| squares.get(row).copied().unwrap_or_default();
    let block_rows = (BLOCK_BYTES / (columns * size_of::<f32>())).max(1);
    for (block, right) in right.chunks(block_rows * columns).enumerate() {
        let mut row = 0;
        for group in left.chunks(ROWS * columns) {
            for (place, right) in right.chunks_exact(columns).enumerate() {
                let right_row = block * block_rows + place;
                let right_square = square(&right_squares, right_row);
                let mut put = |i: usize, sum: f32| {
                    take(row + i, right_row, metric.key(sum, square(&left_squares, row + i), right_square));
                };
                if group.len() == ROWS * columns {
                    let rows = std::array::from_fn(|i| &group[i * columns..(i + 1) * columns]);
                    let found = pair_sums::<ROWS>(metric, rows, right);
                    found.into_iter().enumerate().for_each(|(i, sum)| put(i, sum));
                } else {
                    for (i, left) in group.chunks_exact(columns).enumerate() {
                        put(i, pair_sums::<1>(metric, [left], right)[0]);
                    }
                }
            }
            row += ROWS;
        }
    }
}

#[inline(always)]
fn pair_sums<const ROWS: usize>(metric: KernelMetric, left: [&[f32]; ROWS], right: &[f32]) -> [f32; ROWS] {
    match metric {
        KernelMetric::SquaredL2 => sums::<true, ROWS>(left, right),
        KernelMetric::Cosine | KernelMetric::InnerProduct => sums::<false, ROWS>(left, right),
    }
}
