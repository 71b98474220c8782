"""What may stand around a piece, and what is returned beside the score, changes nothing."""

import pytest

from .drawn import fits
from .grammar import PIECES
from .judge import Judge, table
from .networks import EXPOSURES, Network
from .positions import POSITIONS
from .wrappers import WRAPPERS

EXPLAINED = ("epsilon", "z_plus", "epsilon_plus", "attn_lrp", "cp_lrp", "chefer")
WRAPPED = ("residual_layer", "batch_norm_behind", "softmax", "log_softmax", "layer_norm",
           "gelu_by_tanh", "glu", "attention", "convolution_and_batch_norm", "gru",
           "length_beside_a_layer", "fake_quantisation")  # fmt: skip


@pytest.fixture(scope="module")
def judge():
    return Judge(EXPLAINED)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper, judge):
    pieces = [PIECES[name] for name in WRAPPED if fits(name, wrapper)]
    networks = [Network(p.name, p.reference, (wrapper,)) for p in pieces]
    verdicts = list(judge.all(networks))
    assert not any(v.fails for v in verdicts), table(verdicts)


@pytest.mark.parametrize("wrapper", ["switch", "cond_of_equals", "scan_of_length_one"])
def test_bodies_in_bodies(wrapper, judge):
    verdicts = [*judge.all([Network("dense", "switch(product)", (wrapper, "switch"))])]
    assert not any(v.fails for v in verdicts), table(verdicts)


@pytest.mark.parametrize("exposure", EXPOSURES[1:])
def test_exposures(exposure, judge):
    networks = [Network(name, PIECES[name].reference, (), "alone", exposure) for name in WRAPPED]
    verdicts = list(judge.all(networks))
    assert not any(v.fails for v in verdicts), table(verdicts)


@pytest.mark.parametrize("position", POSITIONS)
def test_positions(position, judge):
    """At every position, in a wrapper that recognition has to look into, with everything as aux."""
    networks = [
        Network(name, PIECES[name].reference, ("checkpoint",), position, EXPOSURES[2])
        for name in ("dense", "layer_norm", "softmax", "glu")
    ]
    verdicts = list(judge.all(networks))
    assert not any(v.fails for v in verdicts), table(verdicts)
