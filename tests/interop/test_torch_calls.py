"""What PyTorch computes, and what the JAX function of it does: over all kinds of operations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import relprop
from relprop.interop._torch_check import difference, plain
from relprop.interop._torch_lowerings import LOWERINGS

from ..uncompiled import evaluated
from . import torch_calls

pytestmark = [
    pytest.mark.frameworks,
    # torchax warns about settings of torch itself.
    pytest.mark.filterwarnings("ignore"),
]
#: What has no lowering: it is refused, and gives no other number.
LACKING = {
    "CrossMapLRN2d", "GRU, packed", "LSTM, packed", "RReLU(lower=0.125, upper=0.3333333333333333)",
    "fftfreq", "fractional",
    *(f"index_reduce {name} {own}" for name in ("prod", "mean", "amax", "amin")
      for own in (False, True)),
}  # fmt: skip

#: What can only be called with the numbers themselves, since its shapes or branches depend on them.
#: All others are traced, as an explanation does, and not compiled for the one time that they run.
BY_NUMBERS = {"Embedding {'max_norm': 0.5}", "GaussianNLL", "bincount", "istft"}


def called(f, arguments):
    return f(*arguments)


def compared(name, make, arguments):
    """What is wrong with a case, or None."""
    module, given = torch_calls.made(make, arguments)
    with torch.no_grad():
        expected = module(*(x.clone() for x in given))
    fn, params = relprop.interop.from_torch(module, check=False)
    try:
        found = (called if name in BY_NUMBERS else evaluated)(
            lambda *arrays: fn(params, *arrays), [x.numpy() for x in given]
        )
    except Exception as error:
        # Without a lowering torchax says so, and what torch does to avoid one fails in many ways.
        return None if name in LACKING else f"{name}: {type(error).__name__}: {error}"
    if name in LACKING:
        return f"{name}: is not lacking any more"
    amount = max(difference(found, expected), whole(found, expected))
    return None if amount < 2e-5 else f"{name}: {amount:.2g} of the largest entry apart"


def whole(found, expected):
    """Whether whole numbers are other ones; there are no ties in these cases."""
    pairs = zip(jax.tree.leaves(plain(found)), jax.tree.leaves(plain(expected)), strict=True)
    same = (np.array_equal(a, b) for a, b in pairs if not b.is_floating_point())
    return 0.0 if all(same) else float("inf")


@pytest.mark.parametrize("group", torch_calls.GROUPS)
def test_the_forward_pass(group):
    rows = list(torch_calls.GROUPS[group]())
    wrong = [problem for row in rows if (problem := compared(*row)) is not None]
    assert not wrong, "\n".join(wrong)
    assert len(rows) >= 20


def test_lowerings_are_functions_of_operators_that_torch_has():
    assert len(LOWERINGS) > 20
    assert all(callable(operator) for operator in LOWERINGS)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2])
def test_relevance_of_transposed_convolutions(x64, rank, groups):
    """Of a linear layer without a bias, what each input contributes: put in one by one."""
    turned = getattr(nn, f"ConvTranspose{rank}d")
    layer = turned(4, 8, 3, stride=2, padding=1, output_padding=1, groups=groups, bias=False)
    fn, params = relprop.interop.from_torch(layer.double().eval())
    x = np.random.default_rng(0).normal(size=(1, 4, *(3, 4)[:rank]))
    at = (0, 5, *(2, 3)[:rank])
    score = jax.jit(relprop.relevance(lambda x: fn(params, x)[at], relprop.presets.attn_lrp()))
    alone = np.eye(x.size).reshape(x.size, *x.shape[1:]) * x
    with torch.no_grad():
        outputs = layer(torch.tensor(alone)).numpy()
    expected = outputs[(slice(None), *at[1:])]
    np.testing.assert_allclose(score(x).ravel(), expected, atol=1e-5 * np.abs(expected).max())


# What is not compared by its numbers.


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_constant_changed_by_the_input_is_refused():
    def assigned(x):
        table = torch.arange(3)  # Whole numbers, on the CPU.
        table[0] = x[0, 0].long()
        return x * table

    fn, params = relprop.interop.from_torch(Function(assigned).eval())
    with pytest.raises(NotImplementedError, match=r"in place.*\n?.*device=x.device"):
        fn(params, jnp.ones((2, 3)))


def test_a_write_to_overlapping_entries_is_refused():
    def overlapping(x):
        y = x.clone()
        y.unfold(1, 2, 1)[:, 0].zero_()
        return y

    fn, params = relprop.interop.from_torch(Function(overlapping).eval())
    with pytest.raises(NotImplementedError, match="more than once"):
        fn(params, jnp.ones((2, 3)))


def test_relevance_through_views(x64):
    """What is overwritten through a view takes none, and what is written there does."""

    def written(x):
        y = x.clone()
        y.view(-1)[0] = 5.0
        y.transpose(0, 1)[2] *= 2.0
        return y.sum()

    fn, params = relprop.interop.from_torch(Function(written).eval())
    x = jnp.arange(1.0, 7.0).reshape(2, 3)
    found = relprop.relevance(lambda x: fn(params, x), relprop.presets.attn_lrp())(x)
    np.testing.assert_allclose(found, [[0, 2, 6], [4, 5, 12]], atol=1e-4)


def test_attention_to_nothing_does_not_spread(x64):
    """A row whose mask hides everything is zero, and so is its relevance."""
    mask = torch.ones(3, 3, dtype=torch.bool).tril(-1)
    attend = nn.functional.scaled_dot_product_attention
    fn, params = relprop.interop.from_torch(
        Function(lambda x: attend(x, x, x, attn_mask=mask)).eval()
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 3, 4)))
    assert not np.any(fn(params, x)[:, :, 0])
    found = relprop.relevance(lambda x: fn(params, x).sum(), relprop.presets.attn_lrp())(x)
    assert np.isfinite(found).all() and np.any(found)


class Graph(nn.Module):
    """Messages along the edges that are no loops, as PyTorch Geometric chooses them."""

    def forward(self, x, edges):
        kept = edges[:, edges[0] != edges[1]]
        numbers = torch.zeros(x.shape[0], dtype=int) + torch.arange(x.shape[0])
        return torch.zeros_like(x).index_add(0, kept[1], x[kept[0]]) + x[numbers.flip(0)]


def test_whole_numbers_that_are_given_stay_known():
    """Also where they are looked at in part, and while JAX traces."""
    fn, params = relprop.interop.from_torch(Graph().eval())
    x, edges = np.arange(8.0, dtype=np.float32).reshape(4, 2), np.array([[0, 1, 2], [1, 1, 3]])
    found = jax.jit(lambda x: fn(params, x, edges))(x)
    np.testing.assert_allclose(found, Graph()(torch.tensor(x), torch.tensor(edges)))
