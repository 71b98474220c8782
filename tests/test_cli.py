"""The command line, on models that compile quickly; `make demo` runs the demo in full."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("flax")

import rich.console
from PIL import Image
from typer.testing import CliRunner

import relprop
import relprop_program
from relprop import cli, presets, zoo
from relprop.cli import defaults, job, tables
from relprop.cli.inputs import load_model, read_images, value_range

pytestmark = pytest.mark.frameworks

MODELS = """
import jax
import jax.numpy as jnp
import numpy as np

W = jnp.asarray(np.random.default_rng(0).normal(size=(6 * 5 * 3, 3)), jnp.float32)
HEAD = jnp.eye(3)


def preprocess(image):
    if image.size != (6, 5):
        raise ValueError(f"images must be 6x5, got {image.size}")
    return (np.asarray(image.convert("RGB"), np.float32) / 255 - 0.5) / 0.25


def model(params, images):
    return (images.reshape(len(images), -1) @ params["w"]) @ params["head"]


def linear():
    return model, {"w": W, "head": HEAD}, preprocess


def biased():
    return lambda p, x: model(p, x) + 1.0, {"w": W, "head": HEAD}, preprocess


def convolution():
    kernel = jnp.ones((2, 2, 3, 3))
    dims = ("NHWC", "HWIO", "NHWC")

    def fn(params, images):
        y = jax.lax.conv_general_dilated(images, params, (1, 1), "SAME", dimension_numbers=dims)
        return y.sum((1, 2))

    return fn, kernel, preprocess


def nan():
    return model, {"w": W, "head": HEAD.at[0, 0].set(jnp.nan)}, preprocess


def root():
    # The gradient is infinite where a pixel is black.
    return lambda p, x: model(p, jnp.sqrt(x)), {"w": W, "head": HEAD}, grey


def black_is_nan():
    total = lambda x: jnp.sum(x, (1, 2, 3), keepdims=True)
    return lambda p, x: model(p, x / total(x)), {"w": W, "head": HEAD}, grey


def grey(image):
    return np.asarray(image.convert("RGB"), np.float32) / 255


def any_size():
    return lambda p, x: x.sum((1, 2)), {}, grey


def while_loop():
    grown = lambda y: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, y)
    return lambda p, x: grown(model(p, x)), {"w": W, "head": HEAD}, preprocess


def one_score():
    return lambda p, x: x.sum((1, 2, 3)), {}, preprocess


def not_jax():
    return lambda p, x: np.asarray(x), {}, preprocess


def pair():
    return model, {}


def no_function():
    return 3, {}, preprocess


def fails():
    raise RuntimeError("no weights here\\nnor there")


def integers():
    return model, {"w": W, "head": HEAD}, lambda image: np.asarray(image.convert("RGB"))


