"""Runs Cenote and its peers side by side and writes the results. See README.md in this folder.

Needs nothing but the standard library. A benchmark is a `run.py` that describes its contestants and metrics and calls
`compare`.
"""

import argparse
import ctypes
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benches" / "peers.txt"
TORCH_PEERS = ROOT / "crates" / "python" / "tests" / "full" / "requirements.txt"
# Fewer runs than this show that a benchmark works, but do not make a result.
RUNS_MIN = 5
SAMPLE_INTERVAL_S = 0.25
RUN_LIMIT_S = 900
PR_SET_CHILD_SUBREAPER = 36


class BenchError(Exception):
    """An error that is reported to whoever runs the benchmark, without a traceback."""


@dataclass
class Contestant:
    """A program that does the work once and prints one JSON object as its last line on standard output.

    `{scratch}` in an argument becomes an empty directory that exists for one run only.
    """

    name: str
    command: list[str]
    # Runs once after the first, unmeasured run, and checks what that run wrote to its scratch directory.
    check: list[str] = field(default_factory=list)
    # Fields of the JSON object that must have these values in every run.
    expected: dict[str, object] = field(default_factory=dict)
    # `many` for a program of several processes: its memory is summed over them by sampling.
    processes: str = "one"
    settings: dict[str, object] = field(default_factory=dict)


@dataclass
class Run:
    """One finished run."""

    report: dict
    wall_s: float
    memory_peak_bytes: int
    # Over all processes of the run.
    processor_s: float


@dataclass
class Metric:
    """A figure that `read` takes from a run."""

    name: str
    unit: str
    better: str
    read: Callable[[Run], float]


