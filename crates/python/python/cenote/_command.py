"""The command `cenote`."""

import signal
import sys

from cenote import _native


def main() -> int:
    """Runs the command line of this process, and returns the exit code."""
    # The command handles Ctrl-C: Python would only note it until the command is over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.command(["cenote", *sys.argv[1:]])
