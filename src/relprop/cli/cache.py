"""Compiled programs are kept on disk, so that a command is compiled for once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_compiled(environment: Mapping[str, str] = os.environ) -> None:
    """Lets JAX keep what it compiles in the user's folder for such things.

    JAX's own variable comes first: another folder, or none at all if it is empty. Other settings
    of its cache are as JAX has them.
    """
    if _VARIABLE in environment:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder(environment) / "relprop"))


def cache_folder(environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where a user's programs keep what can be made again."""
    home = Path.home()
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if platform == "darwin":
        return home / "Library" / "Caches"
    given = environment.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else home / ".cache"