def cache_directory() -> Path:
    """Returns `$CENOTE_CACHE`, else `$XDG_CACHE_HOME/cenote`, else `~/.cache/cenote`, as Cenote chooses it."""
    if chosen := os.environ.get("CENOTE_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cenote"


def assets_directory() -> Path:
    """Returns `$CENOTE_ASSETS`, else `shared/assets` beside the clone. It need not exist."""
    return Path(os.environ.get("CENOTE_ASSETS") or ROOT.parent / "shared" / "assets")


def arguments(description: str) -> argparse.ArgumentParser:
    """Returns a parser of the options that every benchmark has; a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=RUNS_MIN, help="runs of each contestant (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="only these peers")
    parser.add_argument("--peers-only", action="store_true", help="run the peers without Cenote; writes no results")
    parser.add_argument(
        "--profile",
        default=os.environ.get("PROFILE") or "dev",
        help="Cargo profile of Cenote (default: $PROFILE, else dev)",
    )
    return parser


def peers_python() -> Path:
    """Returns the Python of the peers' virtual environment, which is created or renewed when `peers.txt` changed."""
    venv = cache_directory() / "bench-venv"
    python = venv / "bin" / "python"
    stamp = venv / "peers.sha256"
    wanted = hashlib.sha256(PEERS.read_bytes() + platform.python_version().encode()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing the peers into {venv}", file=sys.stderr, flush=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    install = [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "-r", PEERS]
    for command in ([sys.executable, "-m", "venv", "--clear", venv], install):
        if subprocess.run(command, check=False).returncode != 0:
            raise BenchError(f"cannot install the peers: see the message above, then remove {venv} and try again")
    stamp.write_text(wanted)
    return python


def torch_python() -> Path:
    """Returns the Python of the virtual environment with PyTorch and its loaders, which the tests share."""
    if subprocess.run([ROOT / "scripts" / "setup", "torch"], check=False).returncode != 0:
        raise BenchError("cannot install PyTorch: see the message above")
    return cache_directory() / "torch-venv" / "bin" / "python"


def peer_version(package: str, peers: Path = PEERS) -> str:
    """Returns the version of `package` that `peers` pins."""
    for line in peers.read_text().splitlines():
        name, _, version = line.partition("==")
        if name.partition("[")[0] == package:
            return version
    raise BenchError(f"{peers.name} does not pin {package}")


def target_directory() -> Path:
    """Returns Cargo's target directory, as the Makefile chooses it."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or cache_directory() / "target")


def build_package(profile: str) -> Path:
    """Builds the Python package and returns the directory to import it from."""
    environment = os.environ | {"CARGO_TARGET_DIR": str(target_directory()), "PROFILE": profile}
    if subprocess.run([ROOT / "scripts" / "package"], env=environment, check=False).returncode:
        raise BenchError("the build failed: see the messages above")
    return ROOT / "target" / "python"


def build_example(name: str, profile: str) -> Path:
    """Builds the examples of the workspace and returns the binary of the one called `name`."""
    target = target_directory()
    # The whole workspace, because building one package alone would rebuild its dependencies with other features.
    command = ["cargo", "build", "--locked", "--workspace", "--bins", "--examples", "--profile", profile]
    if subprocess.run(command, cwd=ROOT, env=os.environ | {"CARGO_TARGET_DIR": str(target)}, check=False).returncode:
        raise BenchError("the build failed: see the messages above")
    binary = target / ("debug" if profile == "dev" else profile) / "examples" / name
    if not binary.exists():
        raise BenchError(f"the build made no {binary}: is there an example called {name} in the workspace?")
    return binary


def warm_page_cache(directory: Path) -> None:
    """Reads every file once, so that no contestant pays for the disk on behalf of the others."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            path.read_bytes()


def compare(
    name: str,
    ours: Contestant | None,
    peers: list[Contestant],
    metrics: list[Metric],
    settings: dict[str, object],
    options: argparse.Namespace,
) -> None:
    """Runs every contestant `options.runs` times in turns, prints a table and writes `bench-results/NAME.json`."""
    if options.only:
        chosen = options.only.split(",")
        if unknown := set(chosen) - {peer.name for peer in peers}:
            raise BenchError(f"no peer is called {', '.join(sorted(unknown))}: {', '.join(p.name for p in peers)}")
        peers = [peer for peer in peers if peer.name in chosen]
    contestants = ([ours] if ours else []) + peers
    adopt_orphans()
    for contestant in contestants:
        print(f"warm-up {contestant.name}", file=sys.stderr, flush=True)
        run_once(contestant, check=True)
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    for turn in range(options.runs):
        # Each turn begins with another contestant, so that none always follows the same one.
        first = turn % len(contestants)
        for contestant in contestants[first:] + contestants[:first]:
            run = run_once(contestant)
            runs[contestant.name].append(run)
            figures = ", ".join(f"{metric.name} {figure(metric.read(run))} {metric.unit}" for metric in metrics)
            print(f"run {turn + 1}/{options.runs} {contestant.name}: {figures}", file=sys.stderr, flush=True)
    settings = settings | machine() | {"runs": options.runs}
    print_table(contestants, metrics, runs)
    if ours is None or options.runs < RUNS_MIN:
        print(f"\nA trial: results are written only with Cenote and at least {RUNS_MIN} runs.")
        return
    results = [result(metric, ours, peer, runs, settings) for metric in metrics for peer in peers]
    path = ROOT / "bench-results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten: {path.relative_to(ROOT)}")


def run_once(contestant: Contestant, check: bool = False) -> Run:
    """Runs `contestant` once in a fresh process, and leaves neither files nor processes behind."""
    parent = cache_directory() / "bench-scratch"
    parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=parent) as scratch,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        command = [argument.replace("{scratch}", scratch) for argument in contestant.command]
        used_s = processor_s()
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        sampler = MemorySampler() if contestant.processes == "many" else None
        timer = threading.Timer(RUN_LIMIT_S, child.kill)
        timer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
            wall_s = time.perf_counter() - start
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
            sampled = sampler.stop() if sampler else 0
            end_descendants()
        used_s = processor_s() - used_s
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines = out.read().decode(errors="replace").strip().splitlines()
        if child.returncode == 0 and not lines:
            raise BenchError(f"{contestant.name} succeeded but printed no result")
        if child.returncode != 0:
            tail = "\n".join(err.read().decode(errors="replace").strip().splitlines()[-20:])
            within = f" (limit {RUN_LIMIT_S} s)" if wall_s >= RUN_LIMIT_S else ""
            raise BenchError(f"{contestant.name} ended with {child.returncode} after {wall_s:.0f} s{within}:\n{tail}")
        try:
            report = json.loads(lines[-1])
        except ValueError:
            raise BenchError(f"{contestant.name}: the last line should be JSON, found: {lines[-1][:200]}") from None
        for name, value in contestant.expected.items():
            if report.get(name) != value:
                raise BenchError(f"{contestant.name}: `{name}` should be {value}, found {report.get(name)}")
        if check and contestant.check:
            command = [argument.replace("{scratch}", scratch) for argument in contestant.check]
            if subprocess.run(command, check=False).returncode != 0:
                raise BenchError(f"{contestant.name} wrote a wrong result: see the message above")
        # Linux gives ru_maxrss in KiB: the peak of the largest single process of the tree.
        return Run(report, wall_s, max(usage.ru_maxrss * 1024, sampled), used_s)


