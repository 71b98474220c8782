"""Models of Hugging Face are read without the bars and warnings of the libraries that do it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers and torch say of their own; what relprop says of a folder stays."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(torch|torchax|transformers)\b")
        try:
            from transformers.utils import logging  # pyright: ignore[reportMissingImports]
        except ImportError:  # which is said where it is needed
            yield
            return
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
