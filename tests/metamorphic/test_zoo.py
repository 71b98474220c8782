"""The zoo of functions: nothing changes with intermediates as aux, or with all of it wrapped.

`tests/core/test_gradient_parity.py` knows one rule, which switches all recognition off.
"""

import warnings

import jax
import numpy as np
import pytest

import relprop
from relprop import presets

from .. import zoo_functions as zoo
from .grammar import as_users
from .rewritten import each_wrapped, with_intermediates
from .uncompiled import evaluated, has_loops
from .wrappers import WRAPPERS

PRESETS = {
    "attn_lrp": presets.attn_lrp(),
    "cp_lrp": presets.cp_lrp(),
    "epsilon_plus": presets.epsilon_plus(),
    "chefer": presets.chefer(),
}
BODIES = ("checkpoint", "custom_jvp", "jit")
TOLERANCE = 1e-3  # single precision, and sums in another order


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    yield
    jax.clear_caches()


def explained(f, args, name, has_aux=False):
    """The relevance of all arguments, or the error in its place."""
    numbers = tuple(range(len(args)))
    transform = relprop.relevance(f, PRESETS[name], numbers, has_aux, on_missing="gradient")

    def alone(*args):
        return transform(*args)[0] if has_aux else transform(*args)

    with warnings.catch_warnings(), jax.check_tracer_leaks(False), as_users():
        warnings.simplefilter("ignore")  # what relprop has to say about a case
        try:
            return evaluated(alone, args, has_loops(f, *args))
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
    changed = []
    for number, name in enumerate(PRESETS):
        body = BODIES[(zoo.CASES.index(case) + number) % len(BODIES)]
        wanted = explained(score, args, name)
        wrapped = each_wrapped(score, WRAPPERS[body], *args)
        both = with_intermediates(wrapped, *args)
        if same(explained(both, args, name, True), wanted):
            continue
        exposed = with_intermediates(score, *args)
        changed += [
            f"{name}: {what}"
            for what, got in (
                (f"each operation in {body}", explained(wrapped, args, name)),
                ("intermediates as aux", explained(exposed, args, name, True)),
            )
            if not same(got, wanted)
        ] or [f"{name}: each operation in {body} with intermediates as aux"]
    assert not changed
