"""Planted data: what is said to be the evidence decides the class, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

import relprop
from relprop import truth
from relprop.truth import _text

KINDS = ("linear", "multiplicative", "rigid", "xor")
DRAWS = {
    **{
        kind: lambda n, seed, kind=kind: truth.tetrominoes(kind, count=n, seed=seed)
        for kind in KINDS
    },
    "clutter": truth.clutter,
    "grid": truth.grid,
    "interactions": truth.interactions,
    "motifs": truth.motifs,
}
TEXTS = ("key-value", "negation", "multi-hop", "evidence-spans")


@pytest.mark.parametrize("name", DRAWS)
def test_the_seed_decides_all(name):
    first, again, other = (DRAWS[name](5, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.x != other.x).any()
    assert first.x.shape == first.mask.shape and first.x.dtype == np.float32
    assert first.mask.reshape(5, -1).any(axis=1).all()


def test_a_switch_chooses_the_product():
    data = truth.interactions(200)
    for x, target, mask in zip(data.x, data.target, data.mask, strict=True):
        chosen = np.flatnonzero(mask)
        assert chosen[0] == 0 and list(chosen[1:]) == ([1, 2] if x[0] > 0 else [3, 4])
        first = x[chosen[1]] - (0.5 * x[5] if x[0] > 0 else 0)
        assert target == (first * x[chosen[2]] > 0)


def test_motifs_stand_out_where_the_mask_is():
    data = truth.motifs(100)
    inside = np.abs(data.x[data.mask]).mean()
    assert inside > 2 * np.abs(data.x[~data.mask]).mean()
    starts = data.mask[..., 0].argmax(axis=1)
    assert len(np.unique(starts)) > 20 and set(data.target) == {0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_tetrominoes_lie_in_their_mask(kind):
    """The mean over many images, with the sign of the class, is nothing outside of the mask."""
    data = truth.tetrominoes(kind, background="white", count=4000)
    x, sign = data.x[..., 0], np.where(data.target == 1, 1, -1)[:, None, None]
    mask = data.mask[0, ..., 0]
    if kind == "linear":
        mean = (x * sign).mean(axis=0)
        assert (np.abs(mean[mask]) > 0.15).all() and np.abs(mean[~mask]).max() < 0.1
    elif kind == "multiplicative":
        variance = (x**2 * sign).mean(axis=0)
        assert (np.abs(variance[mask]) > 0.3).all() and np.abs(variance[~mask]).max() < 0.2
        assert np.abs(x.mean(axis=0)).max() < 0.1
    elif kind == "xor":
        first = x[:, 1, 1:4].mean(axis=1), x[:, 4:7, 5].mean(axis=1)
        assert ((first[0] * first[1] < 0) == (data.target == 1)).mean() > 0.95
        assert np.abs((x * sign).mean(axis=0)).max() < 0.15  # no pixel tells alone
    else:
        assert (data.mask.sum(axis=(1, 2, 3)) == 4).all()
        assert x[data.mask[..., 0]].mean() > 2 and abs(x[~data.mask[..., 0]].mean()) < 0.05


def test_large_tetrominoes_are_small_ones_enlarged():
    small, large = (truth.tetrominoes("rigid", size=s, count=3, seed=1).mask for s in (8, 64))
    assert large.shape == (3, 64, 64, 1) and large.sum() == 64 * small.sum()


def test_smooth_noise_makes_suppressors():
    """Beside the shape the noise inside it can be told, which white noise does not let one."""
    for background, least, most in (("correlated", 0.5, 1), ("white", -0.1, 0.1)):
        data = truth.tetrominoes("multiplicative", background=background, count=2000)
        x = data.x[data.target == 0, ..., 0]  # the L is not there
        assert least < np.corrcoef(x[:, 4, 5], x[:, 4, 4])[0, 1] < most


def test_texts_say_what_their_evidence_says():
    for n, text in enumerate(_read("key-value", 50)):
        words, target, evidence = text
        at = words.index(words[-1])
        assert words[at + 1] == str(target), n
        assert evidence == [at, at + 1, len(words) - 1]
    for words, target, evidence in _read("negation", 50):
        negated = words[evidence[0]] == "not"
        good = words[evidence[-1]] in _text._GOOD
        assert target == (good != negated) and len(evidence) == 1 + negated
        assert negated == (words[evidence[-1] - 1] == "not")
    for words, target, evidence in _read("multi-hop", 50):
        facts = [words[i : i + 3] for i in range(1, 19, 3)]
        who = next(p for p, verb, what in facts if verb == "has" and what == words[-1])
        where = next(what for p, verb, what in facts if verb == "in" and p == who)
        assert _text.PLACES[target] == where
        assert sorted(words[i] for i in evidence) == sorted([who, who, words[-1], where, words[-1]])
    for words, target, evidence in _read("evidence-spans", 50):
        praise = {i for i, w in enumerate(words) if w in _text._GOOD}
        blame = {i for i, w in enumerate(words) if w in _text._BAD}
        assert target == (len(praise) > len(blame))
        assert set(evidence) == (praise if target else blame) and len(evidence) == 6


def _read(task, count):
    drawn = truth.texts(task, count)
    assert drawn.target.max() < drawn.classes
    for ids, target, evidence in zip(drawn.ids, drawn.target, drawn.evidence, strict=True):
        words = [drawn.vocabulary[i] for i in ids]
        yield words, int(target), np.flatnonzero(evidence).tolist()


def test_grids_have_four_classes_and_clutter_one_digit():
    data = truth.grid(20)
    images, labels = truth.digits()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for x, mask, target in zip(data.x[..., 0], data.mask[..., 0], data.target, strict=True):
        cells = [np.s_[r : r + 8, c : c + 8] for r in (0, 8) for c in (0, 8)]
        found = [known[np.ascontiguousarray(x[cell]).tobytes()] for cell in cells]
        assert len(set(found)) == 4
        assert [label for label, cell in zip(found, cells, strict=True) if mask[cell].all()] == [
            target
        ]
    data = truth.clutter(20)
    for x, mask, target in zip(data.x, data.mask, data.target, strict=True):
        assert known[x[mask].tobytes()] == target


def test_what_is_wrong_is_said():
    with pytest.raises(relprop.UnknownNameError, match="rigid"):
        truth.tetrominoes("rigids")
    with pytest.raises(relprop.UnknownNameError, match="white"):
        truth.tetrominoes(background="whit")
    with pytest.raises(relprop.InputError, match="multiple of 8"):
        truth.tetrominoes(size=20)
    with pytest.raises(relprop.UnknownNameError, match="key-value"):
        truth.texts("key-values")
    with pytest.raises(relprop.UnknownNameError, match="motif-lstm"):
        truth.load("motif-lsmt")
    for draw in (truth.clutter, truth.grid, truth.motifs, truth.interactions):
        with pytest.raises(relprop.InputError, match="at least 1"):
            draw(count=0)
    with pytest.raises(relprop.InputError, match="mask has the shape"):
        truth.Planted(np.ones((2, 3)), np.zeros(2, int), np.ones((2, 4), bool), np.arange(4))
