"""The zoo of functions: nothing changes with intermediates as aux, or with all of it wrapped.

`tests/core/test_gradient_parity.py` knows one rule, which switches all recognition off.
"""

import functools
import warnings

import jax
import numpy as np
import pytest

import relprop
from relprop import presets

from .. import zoo_functions as zoo
from ..uncompiled import unchecked
from .grammar import as_users
from .rewritten import each_wrapped, with_intermediates
from .subject import Subject
from .wrappers import WRAPPERS

PRESETS = {
    "attn_lrp": presets.attn_lrp(),
    "cp_lrp": presets.cp_lrp(),
    "epsilon_plus": presets.epsilon_plus(),
    "chefer": presets.chefer(),
}
BODIES = ("checkpoint", "custom_jvp", "jit")
TOLERANCE = 1e-3  # single precision, and sums in another order


class Explained:
    """The relevance of all arguments of a score, under one preset after the other."""

    def __init__(self, f, args, has_aux=False):
        self.f = f if has_aux else lambda *args: (f(*args), None)
        self.args = args

    @functools.cached_property
    def subject(self):
        return Subject(self.f, self.args, tuple(range(len(self.args))), on_missing="gradient")

    def by(self, name):
        """The relevance, or the error in its place."""
        with (
            warnings.catch_warnings(),
            jax.check_tracer_leaks(False),
            as_users(),
            unchecked(),
        ):
            warnings.simplefilter("ignore")  # what relprop has to say about a case
            try:
                return self.subject.relevance(PRESETS[name])
            except relprop.RelpropError as error:
                return type(error).__name__


def same(got, wanted):
    if isinstance(got, str) or isinstance(wanted, str):
        return got == wanted
    return all(map(_close, jax.tree.leaves(got), jax.tree.leaves(wanted)))


def _close(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = max(1e-3, np.abs(b).max(initial=0))
    return a.shape == b.shape and np.allclose(a, b, 0, TOLERANCE * scale, equal_nan=True)


@pytest.mark.parametrize("case", zoo.params())
def test_the_zoo_in_other_forms(case):
    """Each operation in a body of its own, and everything that is computed returned as aux."""
    f, args = case.explained()
    score = zoo.score(f)
    plain = Explained(score, args)
    wrapped, both = {}, {}
    changed = []
    for number, name in enumerate(PRESETS):
        body = BODIES[(zoo.CASES.index(case) + number) % len(BODIES)]
        if body not in wrapped:
            within = each_wrapped(score, WRAPPERS[body], *args)
            wrapped[body] = Explained(within, args)
            both[body] = Explained(with_intermediates(within, *args), args, True)
        wanted = plain.by(name)
        if same(both[body].by(name), wanted):
            continue
        exposed = Explained(with_intermediates(score, *args), args, True)
        forms = {f"each operation in {body}": wrapped[body], "intermediates as aux": exposed}
        changed += [
            f"{name}: {what}" for what, form in forms.items() if not same(form.by(name), wanted)
        ] or [f"{name}: each operation in {body} with intermediates as aux"]
    assert not changed
