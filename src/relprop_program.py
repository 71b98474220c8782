"""The program `relprop`, which ends cleanly by Ctrl-C from its first moment on."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_INTERRUPTED = 130


def main() -> None:
    """Runs the command line.

    While the package is imported, and whoever asks twice, is not made to wait: there is nothing to
    be saved that is not on the disk already.

    Raises:
        SystemExit: as `relprop.cli.main`.
    """
    signal.signal(signal.SIGINT, _end)
    from relprop.cli import main as run

    signal.signal(signal.SIGINT, _interrupt)
    run()


def _end(number: int, frame: Any) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"relprop: Interrupted.\n")
    os._exit(_INTERRUPTED)  # an exception might end up in the middle of somebody's import


def _interrupt(number: int, frame: Any) -> None:
    """The first time as always; libraries that swallow it do not get the second one."""
    signal.signal(signal.SIGINT, _end)
    raise KeyboardInterrupt
