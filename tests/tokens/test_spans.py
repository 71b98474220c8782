"""Spans as one target, groups of tokens as features, and first tokens that are sinks."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import Continuation, NextToken, Span, _passes
from tests.tokens.models import CAUSAL, CLASSIFIER, causal_logits, embed, parameters

TEXT, ADDED = [1, 2, 3, 4, 1], [7, 2, 5]


def close(a, b, tolerance=3e-6):
    scale = max(float(np.abs(b).max()), 1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope="module")
def rows():
    return tokens.explain(CAUSAL, TEXT, Continuation(ADDED))


def test_a_span_is_the_sum_of_its_tokens(rows):
    span = tokens.explain(CAUSAL, TEXT, Span(ADDED))
    assert span.relevance.shape == (8,)
    close(span.relevance, rows.relevance.sum(0))
    close(span.score, rows.score.sum())
    np.testing.assert_array_equal(span.target, ADDED)
    assert str(span).startswith("tokens 7, 2, 5, score")


def test_a_span_within_the_text_and_in_a_batch(rows):
    whole = TEXT + ADDED
    within = tokens.explain(CAUSAL, [whole, whole[::-1]], Span(within=(5, 8)))
    assert within.relevance.shape == (2, 8)
    close(within[0].relevance, rows.relevance.sum(0))


def test_weights_and_contrast_of_a_span(rows):
    weights = [2.0, 0.0, -1.0]
    span = tokens.explain(CAUSAL, TEXT, Span(ADDED, weights=weights))
    close(span.relevance, np.asarray(weights) @ rows.relevance)
    other = tokens.explain(CAUSAL, TEXT, Continuation(ADDED), contrast=[3, 3, 4])
    span = tokens.explain(CAUSAL, TEXT, Span(ADDED), contrast=[3, 3, 4])
    close(span.relevance, other.relevance.sum(0))
    close(span.score, other.score.sum())


def test_log_probabilities():
    span = tokens.explain(CAUSAL, TEXT, Span(ADDED, of="log_probability"))
    params, ids = parameters(), np.array([TEXT + ADDED])
    logits = np.asarray(causal_logits(params, embed(params, ids), ids, None))[0, 4:7]
    logits = logits.astype(np.float64)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    close(span.score, chances[np.arange(3), ADDED].sum(), 1e-5)
    gradient = relprop.presets.gradient()
    slope = tokens.explain(CAUSAL, TEXT, Span(ADDED, of="log_probability"), rules=gradient)
    assert np.isfinite(slope.relevance).all() and np.abs(slope.relevance).max() > 0
    assert np.isfinite(span.relevance).all() and np.abs(span.relevance).max() > 0


def test_spans_of_one_size_share_a_program():
    tokens.explain(CAUSAL, TEXT, Span([1, 2, 3]))
    count = len(CAUSAL._compiled)
    tokens.explain(CAUSAL, TEXT, Span([4, 4, 4]))
    assert len(CAUSAL._compiled) == count


@pytest.mark.parametrize("signed", [False, True])
def test_hops_are_the_shares_of_the_chain_handed_on(signed):
    # Prompt of 3, chain of 2, answer of 3.
    answer = tokens.explain(CAUSAL, TEXT, Span(ADDED))
    chain = [tokens.explain(CAUSAL, TEXT, Span(within=(p, p + 1))).relevance for p in (3, 4)]
    found = tokens.hops(CAUSAL, TEXT, Span(ADDED), chain=(3, 5), count=2, signed=signed)
    assert found.shape == (3, 8)
    close(found[0], answer.relevance)
    arrived = answer.relevance
    for hop in (1, 2):
        shares = arrived[3:5] / np.abs(arrived[3:5]).sum()
        expected = np.zeros(8)
        expected[:5] = (shares if signed else np.abs(shares)) @ np.stack(chain)
        close(found[hop], expected, 1e-5)
        arrived = expected


def test_hops_of_log_probabilities_with_padding_weights_and_a_contrast():
    span = Span(ADDED[:1], of="log_probability", weights=[2.0])
    options = {"lengths": "exact", "contrast": 3}
    padded, mask = [11, 11, *TEXT], [0, 0, 1, 1, 1, 1, 1]
    found = tokens.hops(CAUSAL, padded, span, chain=(3, 4), mask=mask, **options)
    answer = tokens.explain(CAUSAL, TEXT, span, **options)
    step = tokens.explain(CAUSAL, TEXT, Span(within=(3, 4), of="log_probability"), lengths="exact")
    assert found.shape == (2, 8) and not found[:, :2].any()
    close(found[0, 2:], answer.relevance)
    close(found[1, 2:7], step.relevance)  # the one token of the chain has the weight 1


def test_a_hop_shares_the_evaluation_with_the_answer():
    """Two explanations are one pass forward and one back each; a hop is one back."""
    costs = []
    for count in (0, 1):
        run = functools.partial(
            _passes.relevance_of_hops,
            CAUSAL,
            count=count,
            signed=False,
            rules=relprop.presets.attn_lrp(),
            on_missing="error",
            on_suspicion="warn",
            of="logit",
        )
        one, two = np.array([4]), np.array([3, 4])
        args = (np.array([TEXT]), np.ones((1, 5), bool), one, one, None, np.ones(1, np.float32))
        program = jax.jit(run).lower(CAUSAL.params, *args, two - 1, two, np.ones(2, np.float32))
        costs.append(program.compile().cost_analysis()["flops"])
    assert costs[1] < 1.7 * costs[0]


@pytest.mark.parametrize(
    ("text", "target", "options", "message"),
    [
        (TEXT, Span(ADDED), {"chain": (3, 5), "count": 0}, "at least 1, got 0"),
        (TEXT, NextToken(1), {"chain": (3, 5)}, "must be a Span"),
        ([TEXT, TEXT], Span(ADDED), {"chain": (3, 5)}, "one by one"),
        (TEXT, Span(ADDED), {"chain": (3, 7)}, "at most the end of the text, 5"),
        (TEXT, Span(ADDED), {"chain": (0, 2)}, "from position 1"),
        (TEXT, Span(within=(2, 3)), {"chain": (2, 4)}, "a chain before the answer"),
    ],
)
def test_hops_that_are_refused(text, target, options, message):
    with pytest.raises(relprop.InputError, match=message):
        tokens.hops(CAUSAL, text, target, **options)


def test_groups(rows):
    groups = np.array([0, 0, 1, 1, 1, -1, 2, 2])
    found = rows.grouped(groups)
    assert found.shape == (3, 3)
    close(found[:, 1], rows.relevance[:, 2:5].sum(1))
    batch = tokens.explain(CAUSAL, [TEXT, TEXT[:3]], NextToken(1))
    close(
        batch.grouped(np.array([[0, 0, 1, 1, 1], [1, 1, 0, -1, -1]]))[1, 1],
        batch[1].relevance[:2].sum(),
    )
    with pytest.raises(relprop.InputError, match="in the shape of the ids"):
        rows.grouped(groups[:3])


def test_first_tokens_are_left_out_of_what_is_shown():
    result = tokens.explain(CAUSAL, [TEXT, TEXT[:3]], NextToken(1), skip_first=1)
    assert result[0].top(9) == tokens.explain(CAUSAL, TEXT, NextToken(1), skip_first=1).top(9)
    assert {i for i, *_ in result[0].top(9)} == {1, 2, 3, 4}
    np.testing.assert_array_equal(result.shown[1], [False, True, True, False, False])
    one = result[0]
    close(one.first_share, np.abs(one.relevance[0]) / np.abs(one.relevance).sum())
    assert result.first_share.shape == (2,)


REFUSED = {
    "classes": (CLASSIFIER, Span([1]), {}, "use ClassTarget"),
    "outside": (CAUSAL, Span(within=(3, 6)), {}, "at most the end of the text, 5"),
    "the first token": (CAUSAL, Span(within=(0, 2)), {}, "from position 1"),
    "weights": (CAUSAL, Span([1, 2], weights=[1.0]), {}, "one per token"),
    "skipped": (CAUSAL, Span([1, 2]), {"skip_first": -1}, "counts tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    model, target, options, message = REFUSED[case]
    with pytest.raises(relprop.InputError, match=message):
        tokens.explain(model, TEXT, target, **options)


@pytest.mark.parametrize("options", [{}, {"tokens": [1], "length": 2}, {"within": (2, 2)}])
def test_spans_that_are_none(options):
    with pytest.raises(ValueError, match="span|within"):
        Span(**options)
