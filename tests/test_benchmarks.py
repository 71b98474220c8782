"""Benchmarks run, in miniature, and their numbers can be read again; no number is judged."""

import dataclasses
import json
import math
import runpy
import sys

import pytest

pytestmark = pytest.mark.frameworks
typer = pytest.importorskip("typer", reason="the benchmarks need relprop[cli]")

from benchmarks import (  # noqa: E402
    attribution,
    bounds,
    circuits,
    faithfulness,
    figure,
    graphs,
    jobs,
    results,
    scaling,
    staging,
)
from benchmarks.peers import cases, contest, contestants, imports, ratios  # noqa: E402

QUICK = results.Options(quick=True)


def test_the_command_writes_what_can_be_read_again(tmp_path, monkeypatch):
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


def test_jobs_next_to_a_loop(monkeypatch):
    pytest.importorskip("zarr", reason="stores are an extra")
    monkeypatch.setattr(jobs, "SAMPLES", 8 * 3 * jobs.BATCH)
    monkeypatch.setattr(jobs, "WARM", 1)
    assert not [*jobs.results(QUICK)]  # nothing is run without being asked for
    found = [*jobs.results(dataclasses.replace(QUICK, runs=1, only="cnn"))]
    assert [result.subject for result in found] == ["bare loop", "job"]
    assert found[0].ratios == {"wall": 1.0, "processors": 1.0}
    assert found[1].ratios["wall"] == found[1].amounts["wall"] / found[0].amounts["wall"]


@pytest.mark.parametrize(
    ("module", "only", "subjects"),
    [
        (attribution, "", "FUNCTIONS"),
        (circuits, "", "BOUNDS"),
        (staging, "scan", "RULES"),
        (scaling, "tokens", "RULES"),
    ],
    ids=["attribution", "circuits", "staging", "scaling"],
)
def test_others_in_miniature(module, only, subjects, monkeypatch):
    two = dict(list(getattr(module, subjects).items())[:2])
    monkeypatch.setattr(module, subjects, two)
    found = list(module.results(dataclasses.replace(QUICK, only=only)))
    assert len({r.subject for r in found}) == len(found) > 1
    shown = set(module.COLUMNS) - {"wall"}
    assert all(shown <= set(r.ratios) for r in found[1:])
    if module is staging:
        assert {r.ratios["traces of a second call"] for r in found[1:]} == {0.0}


def test_graphs_in_miniature():
    base, graph = graphs.results(dataclasses.replace(QUICK, runs=1))
    assert graph.ratios["wall"] == graph.amounts["wall"] / base.amounts["wall"]


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


def test_metrics_without_quantus_are_left_out(monkeypatch):
    monkeypatch.delenv("QUANTUS_PYTHON", raising=False)
    found = list(faithfulness.results(QUICK))
    assert [r.case for r in found] == ["digits-cnn", "digits-vit"]
    assert all("no QUANTUS_PYTHON" in r.note and not r.ratios for r in found)


def test_metrics_are_compared_per_sample(monkeypatch):
    pytest.importorskip("flax")
    theirs = {"Monotonicity": 100.0, "ROAD": "fails: ValueError"}
    monkeypatch.setattr(faithfulness, "_theirs", lambda *given: theirs)
    monkeypatch.setattr(faithfulness, "METRICS", {n: faithfulness.METRICS[n] for n in theirs})
    monkeypatch.setenv("QUANTUS_PYTHON", "python")
    fast, failed = faithfulness.results(dataclasses.replace(QUICK, only="cnn"))
    assert fast.ratios["speed"] == 100 / fast.amounts["relprop"] > 10 and not fast.note
    assert fast.amounts["relprop, first call"] > fast.amounts["relprop"]
    assert failed.note == "fails: ValueError" and not failed.ratios
