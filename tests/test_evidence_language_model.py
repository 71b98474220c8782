"""The metrics of scripts/evidence_language_model.py; the model itself is no part of the tests."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

R = np.array([9.0, 1.0, 3.0, 2.0])


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("evidence_language_model")


def test_tokens_go_in_the_order_of_their_relevance(script):
    ids = (5, 6, 7, 8)
    assert script.deletions(ids, R, "most") == [ids, (6, 7, 8), (6, 8), (6,)]
    assert script.deletions(ids, R, "least") == [ids, (5, 7, 8), (5, 7), (5,)]
    alike = script.deletions(range(50), np.zeros(50), "most")
    assert alike[-1] not in ((0,), (49,))  # Ties are by chance, and not by position.
    # The first three steps of four are 1 apart, and at the end both texts are empty.
    assert script.abpc([0, 0, 0, 0], [0, -1, -1, -1]) == pytest.approx(3 / 4)


def test_evidence_within_a_tenth_of_the_tokens(script):
    relevance = np.array([9.0, *np.linspace(0, 1, 10)])  # 11 tokens: two are a tenth
    last_two = np.arange(11) >= 9
    assert script.recovered(relevance, last_two) == 0.5
    assert script.recovered(relevance, last_two, skip_first=1) == 1
    assert np.isnan(script.recovered(relevance, np.zeros(11, bool)))
    assert script.on_first(np.array([-1.0, 2.0, -1.0])) == 0.25
    prompts = [script.Prompt(kind, (4, 5, 6), 5) for kind in ("copying", "indirect object")]
    assert [p.evidence.tolist() for p in prompts] == [[False, True, False], [False] * 3]


def test_bold_is_what_is_not_told_from_the_best(script):
    rng = np.random.default_rng(0)
    good = rng.normal(2, 1, 40)
    better = good + 0.1  # always, so that the wide intervals do not matter
    numbers = {"good": good, "better": better, "alike": better + rng.normal(0, 0.01, 40) - 0.001}
    found = {name: dict.fromkeys(script.COLUMNS, n) for name, n in numbers.items()}
    first = {
        row.split("|")[1].strip(): row.split("|")[2] for row in script.table(found).split("\n")
    }
    assert "**" in first["better"] and "**" in first["alike"] and "**" not in first["good"]
