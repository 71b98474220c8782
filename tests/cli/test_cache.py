"""The command line keeps what it compiles where a user's programs keep such things."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

pytest.importorskip("typer", reason="needs the command line")

from relprop.cli.cache import cache_folder, keep_compiled


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {}, Path.home() / ".cache"),
        ("linux", {"XDG_CACHE_HOME": "/somewhere"}, Path("/somewhere")),
        ("linux", {"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache"),
        ("darwin", {}, Path.home() / "Library" / "Caches"),
        ("win32", {"LOCALAPPDATA": "local"}, Path("local")),
    ],
)
def test_folder(platform, environment, folder):
    assert cache_folder(environment, platform) == folder


def test_a_folder_of_the_user_comes_first(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        keep_compiled({"JAX_COMPILATION_CACHE_DIR": ""})
        assert jax.config.jax_compilation_cache_dir == before
        keep_compiled({"XDG_CACHE_HOME": str(tmp_path)})
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "relprop")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