def channels_first():
    return model, {}, lambda image: np.moveaxis(grey(image), -1, 0)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with models and images, which is the current one."""
    (tmp_path / "my_models.py").write_text(MODELS)
    random = np.random.default_rng(0)
    for name in "ab":
        pixels = random.integers(1, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.new("RGB", (6, 5), "black").save(tmp_path / "black.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli.app, list(map(str, args)))


def explain(*args, model="my_models:linear", rules="zero"):
    return run("explain", "--model", model, "--rules", rules, *args)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("relprop: ") and "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr
    assert not result.stdout
    return result.stderr


# What works


def test_demo(tmp_path, monkeypatch):
    # Two of its rules, for the time that the others take to compile.
    rules = {"digits-cnn": ("gradient_times_input",), "digits-vit": ("cp_lrp",)}
    assert rules.keys() == cli.RULES.keys() == set(zoo.names())
    monkeypatch.setattr(cli, "RULES", rules)
    result = run("demo", "--out", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.output
    for path in zoo.samples():
        shown = re.findall(rf"^ *{path.name} +(\d)", result.stdout, re.MULTILINE)
        assert shown == [path.name.split("_")[1]] * 2  # both models are right about it
    folder = (tmp_path / "new" / "folder").resolve()
    *_, page, picture = result.stdout.splitlines()
    assert (page, picture) == (str(folder / "report.html"), str(folder / "montage.png"))
    assert Path(page).read_text().count('<table class="grid') == 2
    with Image.open(picture) as image:
        image.load()


def test_demo_names_rules_that_exist():
    names = {name for rules in cli.RULES.values() for name in rules}
    names |= {name for rules, _ in defaults.ADVICE.values() for name in rules} | set(defaults.PLAIN)
    assert names <= set(presets.names())


def test_as_a_program(here):
    source = str(Path(cli.__file__).parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", "-m", "relprop.cli", "explain", "a.png", "nope.png"]
    command += ["--model", "my_models:linear", "--rules", "zero", "--rules", "epsilon"]
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1, result.stderr
    assert result.stderr.endswith("Left out:\n  nope.png: no such file\n")
    *_, page, picture = result.stdout.splitlines()
    assert Path(page) == here / "relprop-report" / "report.html" and Path(page).exists()
    assert Path(picture) == here / "relprop-report" / "montage.png" and Path(picture).exists()
    assert re.search(r"a\.png .* 100 % +100 %", result.stdout)  # there is no bias


INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, *args):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from relprop_program import main
sys.argv = ["relprop", "rules"]
main()
"""


