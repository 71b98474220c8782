"""Files from others: whatever is in them, there is a message and an exit code, and no more."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line is an extra")
pytest.importorskip("safetensors", reason="weights on disk are an extra")

import safetensors.numpy
from PIL import Image
from typer.testing import CliRunner

import relprop
from relprop import cli, jobs, zoo
from relprop.chefer import weights
from relprop.cli import vit
from relprop.cli.inputs import load_model, read_images
from tests.cli.test_vit_on_disk import CONFIG, PREPROCESSOR, written
from tests.cli.values import VALUES

pytestmark = pytest.mark.frameworks


def run(*args):
    return CliRunner().invoke(cli.app, ["explain", "--model", "digits-cnn", *map(str, args)])


def mutated(data, chance):
    """A file that was cut, or of which some bytes are others."""
    data = bytearray(data)
    if chance.random() < 0.4:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.choice([1, 3, 20])):
        data[chance.randrange(min(len(data), chance.choice([64, len(data)])))] = chance.randrange(
            256
        )
    return bytes(data)


def allowed(work, *args):
    """Runs something: it may work, or be refused."""
    try:
        work(*args)
    except (relprop.RelpropError, OSError):
        return 1
    return 0


def test_damaged_folders(tmp_path):
    """Of every entry all these values, in turn: refused, or a model that can be used."""
    written(tmp_path / "vit")
    image, refused = Image.new("RGB", (16, 16), "red"), 0

    def use():
        pixels = vit.load(tmp_path / "vit").preprocess(image)
        assert pixels.shape == (16, 16, 3) and np.isfinite(pixels).all()

    files = {"config.json": CONFIG | vit.CONFIG | CONFIG}
    files["preprocessor_config.json"] = {**vit.PREPROCESSOR, **PREPROCESSOR, "do_center_crop": True}
    files["preprocessor_config.json"]["crop_size"] = {"height": 16, "width": 16}
    count = 0
    for name, entries in files.items():
        for key in entries:
            for value in VALUES:
                (tmp_path / "vit" / name).write_text(json.dumps(entries | {key: value}))
                refused += allowed(use)
                count += 1
        (tmp_path / "vit" / name).write_text(json.dumps(entries))
    assert count > 400 and refused > 0.7 * count


def test_damaged_images_and_checkpoints(tmp_path):
    chance, refused = random.Random(0), 0
    model = load_model("digits-cnn")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    formats = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        Image.new("L", (8, 8), 100).save(held := io.BytesIO(), kind)
        formats[kind] = held.getvalue()
    for _ in range(200):
        file = tmp_path / "a.png"
        file.write_bytes(mutated(formats[chance.choice([*formats])], chance))
        refused += allowed(read_images, model, [file])
        allowed(jobs.read_image, file)
    tensors = safetensors.numpy.save({"a": np.ones((3, 2), np.float32), "b": np.ones(5)})
    for _ in range(150):
        file = tmp_path / "model.safetensors"
        file.write_bytes(mutated(tensors, chance))
        refused += allowed(weights.read, file)
    assert refused > 100
    # The peak of this process, in kB, which other tests before have set: it grows by 1 GB at most.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "model.safetensors"}


def test_integer_weights_are_refused():
    shapes = {"a": (2,)}
    with pytest.raises(relprop.InputError, match="1 tensor.s. .* integers.*: a"):
        weights.checked("model", {"a": np.ones(2, np.int8)}, shapes)


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4"]
)
def test_no_program_is_started_for_an_image(tmp_path, head):
    (tmp_path / "a.png").write_bytes(head)
    found = run(tmp_path / "a.png", "--out", tmp_path / "r")
    assert found.exit_code == 2 and "not an image of a format" in found.stderr
    with pytest.raises(OSError, match="cannot identify"):
        jobs.read_image(tmp_path / "a.png")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    found = run(tmp_path / "a.png", "--out", tmp_path / "r")
    assert found.exit_code == 2 and "is no file" in found.stderr


@pytest.fixture
def sample(tmp_path):
    def named(name):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(zoo.samples()[0].read_bytes())
        return path

    return named


def test_outputs(tmp_path, sample):
    """Names that no file can hold, characters that act, what is there already, and links."""
    names = (b"a\xff.png", "\x1b[31m\u202e<b>.png".encode(), b"--out")
    images = [sample(name) for name in names]
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        found = run("--rules", "gradient", "--out", "r", "--", *(path.name for path in images))
    finally:
        os.chdir(here)
    assert found.exit_code == 0, found.output
    page = (tmp_path / "r" / "report.html").read_bytes().decode("utf-8")
    for text in (page, found.output):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<b>.png" not in page and "--out r -- " in page
    again = run("--rules", "gradient", "--out", tmp_path / "r", images[0])
    assert again.exit_code == 0 and "Replaced" in again.stderr
    quiet = run("--rules", "gradient", "--overwrite", "--out", tmp_path / "r", images[0])
    assert quiet.exit_code == 0 and "Replaced" not in quiet.stderr
    before = (tmp_path / "r" / "report.html").read_bytes()
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "r" / "montage.png").unlink()
    (tmp_path / "r" / "montage.png").symlink_to(tmp_path / "thesis")
    linked = run("--rules", "gradient", "--out", tmp_path / "r", images[0])
    assert linked.exit_code == 2 and "a link, which is not followed" in linked.stderr
    assert (tmp_path / "thesis").read_text() == "years of work"
    assert (tmp_path / "r" / "report.html").read_bytes() == before


def test_a_terminal_without_the_characters(tmp_path, sample):
    """The files are written, and what the terminal cannot show is shown in other words."""
    image = sample("ä→.png".encode())
    command = ["explain", "--model", "digits-cnn", "--rules", "gradient", "--out", "r", image.name]
    code = f"import relprop.cli; relprop.cli.main({command!r})"
    source = str(Path(relprop.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "r" / "report.html").exists() and b"\\xe4" in ended.stdout


def test_errors_that_nobody_has_foreseen(monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise KeyError("\x1b[2J what is that")

    monkeypatch.setattr(cli, "load_model", broken)
    found = run(zoo.samples()[0], "--out", tmp_path / "r")
    assert found.exit_code == 2 and "Nobody has foreseen" in found.stderr
    assert "\x1b" not in found.stderr and "Traceback" not in found.output

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_model", interrupted)
    found = run(zoo.samples()[0], "--out", tmp_path / "r")
    assert found.exit_code == 130 and found.stderr == "relprop: Interrupted.\n"
