"""Hops through planted chains: the texts, FlashTrace by its equations, and who finds more."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("safetensors")

from evidence import chains, flashtrace, hops  # noqa: E402

DATA = chains.chains(6, seed=1)


@pytest.fixture(scope="module")
def params():
    return chains.load(chains.SEEDS[0])


@pytest.fixture(scope="module")
def run(params):
    return flashtrace.layers(params, DATA.ids[0])


def test_what_is_needed_is_what_the_reasoning_restates():
    for ids, needed in zip(DATA.ids, DATA.needed, strict=True):
        stated = {tuple(ids[i : i + 2]) for i in np.flatnonzero(needed)[::2]}
        begin, end = DATA.reasoning
        steps = ids[begin:end].reshape(chains.DEPTH, 3)
        assert stated == {tuple(step[:2]) for step in steps}
        assert steps[0, 0] == ids[begin - 2] and steps[-1, 1] == ids[DATA.answer[0]]
        np.testing.assert_array_equal(steps[1:, 0], steps[:-1, 1])
    for depth in (1, 2):
        few = chains.chains(2, seed=1, depth=depth)
        assert few.needed.sum(axis=1).tolist() == [2 * depth] * 2
        assert few.reasoning[1] - few.reasoning[0] == 3 * depth


@pytest.mark.parametrize("depth", hops.DEPTHS)
def test_the_decoder_says_the_reasoning_and_the_answer(params, depth):
    data = chains.chains(24, seed=2, depth=depth)
    begin = data.reasoning[0]
    said = np.asarray(chains.logits(params, params["table"][data.ids[:, :-1]])).argmax(-1)
    assert (said[:, begin - 1 :] == data.ids[:, begin:]).all(axis=1).mean() > 0.9


def test_layers_are_those_of_the_decoder(params, run):
    first, second = run
    mixed = np.einsum("hqk,hkw->qw", first.maps, first.brought)
    x = (first.residual + mixed)[None]
    block = params["block0"]
    x = x + chains.hidden(block, chains.normed(block["norm2"], x))
    np.testing.assert_allclose(x[0], second.residual, rtol=0, atol=1e-4)
    np.testing.assert_allclose(first.maps.sum(-1), 1, rtol=1e-5)


def test_one_target_by_the_equations_of_the_paper(run):
    """Token by token and head by head, without any sum over targets."""
    position, share, expected = 40, 1.0, np.zeros(DATA.ids.shape[1])
    for layer in reversed(run):
        parts = [layer.residual[position]]
        parts += [
            layer.maps[head, position, token] * layer.brought[head, token]
            for token in range(position + 1)
            for head in range(chains.HEADS)
        ]
        whole = np.sum(parts, axis=0)
        near = [max(0.0, np.abs(whole).sum() - np.abs(whole - part).sum()) for part in parts]
        of_heads = np.reshape(near[1:], (-1, chains.HEADS)).sum(1)
        expected[: position + 1] += share * of_heads / sum(near)
        share *= near[0] / sum(near)
    expected[position] += share
    weights = np.eye(len(expected))[position]
    np.testing.assert_allclose(flashtrace.of_targets(run, weights, True), expected, atol=1e-5)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_shares_are_handed_on(run, direct, before):
    rows = flashtrace.flashtrace(run, DATA.answer, DATA.reasoning, 2, direct, before)
    assert (rows >= 0).all() and rows.shape == (3, DATA.ids.shape[1])
    handed = [1, *rows[:-1, slice(*DATA.reasoning)].sum(1)]
    np.testing.assert_allclose(rows.sum(1), handed, rtol=1e-5)
    assert not rows[0, DATA.answer[1] - before :].any(), "no token after the target"
    assert not flashtrace.of_targets(run, np.zeros(rows.shape[1]), direct).any()


def test_recovery():
    source, needed = np.arange(25) > 4, np.isin(np.arange(25), [5, 6])
    ranks = np.zeros(25)
    assert hops.recovery(ranks + 9 * needed, needed, source) == 1.0
    ranks[[0, 5, 9]] = 9, 3, 2  # the first is no source
    assert hops.recovery(ranks, needed, source) == 0.5


def test_hops_find_more_than_any_reading_of_flashtrace(params):
    found = hops.of_texts(hops.methods()["attn_lrp"], params, DATA).mean()
    assert found > hops.best_reading([params], DATA)[1]


def test_a_hop_costs_half_of_an_explanation(params):
    assert 1.3 < hops.cost(params, DATA, hops.RULES["cp_lrp"]) < 1.5
