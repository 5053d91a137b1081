// After `distance.wgsl`: the two steps of Lloyd's algorithm.

struct Params {
    columns: u32,
    points: u32,
    centroids: u32,
    // Whether to add to the sums of an earlier part of the points.
    go_on: u32,
}

var<immediate> params: Params;
// The nearest centroid of each point: the key of the distance and the centroid's number; both NONE for a point with NaN.
@group(0) @binding(2) var<storage, read_write> nearest: array<vec2<u32>>;

var<workgroup> bests: array<vec2<u32>, 256>;

// Points are left rows, centroids right rows; a work group compares 64 points with all centroids.
@compute @workgroup_size(16, 16)
fn assign(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_id) lane: vec3<u32>) {
    let first_point = (group.x + group.y * groups.x) * LANES * ROWS;
    var best = array(vec2(NONE), vec2(NONE), vec2(NONE), vec2(NONE));
    for (var first = 0u; first < params.centroids; first += RIGHT_ROWS) {
        let found = distances(params.columns, first_point, params.points, first, params.centroids, lane.xy);
        for (var i = 0u; i < ROWS; i++) {
            for (var j = 0u; j < 4u; j++) {
                let entry = vec2(found[i][j], first + lane.x + LANES * j);
                if entry.y < params.centroids && entry.x != NONE && before(entry, best[i]) {
                    best[i] = entry;
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) {
        workgroupBarrier();
        bests[lane.y * LANES + lane.x] = best[i];
        workgroupBarrier();
        let point = first_point + lane.y + LANES * i;
        if lane.x == 0u && point < params.points {
            var least = best[i];
            for (var other = 1u; other < LANES; other++) {
                let entry = bests[lane.y * LANES + other];
                if before(entry, least) {
                    least = entry;
                }
            }
            nearest[point] = least;
        }
    }
}

@group(0) @binding(0) var<storage, read> points: array<f32>;
// The index in `members` of each centroid's first point, and at the end the number of points.
@group(0) @binding(1) var<storage, read> starts: array<u32>;
@group(0) @binding(2) var<storage, read> members: array<u32>;
// The sums of the differences between each centroid's points and the centroid.
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
@group(0) @binding(4) var<storage, read_write> centroids: array<f32>;

// The points of a partial sum, so that a large cluster loses no more digits than a small one.
const RUN = 256u;

@compute @workgroup_size(64)
fn sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * 64u + lane;
    if column >= params.columns {
        return;
    }
    let at = group.y * params.columns + column;
    let old = centroids[at];
    var total = 0.0;
    let end = starts[group.y + 1u];
    for (var first = starts[group.y]; first < end; first += RUN) {
        var part = 0.0;
        for (var member = first; member < min(first + RUN, end); member++) {
            part += points[members[member] * params.columns + column] - old;
        }
        total += part;
    }
    if params.go_on != 0u {
        total += sums[at];
    }
    sums[at] = total;
}

// The number of points of each centroid, over all parts.
@group(0) @binding(0) var<storage, read> counts: array<u32>;
@group(0) @binding(1) var<storage, read> moves: array<f32>;
@group(0) @binding(2) var<storage, read_write> moved: array<f32>;

@compute @workgroup_size(64)
fn shift(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * 64u + lane;
    let count = counts[group.y];
    if column < params.columns && count > 0u {
        let at = group.y * params.columns + column;
        moved[at] += moves[at] / f32(count);
    }
}