@pytest.mark.parametrize("module", ["relprop", "jax.numpy", "relprop.cli.tables"])
def test_interrupted_while_it_is_imported(module):
    source = str(Path(cli.__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "JAX_PLATFORMS": "cpu"},
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "relprop: Interrupted.\n"


def test_interrupted_later(monkeypatch):
    """Once as by any Ctrl-C; twice at once, whoever has swallowed the first one."""
    before, ended = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(os, "write", lambda *args: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            relprop_program._interrupt(signal.SIGINT, None)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [130]


@pytest.mark.parametrize("width", [20, 60, 200])
def test_tables_at_any_width(width, monkeypatch):
    table = tables._table()
    for name in ("image", "score", "epsilon_\nplus", "gamma"):
        table.add_column(name)
    table.add_row("a.png", "12.345", "-0.01 %", "100 %")
    shown = rich.console.Console(width=width, file=io.StringIO())
    monkeypatch.setattr(tables, "_console", lambda: shown)
    tables.show(table, "no table")
    text = shown.file.getvalue()
    assert all(number in text for number in ("12.345", "-0.01 %", "100 %", "no table"))
    assert max(map(len, text.splitlines())) <= width
    assert ("gamma: 100 %" in text) == (width == 20)


def test_main_exits(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["rules"])
    assert "attn_lrp" in capsys.readouterr().out


def test_rules_that_were_not_named_are_those_of_the_kind_of_model(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "PLAIN", ("gradient",))  # for the time that others compile
    monkeypatch.setitem(defaults.ADVICE, "convolutions", (("epsilon",), "it has convolutions"))
    image = zoo.samples()[3]
    result = run("explain", "--model", "digits_cnn", "--out", tmp_path, image)
    assert result.exit_code == 0, result.output
    assert re.search(rf"{image.name} +3 +3 ", result.stdout)
    assert "No rules were named: epsilon for this model, since it has conv" in result.stderr
    repeat = f"--model digits_cnn --rules gradient --rules epsilon --out {tmp_path} {image}"
    assert repeat in (tmp_path / "report.html").read_text()


def test_kinds_of_models():
    w = np.ones((3, 3), np.float32)

    def attends(x):
        maps = jax.nn.softmax((x @ w) @ (x @ w).T, axis=-1)
        return jnp.sum(maps @ (x @ w))

    def decays(x):
        def step(state, now):
            return 0.9 * state + now @ w, None

        return jnp.sum(jax.lax.scan(step, jnp.zeros(3), x)[0])

    def convolves(x):
        return jnp.sum(
            jax.lax.conv(x[None, None], np.ones((1, 1, 2, 2), np.float32), (1, 1), "SAME")
        )

    kinds = {
        f: defaults.kind_of(f, np.ones((4, 3), np.float32)) for f in (attends, convolves, decays)
    }
    assert kinds[attends] == "attention" and kinds[convolves] == "convolutions"
    assert kinds[decays] in ("recurrence", "state space")
    assert defaults.kind_of(lambda x: jnp.sum(x @ w), np.ones((4, 3), np.float32)) == "dense layers"
    assert defaults.default(attends, np.ones((4, 3), np.float32)).rules[-1] == "attn_lrp"


def test_scores_and_sums(here):
    found, balances = prepared("my_models:biased", "ab", ["zero", "gradient"]).run(quietly)
    model = load_model("my_models:biased")
    for explanation in found:
        pixels = model.preprocess(Image.open(explanation.name))
        scores = np.asarray(model.fn(model.params, pixels[None]))[0]
        w = np.asarray(model.params["w"])[:, scores.argmax()].reshape(5, 6, 3)
        assert explanation.target == explanation.label == str(scores.argmax())
        assert explanation.score == pytest.approx(scores.max(), rel=1e-5)
        np.testing.assert_allclose(explanation.rules["zero"][0], pixels * w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(explanation.rules["gradient"][0], w, rtol=1e-5)
        assert explanation.share("zero") == pytest.approx(1 - 1 / scores.max(), rel=1e-4)
        assert explanation.rules["gradient"][1]["handed out"] == 1
        assert 0 <= explanation.image.min() and explanation.image.max() <= 1
    zero = balances["zero"]
    assert zero.handed_out == pytest.approx(sum(e.score for e in found))
    assert zero.bias == pytest.approx(2, rel=1e-4)
    assert zero.explained == pytest.approx(zero.handed_out - 2, rel=1e-4)
    assert zero.gap == pytest.approx(0, abs=1e-4) and not zero.fault
    assert balances["gradient"].handed_out == 2


def test_more_images_than_a_batch(here, monkeypatch):
    whole, of_whole = prepared("my_models:biased", ["a", "b", "black"], ["zero"]).run(quietly)
    monkeypatch.setattr(job, "BATCH", 2)
    parts, of_parts = prepared("my_models:biased", ["a", "b", "black"], ["zero"]).run(quietly)
    assert [e.name for e in parts] == [e.name for e in whole] == ["a.png", "b.png", "black.png"]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.rules["zero"][0], other.rules["zero"][0], rtol=1e-5)
    assert of_parts["zero"].bias == pytest.approx(of_whole["zero"].bias, rel=1e-5) != 0


def test_target(here):
    result = explain("a.png", "--target", "1")
    assert result.exit_code == 0, result.output
    assert re.search(r"a\.png +\d +1 ", result.stdout)
    job = prepared("my_models:linear", "a", ["zero"], target=2)
    assert job.run(quietly)[0][0].target == "2"


def test_style(here):
    assert explain("a.png", "--style", "contours").exit_code == 0
    page = Path("relprop-report/report.html").read_text()
    assert "Red lines" in page and "--style contours" in page
    refused(explain("a.png", "--style", "overly"), "overly", "overlay")


def test_resize(here):
    Image.new("L", (30, 20), 128).save("large.png")
    assert explain("large.png", "a.png", "--resize", model="my_models:any_size").exit_code == 0
    refused(explain("large.png", model="digits-cnn", rules="zero"), "8x8", "--resize")
    pixels = read_images(load_model("digits-cnn"), [Path("large.png")], resize=True).pixels
    assert pixels.shape == (1, 8, 8, 1)


def test_the_same_report_each_time(here):
    files = []
    for _ in range(2):
        assert explain("a.png", "b.png").exit_code == 0
        folder = here / "relprop-report"
        files.append([(folder / n).read_bytes() for n in ("report.html", "montage.png")])
    assert files[0] == files[1]


def test_pixel_range(here):
    model = load_model("my_models:convolution")
    pixels = read_images(model, [Path("a.png")]).pixels
    assert value_range(model, pixels) == (-2.0, 2.0)  # of black and white, not of the image
    rules = prepared("my_models:convolution", "a", ["epsilon-gamma-box"]).rules
    assert rules == {"epsilon_gamma_box": presets.epsilon_gamma_box(low=-2.0, high=2.0)}
    assert value_range(load_model("digits-vit"), pixels) == (0.0, 1.0)


def test_version():
    shown = run("--version")
    assert shown.exit_code == 0 and shown.stdout == f"relprop {relprop.__version__}\n"


def test_rules():
    result = run("rules")
    assert result.exit_code == 0
    for name in presets.names():
        assert re.search(rf"^ *{name} +(preset|rule) +\w", result.stdout, re.MULTILINE)
    assert "`" not in result.stdout and "\\" not in result.stdout
    assert tables.summary(presets.gradient_times_input).startswith("x * grad f(x): LRP-0")


def test_inspect(here):
    result = run("inspect", "--model", "my_models:linear", "--rules", "gamma", "--image", "a.png")
    assert result.exit_code == 0, result.output
    assert re.search(r"dense +dot_general +Gamma\(gamma=0.25", result.stdout)
    assert "params/w" in result.stdout and "params/head" in result.stdout
    bundled = run("inspect", "--model", "digits-cnn", "--rules", "epsilon_gamma_box")
    assert "ZBox(low=0.0, high=1.0" in bundled.stdout


# What does not


def test_bad_images_are_named_and_the_others_explained(here):
    Image.new("RGB", (7, 7)).save("large.png")
    Path("text.png").write_text("no image")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:60])
    Path("folder.png").mkdir()
    bad = ["large.png", "text.png", "cut.png", "folder.png", "nope.png"]
    result = explain("a.png", *bad, "b.png")
    assert result.exit_code == 1
    listed = result.stderr.partition("Left out:\n")[2].splitlines()
    assert [line.partition(":")[0].strip() for line in listed] == bad
    page = Path("relprop-report/report.html").read_text()
    reasons = [
        "preprocess failed: ValueError: images must be 6x5, got (7, 7)",
        "is not an image of a format that Pillow knows",
        "cannot be read: ",
        "is a folder: name the images in it",
        "no such file",
    ]
    for line, reason in zip(listed, reasons, strict=True):
        assert reason in line and reason in page
    assert re.search("a.png .*\n.*b.png ", result.stdout)
    refused(explain(*bad), "None of the images can be explained:\n", *bad, *reasons)


