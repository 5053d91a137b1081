// One lane makes one pixel of one picture: all source pixels under its filter, then the scale and offset of each channel.

struct Params {
    width: u32,
    height: u32,
    padding: vec2<u32>,
    scale: vec4<f32>,
    offset: vec4<f32>,
}

struct Picture {
    // The first byte of the crop, and the bytes of a line.
    first: u32,
    stride: u32,
    // Where the spans of its columns and lines begin.
    columns: u32,
    lines: u32,
}

// The source pixels of one column or line, from `first` on, and where their weights begin.
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
// Pictures × 3 channels × lines × columns.
@group(0) @binding(4) var<storage, read_write> values: array<f32>;

fn rgb(byte: u32) -> vec3<f32> {
    let word = byte / 4u;
    let shift = byte % 4u * 8u;
    var bits = bytes[word] >> shift;
    if shift > 8u {
        bits |= bytes[word + 1u] << (32u - shift);
    }
    return vec3(f32(bits & 255u), f32((bits >> 8u) & 255u), f32((bits >> 16u) & 255u));
}

@compute @workgroup_size(8, 8)
fn resize(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= params.width || at.y >= params.height {
        return;
    }
    let picture = pictures[at.z];
    let column = spans[picture.columns + at.x];
    let line = spans[picture.lines + at.y];
    var sum = vec3(0.0);
    for (var y = 0u; y < line.count; y++) {
        let first = picture.first + (line.first + y) * picture.stride + column.first * 3u;
        var across = vec3(0.0);
        for (var x = 0u; x < column.count; x++) {
            across += weights[column.weights + x] * rgb(first + x * 3u);
        }
        sum += weights[line.weights + y] * across;
    }
    let pixels = params.width * params.height;
    let place = at.z * 3u * pixels + at.y * params.width + at.x;
    let value = sum * params.scale.xyz + params.offset.xyz;
    values[place] = value.x;
    values[place + pixels] = value.y;
    values[place + 2u * pixels] = value.z;
}
