"""`make bench-lookup`: rows by key, one and 100 at a time, before and after small upserts, in Cenote and its peers."""

import array
import random
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import harness
from harness import Contestant, Metric

CALL_ROWS = 100


def make_keys(file: Path, rows: int, gets: int, takes: int, upserts: int) -> dict[str, object]:
    """Writes the keys of every call, in order, as int64, and returns what a contestant must find with them.

    The calls are gets and takes of 100, then upserts of 100, half of them existing rows, then gets and takes again.
    Rows are loaded with their id as payload; an upsert sets it to minus the number of the call.
    """
    chance = random.Random(0)
    keys = array.array("q")
    upserted: dict[int, int] = {}
    total, payload_sum = rows, 0

    def look_up() -> None:
        nonlocal payload_sum
        for _ in range(gets):
            keys.append(chance.randrange(total))
            payload_sum += upserted.get(keys[-1], keys[-1])
        for _ in range(takes):
            keys.extend(chance.sample(range(total), CALL_ROWS))

    look_up()
    for call in range(1, upserts + 1):
        there = chance.sample(range(total), CALL_ROWS // 2)
        ids = [*there, *range(total, total + CALL_ROWS - len(there))]
        total += CALL_ROWS - len(there)
        keys.extend(ids)
        upserted |= dict.fromkeys(ids, -call)
    look_up()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(keys.tobytes())
    return {"found": 2 * (gets + takes * CALL_ROWS), "payload_sum": payload_sum}


def percentile(times_ms: list[float], percent: int) -> float:
    return statistics.quantiles(times_ms, n=100, method="inclusive")[percent - 1]


def metrics() -> list[Metric]:
    chosen = []
    for when in ("loaded", "upserted"):
        for name, field in (("1 row", f"get_{when}_ms"), ("100 rows", f"take_{when}_ms")):
            for percent in (50, 99):
                label = f"{name} p{percent}" + (" after upserts" if when == "upserted" else "")
                read = lambda run, field=field, percent=percent: percentile(run.report[field], percent)
                chosen.append(Metric(label, "ms", "lower", read))
    return chosen


def benchmark() -> None:
    parser = harness.arguments("Look rows up by key: Cenote, Lance and DuckDB side by side.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows loaded first (default: %(default)s)")
    parser.add_argument("--gets", type=int, default=2000, help="lookups of one key (default: %(default)s)")
    parser.add_argument("--takes", type=int, default=200, help="lookups of 100 keys (default: %(default)s)")
    parser.add_argument("--upserts", type=int, default=60, help="upserts of 100 rows between (default: %(default)s)")
    options = parser.parse_args()
    python = harness.peers_python()
    keys = harness.cache_directory() / "bench-lookup" / "keys.i64"
    counts = (options.rows, options.gets, options.takes, options.upserts)
    expected = make_keys(keys, *counts)
    arguments = [*map(str, counts), str(keys), "{scratch}"]

    def peer(name: str, package: str, take: str) -> Contestant:
        return Contestant(
            name=name,
            command=[str(python), str(HERE / f"peer_{name}.py"), *arguments],
            expected=expected,
            settings={"peer_version": harness.peer_version(package), "peer_100_rows": take},
        )

    peers = [
        peer("lance", "pylance", "take by offset, without a search by key; after upserts id IN (...)"),
        peer("duckdb", "duckdb", "id IN (...)"),
    ]
    ours = None
    if not options.peers_only:
        binary = harness.build_example("bench_lake", options.profile)
        ours = Contestant("cenote", [str(binary), "lookup", *arguments], expected=expected)
    settings = {
        "rows": options.rows,
        "row": "int64 key, 8 float32, int64",
        "gets": options.gets,
        "takes": options.takes,
        "upserts": f"{options.upserts} of {CALL_ROWS} rows, half of them new",
        "process": "one, open; ours asks for the newest version in every call",
        "profile": options.profile,
    }
    harness.compare("lookup", ours, peers, metrics(), settings, options)


harness.main(benchmark)
