"""Folders of images explained into stores by the command line, and read from there."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line is an extra")
pytest.importorskip("zarr", reason="stores are an extra")

from PIL import Image
from typer.testing import CliRunner

import relprop
from relprop import cli, zoo
from relprop.cli.dataset import explanation_of
from relprop.composites import composite_of

pytestmark = pytest.mark.frameworks


def run(*args):
    return CliRunner().invoke(cli.app, [*map(str, args)])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    (folder / "images").mkdir()
    for i, sample in enumerate(zoo.samples()[:5]):
        shutil.copy(sample, folder / "images" / f"{i}.png")
    (folder / "images" / "3.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (folder / "images" / "3a\x1b[31m.png").write_bytes(b"nothing")
    out = folder / "store.zarr"
    found = run(
        "explain", "--model", "digits-cnn", "--rules", "epsilon", "--rules", "gradient",
        "--out", out, "--batch-size", 4, "--quiet", folder / "images",
    )  # fmt: skip
    assert found.exit_code == 1, found.output
    assert "cannot identify image" in found.stderr and "\x1b" not in found.output
    return out


def test_what_is_in_the_store(store):
    found = relprop.load(store)
    assert found.is_complete and found.methods == ("epsilon", "gradient")
    assert set(found.errors) == {3, 4} and found.ids[0] == "0.png"
    fn, params, preprocess = zoo.load("digits-cnn")
    from PIL import Image

    image = preprocess(Image.open(store.parent / "images" / "0.png"))
    logits = np.asarray(fn(params, image[None]))[0]
    np.testing.assert_allclose(found.score[0], logits.max(), rtol=1e-5)
    assert int(found.aux["class"][0]) == logits.argmax()
    command = found.header["description"]["command"]
    assert command.startswith("relprop explain --model digits-cnn")
    assert "--batch-size 4" in command


def test_show(store):
    found = run("show", store, "--index", 0)
    assert found.exit_code == 0 and "0.png: score" in found.output and "strongest" in found.output
    assert "cannot identify" in run("show", store, "--index", 3).output
    for index in (17, -7):
        wrong = run("show", store, "--index", index)
        assert wrong.exit_code == 2 and f"no number {index}" in wrong.stderr


def test_report(store, tmp_path):
    found = run("report", store, "--out", tmp_path / "r", "--count", 4)
    assert found.exit_code == 0, found.output
    page = (tmp_path / "r" / "report.html").read_text()
    assert "0.png" in page and "3.png" in page and "4.png" not in page
    again = run("report", store, "--out", tmp_path / "r")
    assert again.exit_code == 0 and "Replaced" in again.stderr
    assert run("report", store, "--out", tmp_path / "r", "--first", 90).exit_code == 2


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.png", "a/../../secret.png"])
def test_only_images_in_the_folder_of_a_store_are_read(store, tmp_path, name):
    shutil.copytree(store, tmp_path / "s.zarr")
    manifest = tmp_path / "s.zarr" / "manifest" / "00000.jsonl"
    manifest.write_text(manifest.read_text().replace('"0.png"', f'"{name}"'))
    found = run("report", tmp_path / "s.zarr", "--out", tmp_path / "r")
    assert found.exit_code == 2 and f"'{name}', which is not inside" in found.stderr
    assert not (tmp_path / "r" / "report.html").exists()


def test_shares_are_of_what_was_handed_out(tmp_path):
    """That is the score, or 1 for rules that explain no score but what one more of it needs."""
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / "a.png")
    rules = {"one": relprop.rules.Zero(), "score": relprop.rules.Zero()}
    rules["one"] = dataclasses.replace(composite_of(rules["one"]), seed="one")
    found = relprop.jobs.explain(
        lambda x: 40 * x.sum(), rules, tmp_path, tmp_path / "a.zarr", 1, progress=False
    )
    explanation = explanation_of(found, 0)
    for method in rules:
        assert explanation.share(method) == pytest.approx(1)
        handed_out = 1 if method == "one" else explanation.score
        assert explanation.rules[method][1]["handed out"] == pytest.approx(handed_out)


def test_what_is_no_store(tmp_path):
    for command in ("show", "report"):
        found = run(command, tmp_path)
        assert found.exit_code == 2 and "no store" in found.stderr
    found = run("explain", "--model", "digits-cnn", "--out", tmp_path / "s.zarr", zoo.samples()[0])
    assert found.exit_code == 2 and "one folder" in found.stderr
