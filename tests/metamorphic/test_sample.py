"""A fixed sample: every piece in a dozen spellings, under the rules that tell them apart."""

import pytest

from .drawn import fixed_sample
from .explainers import ATTRIBUTION, EXPLAINERS
from .grammar import PIECES
from .inherent import DIFFERENCES, REFUSALS
from .judge import Judge, table
from .networks import Network

EXPLAINED = ("epsilon", "gamma", "alpha_beta", "z_plus", "epsilon_plus_flat", "epsilon_gamma_box",
             "attn_lrp", "cp_lrp", "chefer", "lstm", ATTRIBUTION)  # fmt: skip
MOST = 12


@pytest.fixture(scope="module")
def judge():
    return Judge(EXPLAINED)


@pytest.mark.parametrize("piece", PIECES)
def test_spellings(piece, judge):
    verdicts = list(judge.all(fixed_sample([PIECES[piece]], MOST)))
    assert not any(v.fails for v in verdicts), table(verdicts)


def test_the_sample_is_large():
    assert len(fixed_sample(most=MOST)) >= 600
    assert len(EXPLAINED) >= 10


@pytest.mark.parametrize("row", [*DIFFERENCES, *REFUSALS], ids=lambda row: row.id)
def test_every_row_is_needed(row):
    """A difference that has gone must not stay in the table."""
    judge = Judge(row.explainers)
    networks = [n for n in fixed_sample() if row.matches(n, row.explainers[0])]
    assert networks, "the row names no spelling"
    seen = {v.explainer for v in judge.all(networks) if not v.equal and v.row == row}
    assert seen == set(row.explainers), f"equal under {sorted(set(row.explainers) - seen)}"


def test_other_functions_are_noticed(judge):
    other = Network("dense", "x @ w + b", position="alone", seed=1)
    same = Network("dense", "x @ w + b", position="alone")
    object.__setattr__(other, "position", "alone")
    judge(same)
    judge._references[other.reference] = judge._references[same.reference]
    with pytest.raises(AssertionError, match="it is another function"):
        judge(other)


def test_a_difference_is_noticed():
    """Under a rule of signs a layer in two parts, by rows, is another network than the layer."""
    verdicts = Judge(("z_plus", "zero"))(Network("product", "rows apart"))
    assert [v.equal for v in verdicts] == [False, True]


def test_the_names_are_known():
    assert set(EXPLAINED) <= set(EXPLAINERS)
