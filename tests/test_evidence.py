"""The tables of evidence: numbers are measured, verdicts follow from them, the page is a run's."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors")

from evidence import choices, measure, methods, page, ranking  # noqa: E402
from relprop import truth  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs" / "explanation"


def row(method, auc, abpc, half=0.05, control=False):
    numbers = dict.fromkeys(measure.BETTER, (0.5, half)) | {
        "auc": (auc, half),
        "abpc": (abpc, half),
    }
    found = {m: {"mean": v, "low": v - h, "high": v + h} for m, (v, h) in numbers.items()}
    curves = {"most": [1.0, 0.0], "least": [1.0, 0.5]}
    about = {"method": method, "control": control, "milliseconds": 1.0}
    return {**about, "metrics": found, "curves": curves}


def task(*rows, name="one", kind="mlp"):
    about = {"task": name, "kind": kind, "what": "a test", "samples": 4, "seed": 0, "commit": "c"}
    return {**about, "features": 3, "planted": 0.25, "cpu_seconds": 1.0, "rows": list(rows)}


ONE = task(
    row("epsilon", 0.6, 2.0),
    row("gamma", 0.9, 3.0),
    row("deeplift", 0.9, 2.98),
    row("random", 0.7, 0.0, control=True),
)
TWO = task(row("epsilon", 0.8, 2.0), row("gamma", 0.7, 1.0), row("random", 0.5, 0, control=True))


def test_verdicts_follow_from_the_numbers():
    assert ranking.leaders(ONE, "abpc") == ["gamma", "deeplift", "epsilon"]
    assert ranking.behind(ONE, "abpc", "epsilon") and not ranking.behind(ONE, "abpc", "deeplift")
    assert ranking.beaten(ONE, "auc") == {"epsilon": "random"}
    assert ranking.beaten(ONE, "abpc") == {}
    assert ranking.ranked(ONE, "auc", "gamma") == ranking.ranked(ONE, "auc", "deeplift") == 1.5
    # DeepLIFT is not measured on both.
    assert ranking.mean_ranks([ONE, TWO], "abpc") == {"gamma": 1.5, "epsilon": 2.0}
    lower = {m: ranking.signed(ONE["rows"][0], m) for m in ("sufficiency", "auc")}
    assert lower == {"sufficiency": -0.5, "auc": 0.6}


def test_equal_ranks_are_no_order():
    assert ranking.best(task(row("a", 0.5, 1.0), row("b", 0.5, 2.0)), "auc") == ["a", "b"]
    sums = {"removal": 1.0, "gamma": 3.0, "relp": 9.0, "cp_lrp": 9.0, "deeplift": 3.0}
    assert ranking.tied(sums) == [["removal"], ["gamma", "deeplift"], ["relp", "cp_lrp"]]
    assert page._order(sums).split("\n") == [
        "By the sum of both ranks **gamma** and **deeplift** (equal) lead among what needs one "
        "pass, before relp and cp_lrp (equal).",
        "removal, at many passes, does better still.",
        "The last are relp and cp_lrp (equal).",
    ]
    others = {"gamma": 2.0, "deeplift": 3.0, "relp": 4.0, "epsilon": 5.0}
    assert page._order(others).split("\n") == [
        "By the sum of both ranks **gamma** leads among what needs one pass, before deeplift, then "
        "relp.",
        "The last is epsilon.",
    ]
    assert page._order({"gamma": 2.0}).endswith("**gamma** leads among what needs one pass.")


def test_the_page_says_where_favourites_lose(monkeypatch):
    monkeypatch.setitem(page.FAVOURITES, "mlp", ("epsilon",))
    chosen = {"task": "one", "default": "`Epsilon`", "settings": 3, "better": True}
    chosen |= {"setting": {"gamma": 0.25}, "reported": 3.0, "of_default": 2.0, "gain": [0.5, 1.5]}
    text = page.written([ONE], [{**chosen, "samples": 8, "cpu_seconds": 1.0}])
    assert "**gamma** leads" in text and "commit\n`c`" in text
    assert (
        "- one, epsilon: auc (rank 3 of 3, best gamma and deeplift); abpc (rank 3 of 3, best gamma)"
        in text
    )
    assert "- one, auc, by random: epsilon" in text
    assert "| **epsilon** | 3.0 | 1 of 1 | 1 of 1 | 3.0 | 1 of 1 | 0 of 1 |" in text
    assert "| epsilon | 0.60 [0.55, 0.65]! |" in text and "| *random* |" in text
    assert "gamma 0.25 has 3.00 and is better than `Epsilon` with 2.00" in text
    rows = list(csv.DictReader(io.StringIO(page.as_csv([ONE]))))
    assert len(rows) == 4 * len(measure.BETTER)
    assert rows[0] | {"method": "epsilon", "metric": "auc", "mean": "0.6"} == rows[0]


@pytest.mark.parametrize(
    "name",
    ["tetrominoes-linear-64", "motif-lstm", "interactions", "key-value", "compiled-induction"],
)
def test_there_are_fourteen_methods_with_controls(name):
    loaded = truth.load(name)
    found = methods.methods(loaded, loaded.draw(2))
    assert len(found) >= 14
    assert {"random", "edges", "size of the input"} <= set(found)
    assert ("late tokens first" in found) == (loaded.kind in ("decoder", "compiled", "lstm"))


@pytest.fixture
def few(monkeypatch):
    """Three methods, which compile in seconds."""
    chosen = lambda task, data: {"right": right, "constant": constant, "random": "random"}  # noqa: E731
    monkeypatch.setattr(measure, "methods", chosen)


def right(f):
    def explain(x):
        return np.float32(1) * (x * 0 + _MASK)

    return explain


def constant(f):
    return lambda x: x * 0 + 1


_MASK = np.array([3, 1, 1, 1, 1, *[0] * 7], np.float32)


def test_a_task_in_miniature(few):
    found = measure.measured("interactions", 8)
    assert json.loads(json.dumps(found))["task"] == "interactions"
    by = {row["method"]: row["metrics"] for row in found["rows"]}
    assert by["right"]["auc"]["mean"] > 0.85 and by["constant"]["auc"]["mean"] == 0.5
    assert by["constant"]["mass"]["mean"] == pytest.approx(0.25)
    assert by["right"]["abpc"]["mean"] > by["random"]["abpc"]["mean"]
    assert (
        by["right"]["mprt"]["mean"] == pytest.approx(1) and by["right"]["sensitivity"]["mean"] == 0
    )
    assert found["planted"] == pytest.approx(0.25) and found["features"] == 12


def test_families_have_defaults_of_the_presets():
    for name, (family, _) in choices.FAMILIES.items():
        settings = family(truth.load(name).draw(2)).settings()
        assert len(settings) > 10


def test_the_page_in_the_documentation_is_of_a_run():
    """The numbers that it shows are those of the CSV beside it; what is missing, it says."""
    text = (DOCS / "evidence.md").read_text()
    rows = list(csv.DictReader(io.StringIO((DOCS / "evidence.csv").read_text())))
    measured = {row["task"] for row in rows}
    kinds = {row["kind"] for row in rows}
    assert {"cnn", "decoder", "encoder", "mlp"} <= kinds and (DOCS / "evidence.png").exists()
    for name in truth.names():
        if name not in measured:
            assert name in text.partition("Not measured in this run:")[2].partition(".")[0]
            continue
        assert f"### {name}\n" in text
        here = [row for row in rows if row["task"] == name]
        assert len({row["method"] for row in here}) >= 14
        for shown in (row for row in here if row["metric"] == "auc"):
            numbers = "{:.2f} [{:.2f}, {:.2f}]".format(
                *(float(shown[k]) for k in ("mean", "low", "high"))
            )
            method = f"*{shown['method']}*" if int(shown["control"]) else shown["method"]
            assert f"| {method} | {numbers}" in text
    assert all(row["commit"] in text and not row["commit"].endswith("+") for row in rows)


def test_the_advice_says_what_controls_beat():
    """The counts on "Which rule should I take?" are those of the CSV."""
    tasks = in_the_documentation()
    names = {"AlphaBeta(1, 0)": "alpha1_beta0"}
    kinds = {name: kind for kind, name in page.NAMES.items()}
    table = (DOCS / "which-rule.md").read_text().partition("## What controls beat")[2]
    stated = re.findall(r"^\| (.+?) \| `(.+?)` \| (\d+ of \d+) \| (\d+ of \d+) \|$", table, re.M)
    assert {kind for kind, *_ in stated} == {*kinds} - {page.NAMES["compiled"]}
    for kind, rule, *counts in stated:
        of_kind = [task for task in tasks if task["kind"] == kinds[kind]]
        for metric, count in zip(("auc", "abpc"), counts, strict=True):
            below = sum(names.get(rule, rule) in ranking.beaten(t, metric) for t in of_kind)
            assert count == f"{below} of {len(of_kind)}", (kind, rule, metric)


def in_the_documentation():
    """The tasks of the CSV, as far as `ranking` asks for them."""
    tasks, rows = {}, {}
    for n in csv.DictReader(io.StringIO((DOCS / "evidence.csv").read_text())):
        task = tasks.setdefault(n["task"], {"kind": n["kind"], "rows": []})
        key = n["task"], n["method"]
        if key not in rows:
            rows[key] = {"method": n["method"], "control": n["control"] == "1", "metrics": {}}
            task["rows"].append(rows[key])
        rows[key]["metrics"][n["metric"]] = {k: float(n[k]) for k in ("mean", "low", "high")}
    return list(tasks.values())
