// Resizing: each pixel of a frame is the weighted sum of the source pixels under its filter.

struct Params {
    width: u32,
    height: u32,
    // Lanes of a row of work groups.
    across: u32,
}

struct Picture {
    // The first byte, and the bytes of a line.
    first: u32,
    stride: u32,
    // The indexes of the first spans of its columns and lines.
    columns: u32,
    lines: u32,
    // The part of the frame that it fills; the rest is black.
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

// The source pixels of a column or line, from `first` on, and the index of their first weight.
struct Span {
    first: u32,
    count: u32,
    weights: u32,
}

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> bytes: array<u32>;
@group(0) @binding(1) var<storage, read> pictures: array<Picture>;
@group(0) @binding(2) var<storage, read> spans: array<Span>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
// Bytes: pictures × lines × columns × 3 channels, each picture padded to a multiple of three words.
@group(0) @binding(4) var<storage, read_write> result: array<u32>;

fn rgb(byte: u32) -> vec3<f32> {
    let word = byte / 4u;
    let shift = byte % 4u * 8u;
    var bits = bytes[word] >> shift;
    if shift > 8u {
        bits |= bytes[word + 1u] << (32u - shift);
    }
    return vec3(f32(bits & 255u), f32((bits >> 8u) & 255u), f32((bits >> 16u) & 255u));
}

// Computes a pixel of the frame of picture `number`, in grey levels.
fn color(number: u32, target_x: u32, target_y: u32) -> vec3<f32> {
    let picture = pictures[number];
    // To the left of its placement and above it, the difference wraps to a number that is too large.
    let x = target_x - picture.left;
    let y = target_y - picture.top;
    var sum = vec3(0.0);
    if x >= picture.width || y >= picture.height {
        return sum;
    }
    let column = spans[picture.columns + x];
    let line = spans[picture.lines + y];
    for (var down = 0u; down < line.count; down++) {
        let first = picture.first + (line.first + down) * picture.stride + column.first * 3u;
        var across = vec3(0.0);
        for (var right = 0u; right < column.count; right++) {
            across += weights[column.weights + right] * rgb(first + right * 3u);
        }
        sum += weights[line.weights + down] * across;
    }
    return sum;
}

// Returns a pixel of the frame in whole grey levels, black past its end.
fn levels(number: u32, pixel: u32) -> vec3<u32> {
    if pixel >= params.width * params.height {
        return vec3(0u);
    }
    let exact = color(number, pixel % params.width, pixel / params.width);
    return vec3<u32>(clamp(floor(exact + 0.5), vec3(0.0), vec3(255.0)));
}

// One lane makes four consecutive pixels, which are three words.
@compute @workgroup_size(64)
fn frame(@builtin(global_invocation_id) at: vec3<u32>) {
    let fours = (params.width * params.height + 3u) / 4u;
    let four = at.y * params.across + at.x;
    if four >= fours {
        return;
    }
    let a = levels(at.z, four * 4u);
    let b = levels(at.z, four * 4u + 1u);
    let c = levels(at.z, four * 4u + 2u);
    let d = levels(at.z, four * 4u + 3u);
    let place = (at.z * fours + four) * 3u;
    result[place] = a.x | a.y << 8u | a.z << 16u | b.x << 24u;
    result[place + 1u] = b.y | b.z << 8u | c.x << 16u | c.y << 24u;
    result[place + 2u] = c.z | d.x << 8u | d.y << 16u | d.z << 24u;
}
