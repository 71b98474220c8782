"""How far a job is, and a Ctrl-C that waits for the batch at hand."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax


class Bar:
    """A bar on stderr with rate and time left; nothing where it isn't wanted, or without tqdm."""

    def __init__(self, shown: bool, total: int | None, done: int, label: str):
        self._bar: Any = None
        if shown:
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self._bar = tqdm(total=total, initial=done, desc=label, unit=" samples")

    def advance(self, samples: int, failed: int) -> None:
        """So many more are committed; so many have failed in all."""
        if self._bar is None:
            return
        notes = {"left out": failed} if failed else {}
        memory = _memory()
        notes |= {"device": memory} if memory else {}
        self._bar.set_postfix(notes, refresh=False)
        self._bar.update(samples)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _memory() -> str:
    """The device memory in use, where the device tells it."""
    told = jax.local_devices()[0].memory_stats() or {}
    used = told.get("bytes_in_use")
    return "" if used is None else f"{used / 2**30:.1f} GiB"


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one ends the process as always.

    Only where signals can be handled, in the main thread: elsewhere Ctrl-C is what it was.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
