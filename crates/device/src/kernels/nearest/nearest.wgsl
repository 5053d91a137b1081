// After `distance.wgsl`: a block of memory holds the keys of queries and rows. Each work group picks the nearest of some
// rows for one query; then the picks of a query are merged.

// The rows from which a work group of `pick` picks.
const PICK_ROWS = 4096u;
// The rows that a work group keeps as the nearest, and the candidates that wait to be compared with them: 256 of each.
const KEPT = 256u;

struct Params {
    columns: u32,
    queries: u32,
    // The rows of this block are `first_row` to `end_row` of the part of the matrix at binding 1, whose first row is row
    // `part_row` of the matrix.
    first_row: u32,
    end_row: u32,
    part_row: u32,
    // The number of rows wanted for each query.
    wanted: u32,
    // The places for picks of each query. Place 0 has the merged picks of earlier blocks, and is full from the second
    // block on.
    places: u32,
    // The places that are merged: those that this block fills, and place 0 once it is full.
    first_place: u32,
    end_place: u32,
}

var<immediate> params: Params;
// queries × rows of the block.
@group(0) @binding(2) var<storage, read_write> keys: array<u32>;

@compute @workgroup_size(16, 16)
fn measure(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let first_query = group.y * LANES * ROWS;
    let first_row = params.first_row + group.x * RIGHT_ROWS;
    let found = distances(params.columns, first_query, params.queries, first_row, params.end_row, lane.xy);
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < 4u; j++) {
            let query = first_query + lane.y + LANES * i;
            let row = first_row + lane.x + LANES * j;
            if query < params.queries && row < params.end_row {
                keys[query * (params.end_row - params.first_row) + row - params.first_row] = found[i][j];
            }
        }
    }
}

@group(0) @binding(0) var<storage, read> measured: array<u32>;
// queries × places × wanted: key and row, the nearest first; NONE and NONE where there are fewer.
@group(0) @binding(1) var<storage, read_write> picks: array<vec2<u32>>;

// The kept rows in order, then the candidates in any order.
var<workgroup> entries: array<vec2<u32>, 512>;
var<workgroup> candidates: atomic<u32>;
var<workgroup> waiting: u32;

// Bitonic sort (Batcher, "Sorting networks and their applications", 1968) of all entries, by 256 lanes.
fn sort_entries(lane: u32) {
    for (var size = 2u; size <= 512u; size *= 2u) {
        for (var stride = size / 2u; stride > 0u; stride /= 2u) {
            workgroupBarrier();
            let low = 2u * stride * (lane / stride) + lane % stride;
            let a = entries[low];
            let b = entries[low + stride];
            if before(b, a) == ((low & size) == 0u) {
                entries[low] = b;
                entries[low + stride] = a;
            }
        }
    }
    workgroupBarrier();
    entries[KEPT + lane] = vec2(NONE, NONE);
    if lane == 0u {
        atomicStore(&candidates, 0u);
    }
    workgroupBarrier();
}

fn start(lane: u32) {
    entries[lane] = vec2(NONE, NONE);
    entries[KEPT + lane] = vec2(NONE, NONE);
    if lane == 0u {
        atomicStore(&candidates, 0u);
    }
    workgroupBarrier();
}

// Takes one entry of every lane. All lanes must call it together.
fn offer(lane: u32, entry: vec2<u32>) {
    // Only an entry that precedes the last wanted one can be among the wanted.
    var open = before(entry, entries[params.wanted - 1u]);
    loop {
        if open {
            let place = atomicAdd(&candidates, 1u);
            if place < KEPT {
                entries[KEPT + place] = entry;
                open = false;
            }
        }
        workgroupBarrier();
        if lane == 0u {
            waiting = atomicLoad(&candidates);
        }
        if workgroupUniformLoad(&waiting) < KEPT {
            break;
        }
        sort_entries(lane);
        open = open && before(entry, entries[params.wanted - 1u]);
    }
}

fn put_down(lane: u32, query: u32, place: u32) {
    sort_entries(lane);
    if lane < params.wanted {
        picks[(query * params.places + place) * params.wanted + lane] = entries[lane];
    }
}

@compute @workgroup_size(256)
fn pick(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = params.end_row - params.first_row;
    let first = group.x * PICK_ROWS;
    start(lane);
    for (var row = first; row < min(first + PICK_ROWS, rows); row += 256u) {
        var entry = vec2(NONE, NONE);
        let mine = row + lane;
        if mine < rows {
            let measure = measured[group.y * rows + mine];
            if measure != NONE {
                entry = vec2(measure, params.part_row + params.first_row + mine);
            }
        }
        offer(lane, entry);
    }
    put_down(lane, group.y, 1u + group.x);
}

@group(0) @binding(0) var<storage, read_write> merged: array<vec2<u32>>;

@compute @workgroup_size(256)
fn merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group.x * params.places * params.wanted;
    let end = params.end_place * params.wanted;
    start(lane);
    for (var place = params.first_place * params.wanted; place < end; place += 256u) {
        var entry = vec2(NONE, NONE);
        if place + lane < end {
            entry = merged[first + place + lane];
        }
        offer(lane, entry);
    }
    sort_entries(lane);
    if lane < params.wanted {
        merged[first + lane] = entries[lane];
    }
}

@group(0) @binding(1) var<storage, read_write> hits: array<vec2<u32>>;

@compute @workgroup_size(256)
fn gather(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if lane < params.wanted {
        hits[group.x * params.wanted + lane] = merged[group.x * params.places * params.wanted + lane];
    }
}
