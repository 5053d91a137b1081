"""The command `cenote`."""

import signal
import sys

from cenote import _native


def main() -> int:
    """Runs the command line of this process; its exit code."""
    # Ctrl-C is the command's own affair: Python would only take note of it until the command is over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.command(["cenote", *sys.argv[1:]])
