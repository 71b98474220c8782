"""Which relprop it says it is."""

import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import relprop
from relprop import _version


def test_the_version_is_that_of_what_is_installed(monkeypatch):
    assert relprop.__version__ == metadata.version("relprop")

    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(_version, "installed", nothing)
    assert _version.version() == "0+unknown"


def test_tags_that_are_no_release_say_nothing(tmp_path):
    scm = pytest.importorskip("setuptools_scm", reason="the build's, which .venv holds")
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    options = tomllib.loads(pyproject.read_text())["tool"]["hatch"]["version"]["raw-options"]

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    for tag, wanted in {
        "evidence-2026": "0.1.dev1",
        "vision-9": "0.1.dev2",
        "v0.3.0": "0.3.0",
        "weights-7.1": "0.3.1.dev1",
    }.items():
        git("commit", "--allow-empty", "--message", tag)
        git("tag", tag)
        assert scm.get_version(root=tmp_path, **options) == wanted
