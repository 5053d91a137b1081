"""The command line from the package, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time


def cenote(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cenote", *arguments], capture_output=True, text=True, timeout=60, **options
    )


def test_the_command_is_the_binary(tmp_path) -> None:
    place = str(tmp_path / "lake")
    assert cenote("--lake", place, "init").returncode == 0
    assert "1" in cenote("--lake", place, "sql", "SELECT 1 AS one").stdout
    failed = cenote("--lake", place, "sql", "SELECT")
    assert failed.returncode == 1 and failed.stderr.startswith("error: ")
    assert cenote("--nonsense").returncode == 2
    wrong = cenote("--cpus", "0", "tables")
    assert wrong.returncode == 2 and "'--cpus <CORES>'" in wrong.stderr
    assert cenote("--version").stdout.startswith("cenote ")


def test_ctrl_c_ends_a_wait(tmp_path) -> None:
    program = """
import cenote, sys
lake = cenote.open(sys.argv[1], create=True)
print("ready", flush=True)
try:
    many = "generate_series(1, 100000)"
    lake.sql(f"SELECT count(*) FROM {many} a, {many} b, generate_series(1, 1000) c").to_pylist()
except KeyboardInterrupt:
    print("stopped", lake.sql("SELECT 1 AS one").to_pylist())
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        answer, _ = process.communicate(timeout=30)
    assert answer == "stopped [{'one': 1}]\n"


def test_importing_is_quick_and_brings_nothing_along() -> None:
    # Each module of the standard library here takes as long to import as all of Cenote's own.
    unwanted = ("numpy", "pyarrow", "torch", "pandas", "cloudpickle", "asyncio", "inspect", "dataclasses", "pathlib")
    program = f"import sys, cenote; print([name for name in {unwanted} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
