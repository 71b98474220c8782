"""Texts of many lengths share few programs, and padding changes nothing that they say."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import Continuation, NextToken
from relprop.tokens._compiled import Compiled
from relprop.tokens._lengths import padded_length
from tests.tokens.models import CAUSAL, PAD, VOCABULARY, embed, parameters


def close(a, b, tolerance=2e-6):
    scale = max(float(np.abs(b).max()), 1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def counted(traced):
    """A causal model of any length that tells which lengths it was traced for."""

    def logits(params, embeds, ids, mask):
        traced.append(embeds.shape[1])
        past = jnp.cumsum(jnp.tanh(embeds @ params["query"]), axis=1)
        return jnp.tanh(past @ params["key"]) @ params["head"]

    return tokens.LanguageModel(embed, logits, parameters(), vocabulary=VOCABULARY)


def test_fifty_lengths_meet_few_buckets():
    traced: list[int] = []
    model = counted(traced)
    random = np.random.default_rng(0)
    lengths = random.integers(10, 501, size=50)
    for length in lengths:
        tokens.explain(model, random.integers(0, VOCABULARY, length))
    first = int(lengths[0])
    met = set(traced) - {first}
    assert met == {16, 32, 64, 112, 192, 320, 512}
    # Prediction and relevance per bucket, and once the logits of a text at its own length.
    assert len(model._compiled) == 2 * len(met) + 1


@pytest.mark.parametrize("length", [2, 16])
def test_padding_changes_nothing(length):
    ids = np.random.default_rng(length).integers(0, VOCABULARY - 1, length)
    own = tokens.explain(CAUSAL, ids, NextToken(3), lengths="exact")
    for lengths in ("buckets", [3, 20]):
        padded = tokens.explain(CAUSAL, ids, NextToken(3), lengths=lengths)
        assert padded.relevance.shape == (length,)
        close(padded.relevance, own.relevance)
        close(padded.score, own.score)


def test_explain_and_append_compiles_nothing():
    traced: list[int] = []
    model = counted(traced)
    ids = [1, 2, 3]
    for step in range(10):
        result = tokens.explain(model, ids)
        if step == 0:
            count = len(traced)
        ids.append(int(result.target))
    assert len(traced) == count
    assert len(ids) == 13


def test_the_width_of_a_caller_is_kept():
    traced: list[int] = []
    model = dataclasses.replace(counted(traced), pad_id=PAD)
    for length in (3, 7, 11):
        ids = np.full(24, PAD)
        ids[-length:] = np.arange(length) % 9
        result = tokens.explain(model, ids, NextToken(1), mask=ids != PAD)
        close(
            result.relevance[-length:], tokens.explain(model, ids[-length:], NextToken(1)).relevance
        )
        np.testing.assert_array_equal(result.relevance[:-length], 0.0)
    assert set(traced) == {24, 3, 16}


def test_continuations_of_few_sizes():
    model = counted([])
    for count in (3, 4):
        result = tokens.explain(model, [1, 2, 3], Continuation([4] * count), rows_at_once=4)
        assert result.relevance.shape == (count, 3 + count)
    programs = len(model._compiled)
    result = tokens.explain(model, [1, 2, 3], Continuation([4] * 7), rows_at_once=4)
    assert len(model._compiled) == programs
    alone = tokens.explain(model, [1, 2, 3, 4, 4, 4, 4], NextToken(4))
    close(result[4].relevance[:7], alone.relevance)


def looks_at_padding(params, embeds, ids, mask):
    return embeds.mean(1) @ params["head"]


def ends_early(params, embeds, ids, mask):
    """Positions that end after ten; what comes after has none, which are no numbers."""
    positions = jnp.where(jnp.arange(embeds.shape[1]) < 10, 0.5, jnp.nan)[None, :, None]
    past = embeds + positions
    return jnp.cumsum(past, axis=1)[:, ::1] @ params["head"] + 0 * past.sum()


@pytest.mark.parametrize("logits", [looks_at_padding, ends_early])
def test_models_that_padding_changes_are_run_as_they_are(logits):
    model = tokens.LanguageModel(embed, logits, parameters())
    for ids in ([1, 2, 3], [4, 5]):
        found = tokens.explain(model, ids)
        exact = tokens.explain(model, ids, lengths="exact")
        np.testing.assert_array_equal(found.relevance, exact.relevance)
        assert np.isfinite(found.score)


def test_positions_that_end():
    # The table of CAUSAL has 20 positions, and texts of 17 tokens would be padded to 32.
    ids = np.arange(17) % 9
    close(
        tokens.explain(CAUSAL, ids, NextToken(1)).relevance,
        tokens.explain(CAUSAL, ids, NextToken(1), lengths="exact").relevance,
    )
    assert padded_length(17, "buckets", bounds=[20, 40]) == 20
    assert padded_length(25, "buckets", bounds=[20, 40]) == 32
    assert padded_length(41, "buckets", bounds=[20, 40]) == 64


@pytest.mark.parametrize("lengths", ["bucket", [0], [1.5], 16])
def test_refused(lengths):
    with pytest.raises(relprop.InputError, match="`lengths` must be"):
        tokens.explain(CAUSAL, [1, 2], lengths=lengths)


def test_programs_are_bounded_and_given_back():
    compiled = Compiled(most=2)

    def twice(model, params, x):
        return params * x

    for length in (1, 2, 3, 1):
        close(compiled(twice, None, jnp.ones(()), jnp.ones(length)), np.ones(length))
        assert len(compiled) <= 2
    kept = [weakref.ref(program) for program in compiled._programs.values()]
    compiled.clear()
    gc.collect()
    assert not any(ref() for ref in kept)


def test_a_model_is_not_kept_alive():
    model = counted([])
    tokens.explain(model, [1, 2], NextToken(1))
    model.clear_cache()
    assert len(model._compiled) == 0
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
