// Distances between left rows and right rows, as keys that have their order. `nearest.wgsl` and `kmeans.wgsl` share this
// file, which precedes each of them in one source.
//
// A work group of 16 × 16 lanes takes 16 × ROWS left rows and 64 right rows. Both come through shared memory, 16
// columns at a time, and a lane keeps the sums of ROWS × 4 pairs in registers. Every pair is summed in the order of its
// columns, so equal rows get equal keys.

// 0: squared Euclidean; 1: cosine; 2: inner product.
override METRIC: u32 = 0u;
// Left rows of a lane: 1 or 4.
override ROWS: u32 = 4u;

const LANES = 16u;
const COLUMNS = 16u;
const RIGHT_ROWS = 64u;
// One more than the rows, so that lanes that store a column use different memory banks.
const STRIDE = 65u;
// The key of NaN, of the cosine of a zero vector, and of an absent row; no number has it.
const NONE = 0xffffffffu;

@group(0) @binding(0) var<storage, read> left: array<f32>;
@group(0) @binding(1) var<storage, read> right: array<f32>;

var<workgroup> left_part: array<f32, 1040>;
var<workgroup> right_part: array<f32, 1040>;

// Returns the key of `number`. Keys, as unsigned numbers, are in the order of the numbers, with NaN last.
fn ordered(number: f32) -> u32 {
    let bits = bitcast<u32>(number);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return NONE;
    }
    // Minus zero has the key of zero.
    if bits == 0x80000000u {
        return bits;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn key(sum: f32, left_square: f32, right_square: f32) -> u32 {
    if METRIC == 0u {
        return ordered(sum);
    }
    if METRIC == 2u {
        return ordered(-sum);
    }
    if left_square == 0.0 || right_square == 0.0 {
        return NONE;
    }
    return ordered(1.0 - sum / (sqrt(left_square) * sqrt(right_square)));
}

// Computes the keys of the lane at (x, y): row i of the result is left row `first_left + y + 16 i`, column j is right row
// `first_right + x + 16 j`. Rows from `left_end` and `right_end` on are not read, and their keys are undefined.
fn distances(columns: u32, first_left: u32, left_end: u32, first_right: u32, right_end: u32, lane: vec2<u32>)
    -> array<vec4<u32>, 4> {
    var sums: array<vec4<f32>, 4>;
    var left_squares: vec4<f32>;
    var right_squares: vec4<f32>;
    let rows = LANES * ROWS;
    for (var first = 0u; first < columns; first += COLUMNS) {
        let column = first + lane.x;
        for (var row = lane.y; row < rows; row += LANES) {
            let inside = first_left + row < left_end && column < columns;
            left_part[lane.x * STRIDE + row] = select(0.0, left[(first_left + row) * columns + column], inside);
        }
        for (var row = lane.y; row < RIGHT_ROWS; row += LANES) {
            let inside = first_right + row < right_end && column < columns;
            right_part[lane.x * STRIDE + row] = select(0.0, right[(first_right + row) * columns + column], inside);
        }
        workgroupBarrier();
        for (var part = 0u; part < COLUMNS; part++) {
            let at = part * STRIDE + lane.x;
            let theirs = vec4(right_part[at], right_part[at + 16u], right_part[at + 32u], right_part[at + 48u]);
            for (var i = 0u; i < ROWS; i++) {
                let ours = left_part[part * STRIDE + lane.y + LANES * i];
                if METRIC == 0u {
                    let apart = theirs - ours;
                    sums[i] += apart * apart;
                } else {
                    sums[i] += theirs * ours;
                }
                if METRIC == 1u {
                    left_squares[i] += ours * ours;
                }
            }
            if METRIC == 1u {
                right_squares += theirs * theirs;
            }
        }
        workgroupBarrier();
    }
    var keys: array<vec4<u32>, 4>;
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 4u; j++) {
            keys[i][j] = key(sums[i][j], left_squares[i], right_squares[j]);
        }
    }
    return keys;
}

// Returns whether `a` precedes `b`. Each is a key and a row.
fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && a.y < b.y);
}