def test_images_of_another_shape(here):
    Image.new("RGB", (7, 7)).save("large.png")
    result = explain("large.png", "a.png", "b.png", model="my_models:any_size")
    assert result.exit_code == 1
    assert "large.png: preprocess gave 7x7x3, not 5x6x3 as for most images" in result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("integers", "must return floating point numbers, gave uint8"),
        ("channels_first", "must return [height, width, channels], gave 3x5x6"),
    ],
)
def test_bad_arrays(here, model, message):
    refused(explain("a.png", model=f"my_models:{model}"), "a.png: preprocess", message)


# Divided by the sum of all its pixels, an image is normalised in a way that no rule knows.
@pytest.mark.filterwarnings("ignore::relprop.SuspicionWarning")
def test_images_that_make_nan(here):
    result = explain("black.png", "a.png", model="my_models:black_is_nan")
    assert result.exit_code == 1
    assert "black.png: its scores are NaN or infinite. First NaN or infinity" in result.stderr
    assert "(div)" in result.stderr and "my_models.py" in result.stderr
    assert re.search(r"a\.png .*%", result.stdout)


def test_nan_in_the_model(here):
    message = refused(
        explain("a.png", "b.png", model="my_models:nan"),
        "my_models:nan cannot explain any image: its scores are NaN or infinite. ",
        "An input is NaN or infinite: 1 entries of 'params/head'.",
    )
    assert "params/w" not in message


