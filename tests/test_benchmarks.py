"""Benchmarks run, in miniature, and their numbers can be read again; no number is judged."""

import dataclasses
import json
import math
import runpy
import sys

import pytest

pytestmark = pytest.mark.frameworks
typer = pytest.importorskip("typer", reason="the benchmarks need relprop[cli]")

from benchmarks import attribution, bounds, figure, results, scaling, staging  # noqa: E402
from benchmarks.peers import cases, contest, contestants, imports, ratios  # noqa: E402

QUICK = results.Options(quick=True)


def test_the_command_writes_what_can_be_read_again(tmp_path, monkeypatch, unoptimised):
    monkeypatch.setattr(bounds, "ROWS", [_shortened(bounds.ROWS[0])])
    arguments = ["bounds", "--quick", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("benchmarks", run_name="__main__")
    assert not end.value.code
    document = json.loads((tmp_path / "benchmarks.json").read_text())
    assert document["environment"]["packages"]["jax"]
    assert document["results"][1]["ratios"]["wall"] is None  # nothing was run
    base, explained = results.read(tmp_path / "benchmarks.json")
    assert (base.subject, explained.subject) == ("value_and_grad", "LRP-0")
    assert explained.ratios["flops"] == explained.amounts["flops"] / base.amounts["flops"]
    assert math.isnan(explained.ratios["wall"])
    assert (tmp_path / "bounds.png").stat().st_size > 1000


def _shortened(row):
    return dataclasses.replace(row, rules=dict(list(row.rules.items())[:1]))


@pytest.mark.parametrize(
    ("module", "only", "subjects"),
    [
        (attribution, "", "FUNCTIONS"),
        (staging, "scan", "RULES"),
        (scaling, "tokens", "RULES"),
    ],
    ids=["attribution", "staging", "scaling"],
)
def test_others_in_miniature(module, only, subjects, monkeypatch, unoptimised):
    two = dict(list(getattr(module, subjects).items())[:2])
    monkeypatch.setattr(module, subjects, two)
    found = list(module.results(dataclasses.replace(QUICK, only=only)))
    assert len({r.subject for r in found}) == len(found) > 1
    shown = set(module.COLUMNS) - {"wall"}
    assert all(shown <= set(r.ratios) for r in found[1:])
    if module is staging:
        assert {r.ratios["traces of a second call"] for r in found[1:]} == {0.0}


def test_bounds_mark_what_is_above_them():
    result = results.Result("", "case", "rule", {}, {"flops": 1.06}, {"flops": 1.05})
    assert result.cell("flops") == "1.06 !"
    assert dataclasses.replace(result, bounds={}).cell("flops") == "1.06"
    assert result.cell("wall") == ""


def test_no_figure_without_numbers(tmp_path):
    assert not figure.save(tmp_path / "none.png", "", ("flops",), [results.Result("", "", "", {})])


def test_contestants_explain_the_same_module():
    """In this process and without peers: the gradient of both sides, and relprop."""
    pytest.importorskip("torch", reason="the contest is about PyTorch modules")
    case = cases.MINIATURES[0]
    invited = [c for c in contestants.CONTESTANTS if c.name in (contestants.TORCH, contestants.JAX)]
    prepared = {c.name: c.prepare(case, c.option) for c in invited}
    outcomes = {
        name: contest.Outcome(p.run(), p.flops, wall=1.0, memory=math.nan)
        for name, p in prepared.items()
    }
    torch = ratios._result(case.name, invited[0], outcomes)
    assert torch.amounts["difference"] < 1e-5
    assert torch.ratios[ratios.OWN] == 1.0
    absent = ratios._result(case.name, invited[0], outcomes | {contestants.TORCH: "left out"})
    assert absent.note == "left out" and not absent.ratios
    assert imports.AttentionFunctions(a=1).get_interface("b", 2) == 2
