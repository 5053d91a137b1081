// One work group hashes one picture: 64 lanes, one for each frequency that is kept.

struct Params { pictures: u32 }

var<immediate> params: Params;
// 32 × 32 grey bytes a picture.
@group(0) @binding(0) var<storage, read> pixels: array<u32>;
// Rows 1 to 8 of the DCT matrix, 8 × 32.
@group(0) @binding(1) var<storage, read> basis: array<f32>;
// Low and high word of each hash.
@group(0) @binding(2) var<storage, read_write> hashes: array<vec2<u32>>;

const NOISE: f32 = 0.01;

var<workgroup> by_row: array<f32, 256>;
var<workgroup> block: array<f32, 64>;
var<workgroup> sorted: array<f32, 64>;
var<workgroup> words: array<atomic<u32>, 2>;

@compute @workgroup_size(64)
fn hash(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let picture = group.x + group.y * groups.x;
    // The last row of the grid may be longer than the batch: such a group repeats the last picture.
    let first_word = min(picture, params.pictures - 1u) * 256u;
    for (var i = lane; i < 256u; i += 64u) {
        let line = i % 32u;
        let frequency = i / 32u;
        var sum = 0.0;
        for (var place = 0u; place < 32u; place++) {
            let byte = (pixels[first_word + line * 8u + place / 4u] >> (place % 4u * 8u)) & 255u;
            sum += basis[frequency * 32u + place] * f32(byte);
        }
        by_row[frequency * 32u + line] = sum;
    }
    if lane < 2u {
        atomicStore(&words[lane], 0u);
    }
    workgroupBarrier();

    var value = 0.0;
    for (var line = 0u; line < 32u; line++) {
        value += basis[lane / 8u * 32u + line] * by_row[lane % 8u * 32u + line];
    }
    if abs(value) < NOISE {
        value = 0.0;
    }
    block[lane] = value;
    workgroupBarrier();

    // Each lane counts how many values come before its own, which is its place in the order.
    var place = 0u;
    for (var other = 0u; other < 64u; other++) {
        place += u32(block[other] < value || (block[other] == value && other < lane));
    }
    sorted[place] = value;
    workgroupBarrier();

    let median = (sorted[31] + sorted[32]) / 2.0;
    if value > median {
        atomicOr(&words[lane / 32u], 1u << (lane % 32u));
    }
    workgroupBarrier();
    if lane == 0u && picture < params.pictures {
        hashes[picture] = vec2(atomicLoad(&words[0]), atomicLoad(&words[1]));
    }
}
