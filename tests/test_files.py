"""Files that are whole or not there."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import relprop
from relprop._files import replacing, write_text

# One module of the package alone: all of it, with JAX, takes seconds to be imported.
WRITER = """
import os, pathlib, resource, signal, sys, types
sys.modules["relprop"] = types.ModuleType("relprop")
sys.modules["relprop"].__path__ = [sys.argv[3]]
from relprop._files import replacing
path = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with replacing(path) as file:
    file.write(b"x" * 10**6)
    file.flush()
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def held(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("fate", ["full", "killed"])
def test_a_full_disk_and_a_killed_process(tmp_path, before, fate):
    path = tmp_path / "page.html"
    if before is not None:
        path.write_bytes(before)
    folder = str(Path(relprop.__file__).parent)
    command = [sys.executable, "-c", WRITER, str(path), fate, folder]
    ended = subprocess.run(command, capture_output=True, text=True)
    if fate == "full":
        assert "OSError" in ended.stderr
        assert held(tmp_path) == ({} if before is None else {path.name: before})
    else:
        assert ended.returncode == -signal.SIGKILL
        assert (path.read_bytes() if path.exists() else None) == before


def test_an_error_while_it_is_written(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert held(tmp_path) == {"a": b"old"}


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert held(tmp_path) == {"a": b"new"}


def test_permissions_are_those_of_any_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_text(tmp_path / "new", "ä")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "new")]
    assert modes[0] == modes[1]
    (tmp_path / "new").chmod(0o600)
    write_text(tmp_path / "new", "b")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert (tmp_path / "new").read_text() == "b"


def test_links_are_not_followed(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(FileExistsError, match="a link, which is not followed"):
        write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_encoded_leaves_the_old_file(tmp_path):
    (tmp_path / "page").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "page", "a lone surrogate: \udcff")
    assert held(tmp_path) == {"page": b"old"}


def test_devices_are_written_to():
    write_text(os.devnull, "nothing")
    assert not Path(os.devnull).is_file()


def test_names_that_are_as_long_as_can_be(tmp_path):
    write_text(tmp_path / ("a" * 250), "text")
    assert held(tmp_path) == {"a" * 250: b"text"}


@pytest.mark.frameworks
def test_reports(tmp_path, monkeypatch):
    """Of a report that cannot be written to its end, the one before stays."""
    report = pytest.importorskip("relprop.report", reason="reports are an extra")
    from matplotlib.figure import Figure

    image = np.ones((2, 2, 1))
    explanation = report.Explanation(
        "m", "a.png", image, "0", "0", 4.0, {"flat": (image, {"handed out": 4.0, "explained": 4.0})}
    )
    page, picture = tmp_path / "report.html", tmp_path / "montage.png"
    report.write_html([explanation], page)
    report.write_png([explanation], picture)
    before = held(tmp_path)
    assert before.keys() == {"report.html", "montage.png"}

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        report.write_html([explanation], page, title="Another")
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        report.write_png([explanation], picture)
    assert held(tmp_path) == before
