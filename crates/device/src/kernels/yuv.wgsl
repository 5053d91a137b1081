// One lane makes four pixels of the batch, which are three whole words.

struct Params {
    width: u32,
    height: u32,
    frames: u32,
    // Fixed-point with 16 fractional bits; see `yuv.rs`.
    luma: i32,
    luma_base: i32,
    red_of_v: i32,
    green_of_u: i32,
    green_of_v: i32,
    blue_of_u: i32,
}

var<immediate> params: Params;
// Each frame: luma, then U, then V, all lines without gaps.
@group(0) @binding(0) var<storage, read> planes: array<u32>;
@group(0) @binding(1) var<storage, read_write> pixels: array<u32>;

fn byte(at: u32) -> i32 {
    return i32((planes[at / 4u] >> (at % 4u * 8u)) & 255u);
}

fn level(fixed: i32) -> u32 {
    return u32(clamp((fixed + 0x8000) >> 16u, 0, 255));
}

// Red in the lowest byte.
fn rgb(pixel: u32) -> u32 {
    let frame_pixels = params.width * params.height;
    let chroma_width = (params.width + 1u) / 2u;
    let chroma_pixels = chroma_width * ((params.height + 1u) / 2u);
    let first = pixel / frame_pixels * (frame_pixels + 2u * chroma_pixels);
    let at = pixel % frame_pixels;
    let chroma = first + frame_pixels + at / params.width / 2u * chroma_width + at % params.width / 2u;
    let y = (byte(first + at) - params.luma_base) * params.luma;
    let u = byte(chroma) - 128;
    let v = byte(chroma + chroma_pixels) - 128;
    return level(y + params.red_of_v * v)
        | (level(y - params.green_of_u * u - params.green_of_v * v) << 8u)
        | (level(y + params.blue_of_u * u) << 16u);
}

@compute @workgroup_size(64)
fn convert(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let four = (group.x + group.y * groups.x) * 64u + lane;
    let count = params.frames * params.width * params.height;
    if 4u * four >= count {
        return;
    }
    var colours: array<u32, 4>;
    for (var i = 0u; i < 4u; i++) {
        colours[i] = rgb(min(4u * four + i, count - 1u));
    }
    // The buffer has a multiple of four pixels, so the last words fit behind the last pixel.
    pixels[3u * four] = colours[0] | (colours[1] << 24u);
    pixels[3u * four + 1u] = (colours[1] >> 8u) | (colours[2] << 16u);
    pixels[3u * four + 2u] = (colours[2] >> 16u) | (colours[3] << 8u);
}
