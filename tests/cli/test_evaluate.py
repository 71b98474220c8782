"""The command that measures explanations, on a model that compiles quickly."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("flax")

from PIL import Image
from typer.testing import CliRunner

from relprop import cli

pytestmark = pytest.mark.frameworks
MODEL = """
import numpy as np

def linear():
    w = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    prepare = lambda image: np.asarray(image.convert("L"), np.float32)[..., None] / 255
    return lambda params, x: x.reshape(len(x), -1) @ params, w, prepare
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "measured_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (4, 4), np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    (images / "notes.txt").write_text("no image")
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, args)])


def test_evaluate(folder):
    model = ("--model", "measured_model:linear")
    options = ("--methods", "epsilon", "--metrics", "sparseness", "--steps", "4")
    done = run(*model, "--data", folder / "images", *options, "--out", folder / "out")
    assert done.exit_code == 0, done.output
    assert "sparseness" in done.output and "random (control)" in done.output
    found = json.loads((folder / "out" / "evaluation.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["epsilon", "random", "edges"]
    assert len(found["rows"][0]["metrics"]["sparseness"]["values"]) == 3
    assert (folder / "out" / "evaluation.csv").exists()
    assert "<table" in (folder / "out" / "evaluation.html").read_text()


def test_bad_input(folder):
    model = ("--model", "measured_model:linear")
    assert "no folder" in run(*model, "--data", folder / "nowhere").output
    (folder / "empty").mkdir()
    assert "no images" in run(*model, "--data", folder / "empty").output
    wrong = run(*model, "--data", folder / "images", "--metrics", "abcp", "--out", folder / "out")
    assert wrong.exit_code == 2 and "Did you mean 'abpc'" in wrong.output