def test_nan_in_the_relevance(here):
    result = explain("black.png", "a.png", model="my_models:root", rules="gradient")
    assert result.exit_code == 1
    assert "gradient: First NaN or infinity in the backward pass: operation" in result.stdout
    assert re.search(r"black.png .* n/a", result.stdout)
    page = Path("relprop-report/report.html").read_text()
    assert "First NaN or infinity in the backward pass" in page


def test_rules_that_do_not_fit(here):
    message = "gradient does not fit my_models:while_loop. 1 operation(s) on the way"
    refused(explain("a.png", model="my_models:while_loop", rules="gradient"), message, "while")


@pytest.mark.parametrize(
    ("model", "messages"),
    [
        ("digits-cn", ["Unknown model 'digits-cn'. Did you mean 'digits-cnn'", "package.module:"]),
        ("no_models:linear", ["Cannot import 'no_models': ModuleNotFoundError"]),
        ("my_models:liner", ["Unknown function of my_models 'liner'. Did you mean 'linear'"]),
        ("my_models:W", ["Unknown function of my_models 'W'."]),
        ("my_models:pair", ["my_models:pair must return (fn, params, preprocess), got tuple"]),
        ("my_models:no_function", ["my_models:no_function: fn must be a function, got int"]),
        ("my_models:fails", ["my_models:fails failed: RuntimeError: no weights here\n"]),
        ("my_models:one_score", ["must return scores [batch, classes], gave shape (1,)"]),
        ("my_models:not_jax", ["does not take a batch of images 1x5x6x3: TracerArray"]),
    ],
)
def test_bad_models(here, model, messages):
    refused(explain("a.png", model=model), *messages)


def test_bad_rules(here):
    hint = "Unknown preset 'epsilonplus'. Did you mean 'epsilon_plus'"
    refused(explain("a.png", rules="epsilonplus"), hint)
    refused(run("inspect", "--model", "digits-cnn", "--rules", "epsilonplus"), hint)
    assert not Path("relprop-report").exists()


@pytest.mark.parametrize("target", [3, -1])
def test_bad_target(here, target):
    message = f"The model has 3 classes, 0 to 2: there is no class {target}."
    refused(explain("a.png", "--target", target), message)


def test_bad_folder(here):
    for args in (["demo"], ["explain", "--model", "my_models:linear", "a.png"]):
        message = "Cannot write to the folder a.png: it is a file."
        refused(run(*args, "--out", "a.png"), message)
        refused(run(*args, "--out", "a.png/b"), "Cannot write to the folder a.png/b: Not a dir")


def test_missing_samples(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "samples", list)
    refused(run("demo", "--out", tmp_path), "The bundled images are missing: reinstall relprop.")


def test_usage():
    for args in (["explain", "a.png"], ["explain", "--model", "digits-cnn"], ["explian"]):
        result = run(*args)
        assert result.exit_code == 2 and "Usage: " in result.stderr
    assert run("explain", "--help").exit_code == 0


def test_traceback_on_request(here, capsys):
    args = ["explain", "--model", "my_models:linear", "--rules", "nothing", "a.png"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(args)
    assert capsys.readouterr().err.startswith("relprop: Unknown preset 'nothing'.")
    with pytest.raises(relprop.UnknownNameError):
        cli.main([*args, "--traceback"])


def prepared(model, names, rules, target=None):
    loaded = load_model(model)
    images = read_images(loaded, [Path(f"{name}.png") for name in names])
    return job.Job.prepare(loaded, images, rules, target)


def quietly(what):
    return contextlib.nullcontext()
