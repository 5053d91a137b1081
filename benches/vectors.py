"""The input and the contestants that `bench-fresh`, `bench-filter` and `bench-runbook` share."""

import subprocess
import sys
from pathlib import Path

import harness
from harness import Contestant

DIMENSIONS = 128
NEAREST = 10
# The structure that Lance's users take, and the one that Cenote's index on disk has.
LANCE = ("IVF_HNSW_SQ", "IVF_SQ")


def prepare(python: Path) -> Path:
    """Returns the file of the clustered vectors of `bench-ann`, made if it is not cached."""
    directory = harness.cache_directory() / "bench-ann" / "clustered"
    if not (directory / "truth.u32").exists():
        print(f"making the vectors in {directory}", file=sys.stderr, flush=True)
        script = Path(__file__).resolve().parent / "ann" / "make_vectors.py"
        if subprocess.run([python, script, "clustered", directory], check=False).returncode:
            raise harness.BenchError("cannot make the vectors: see the message above")
    harness.warm_page_cache(directory)
    return directory / "base.f32"


def contestants(mode: str, options, structures: tuple[str, ...]) -> tuple[Contestant | None, list[Contestant]]:
    """Returns Cenote in memory, and as peers Cenote on disk and Lance with each of `structures`."""
    python = harness.peers_python()
    arguments = [str(options.rows), str(options.queries), str(DIMENSIONS), str(prepare(python)), "{scratch}"]
    script = str(Path(__file__).resolve().parent / mode / "peer_lance.py")
    others = [
        Contestant(
            f"lance-{structure.lower()}",
            [str(python), script, *arguments, structure],
            settings={"peer_version": harness.peer_version("pylance")},
        )
        for structure in structures
    ]
    if options.peers_only:
        return None, others
    binary = harness.build_example("bench_lake", options.profile)
    command = [str(binary), "search", mode]
    ours = [Contestant(f"cenote-{kind}", [*command, kind, *arguments]) for kind in ("hnsw", "vector")]
    return ours[0], [*ours[1:], *others]


def parser(description: str, rows: int):
    arguments = harness.arguments(description)
    arguments.add_argument("--rows", type=int, default=rows, help="rows of 128 numbers (default: %(default)s)")
    arguments.add_argument("--queries", type=int, default=200, help="searches per pass (default: %(default)s)")
    return arguments