class MemorySampler:
    """The peak sum of PSS over all descendants. PSS counts a page shared by n processes as 1/n in each."""

    def __init__(self) -> None:
        self.peak = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()

    def sample(self) -> None:
        while not self.ended.wait(SAMPLE_INTERVAL_S):
            self.peak = max(self.peak, sum(map(proportional_bytes, descendants())))

    def stop(self) -> int:
        self.ended.set()
        self.thread.join()
        return self.peak


def proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # The process ended since it was listed.
    return 0


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ends, so that daemons are still counted."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The name in parentheses may hold anything; state and parent follow the last parenthesis.
                fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, pending = [], [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def end_descendants() -> None:
    """Ends and reaps what a contestant left running, so that it burdens neither the next run nor its memory figure."""
    deadline = time.monotonic() + 10
    while (left := descendants()) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.02)


def processor_s() -> float:
    """Returns the processor time of all descendants that have ended and been reaped, orphans included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, object]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": cores(), "kernel": platform.release()}


def figure(value: float) -> str:
    """Formats `value` for people; small values keep three digits."""
    return f"{value:,.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def figures(metric: Metric, runs: list[Run]) -> list[float]:
    return [metric.read(run) for run in runs]


def ratio(better: str, ours: float, theirs: float) -> float:
    """Returns a ratio above 1 when Cenote is ahead, whichever direction is better."""
    above, below = (ours, theirs) if better == "higher" else (theirs, ours)
    return above / below if below else float("inf")


def result(
    metric: Metric, ours: Contestant, peer: Contestant, runs: dict[str, list[Run]], settings: dict[str, object]
) -> dict[str, object]:
    our_figures, their_figures = figures(metric, runs[ours.name]), figures(metric, runs[peer.name])
    our_median, their_median = statistics.median(our_figures), statistics.median(their_figures)
    spread = {
        "ours_range": [round(min(our_figures), 3), round(max(our_figures), 3)],
        "theirs_range": [round(min(their_figures), 3), round(max(their_figures), 3)],
    }
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "ours": round(our_median, 3),
        "peer": peer.name,
        "theirs": round(their_median, 3),
        "ratio": round(ratio(metric.better, our_median, their_median), 3),
        "better": metric.better,
        "settings": settings | peer.settings | spread,
    }


def print_table(contestants: list[Contestant], metrics: list[Metric], runs: dict[str, list[Run]]) -> None:
    """Prints the medians, one row per contestant, with the factor by which the first contestant is ahead."""
    header = ["", *(f"{metric.name} ({metric.unit})" for metric in metrics)]
    rows = []
    for contestant in contestants:
        row = [contestant.name]
        for metric in metrics:
            median = statistics.median(figures(metric, runs[contestant.name]))
            cell = figure(median)
            if contestant is not contestants[0]:
                first = statistics.median(figures(metric, runs[contestants[0].name]))
                cell += f" ({ratio(metric.better, first, median):.2f}×)"
            row.append(cell)
        rows.append(row)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print()
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        print("  ".join(cells).rstrip())
    print(f"\nMedians. (n×): {contestants[0].name} is ahead by that factor; below 1 it is behind.")


def main(benchmark: Callable[[], None]) -> None:
    """Runs a benchmark, and turns its errors into one message and exit code 1."""
    try:
        benchmark()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        end_descendants()
        sys.exit(130)
    finally:
        shutil.rmtree(cache_directory() / "bench-scratch", ignore_errors=True)
