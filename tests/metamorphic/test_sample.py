"""A fixed sample: every piece in eleven spellings, under the rules that tell them apart."""

import dataclasses
import itertools

import numpy as np
import pytest

import relprop

from .drawn import fixed_sample
from .explainers import ATTRIBUTION, EXPLAINERS, RULES
from .grammar import PIECES
from .inherent import DIFFERENCES, REFUSALS
from .judge import Judge, distance, outcome, quiet, table
from .networks import Network

# Of rules that differ in numbers only, one is enough. A gamma takes twice the time of the others.
EXPLAINED = ("zero", "epsilon", "z_plus", "w_square", "epsilon_plus_flat", "attn_lrp", "cp_lrp",
             "relp", "chefer", "lstm", ATTRIBUTION)  # fmt: skip
MOST = 11


@pytest.fixture(scope="module")
def judge():
    return Judge(EXPLAINED)


@pytest.mark.parametrize("piece", PIECES)
def test_spellings(piece, judge):
    verdicts = list(judge.all(fixed_sample([PIECES[piece]], MOST)))
    assert not any(v.fails for v in verdicts), table(verdicts)
    looked_at = {(v.network.spelling, v.explainer) for v in verdicts if v.unsettled}
    differing = {(v.network.spelling, v.explainer) for v in verdicts if not v.equal}
    assert looked_at <= differing, f"equal by now: {sorted(looked_at - differing)}"


def test_the_sample_is_large():
    assert len(fixed_sample(most=MOST)) >= 600
    assert len(EXPLAINED) >= 10


@pytest.mark.parametrize("row", [*DIFFERENCES, *REFUSALS], ids=lambda row: row.id)
def test_every_row_is_needed(row):
    """A difference that has gone must not stay in the table."""
    judge = Judge(row.explainers)
    networks = [n for n in fixed_sample() if row.matches(n, row.explainers[0])]
    assert networks, "the row names no spelling"
    needed = set()
    for network, place in itertools.product(networks, ("alone", "behind_a_layer")):
        network = dataclasses.replace(network, position=place)
        needed |= {v.explainer for v in judge(network) if not v.equal and v.row == row}
        if needed == set(row.explainers):
            break
    assert needed == set(row.explainers), f"equal: {sorted(set(row.explainers) - needed)}"


def test_other_functions_are_noticed():
    """The judge looks at the values first: these two have other parameters."""
    judge = Judge(("zero",))
    network, other = Network("dense", "b + x @ w"), Network("dense", "x @ w + b", seed=1)
    judge.references[network.reference] = outcome(other, judge.explainers)
    with pytest.raises(AssertionError, match="it is another function"):
        judge(network)


@pytest.mark.parametrize("piece, name", [("attention", "cp_lrp"), ("gru", "epsilon")])
def test_it_is_what_users_get(piece, name):
    """The harness shares work between rules and runs loops by hand; users do neither."""
    network = Network(piece, PIECES[piece].reference)
    with quiet():
        explain = relprop.relevance(network.function(), RULES[name], has_aux=True)
        wanted, _ = explain(*network.arguments)
    _, outcomes = outcome(network, ("zero", "attn_lrp", name))
    assert distance(outcomes[name], np.asarray(wanted)) <= 1e-12


def test_a_difference_is_noticed():
    """Under a rule of signs a layer in two parts, by rows, is another network than the layer."""
    verdicts = Judge(("z_plus", "zero"))(Network("product", "rows apart"))
    assert [v.equal for v in verdicts] == [False, True]


def test_the_names_are_known():
    assert set(EXPLAINED) <= set(EXPLAINERS)


def test_scores_that_are_folded_into_chunks_first():
    """What was one axis is summed as two; the sample does not hold this spelling."""
    verdicts = Judge(("attn_lrp", "cp_lrp"))(Network("attention", "online by two keys"))
    assert [v.equal for v in verdicts] == [True, True]
