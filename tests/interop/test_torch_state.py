"""PyTorch modules that draw by chance, remember, or read their buffers as numbers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import relprop
from relprop.interop import from_torch
from relprop.rules import Epsilon

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore"),
]
X = jax.random.normal(jax.random.key(0), (2, 4))


class Chance(nn.Module):
    """Random masks in evaluation mode, as ViTMAE has them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        order = torch.argsort(torch.rand(x.shape, device=x.device), dim=1)
        return torch.gather(self.layer(x), 1, order) + torch.randn_like(x)


def test_what_is_drawn_by_chance_is_the_same_at_every_call():
    fn, params = from_torch(Chance().eval(), check=False)
    explain = jax.jit(relprop.relevance(lambda x: fn(params, x)[0, 1], Epsilon()))
    first = explain(X)
    plain = fn(params, X)
    np.testing.assert_allclose(jax.jit(fn)(params, X), plain, rtol=1e-5)
    np.testing.assert_allclose(fn(params, X), plain, rtol=1e-5)
    np.testing.assert_array_equal(explain(X), first)
    assert np.isfinite(explain(X + 1)).all()
    with pytest.raises(relprop.ForwardError, match="something else each time"):
        from_torch(Chance().eval())[0](params, X)


class Remembers(nn.Module):
    """Keeps what it computed in places of all kinds."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))
        self.table, self.row, self.known = {}, [], None

    def forward(self, x):
        if self.known is None:
            self.known = self.bias * 2
            self.table["bias"] = self.bias * 3
            self.row.append(self.bias * 5)
        return x * (self.known + self.table["bias"] + self.row[0])


def test_caches_are_of_one_call():
    module = Remembers().eval()
    fn, params = from_torch(module)
    for factor in (1.0, 2.0):
        changed = {"bias": factor * params["bias"]}
        np.testing.assert_allclose(fn(changed, X), 10 * factor * X, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(fn)(changed, X), 10 * factor * X, rtol=1e-5)
    gradient = jax.grad(lambda params: fn(params, X).sum())(params)["bias"]
    np.testing.assert_allclose(gradient, 10 * X.sum(0), rtol=1e-4)
    assert (module.known, module.table, module.row) == (None, {}, [])
    with torch.no_grad():
        module(torch.zeros(1, 4))  # It goes on to remember for itself.
    assert list(module.table) == ["bias"]


class Sizes(nn.Module):
    """Reads its buffers as numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shape", torch.tensor([2, 2, 2]))
        self.register_buffer("axis", torch.tensor(2))
        self.register_buffer("flipped", torch.tensor(True))

    def forward(self, x):
        x = x.reshape(self.shape.tolist())
        return (x.flip(0) if self.flipped else x).sum(int(self.axis))


def test_buffers_of_whole_numbers_are_numbers():
    fn, params = from_torch(Sizes().eval())
    assert set(params) == {"shape", "axis", "flipped"}
    expected = np.asarray(X).reshape(2, 2, 2)[::-1].sum(2)
    for run in (fn, jax.jit(fn)):
        np.testing.assert_allclose(run(params, X), expected, rtol=1e-5)
    R = relprop.relevance(lambda params, x: fn(params, x).sum(), Epsilon(), 1)(params, X)
    np.testing.assert_allclose(R, X, rtol=1e-4)
    # What is at hand is used: only tracers have no numbers.
    other = {**params, "shape": jnp.array([1, 2, 4])}
    assert fn(other, X).shape == (1, 2)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ROWS = torch.tensor([0, 1, 0])
KNOWN = {
    "mask": lambda x: x[torch.tensor([True, False, True])],
    "mask of ones": lambda x: x[torch.ones(3, dtype=torch.bool, device=x.device)],
    "mask of columns": lambda x: x[:, torch.arange(8, device=x.device) % 3 == 0],
    "masked_select": lambda x: torch.masked_select(x, torch.arange(8) > 4),
    "nonzero": lambda x: x[torch.nonzero(torch.tensor([1, 0, 1])).squeeze(1)],
    "repeats": lambda x: x.repeat_interleave(torch.tensor([1, 2, 1]), 0),
    "arange of a tensor": lambda x: x * torch.arange(torch.tensor(8), device=x.device),
    "sums into zeros": lambda x: x.new_zeros(2, 8).index_add(0, ROWS, x),
    "all": lambda x: x * torch.ops.aten._is_all_true(torch.ones_like(x) > 0),
    "unpooling": lambda x: nn.functional.max_unpool1d(
        *nn.functional.max_pool1d(x[None], 2, return_indices=True), 2
    ),
    "norm pooling": lambda x: nn.functional.lp_pool1d(x[None], 2, 2),
    "transposed groups": lambda x: nn.functional.conv_transpose1d(
        x[None], torch.arange(18.0).reshape(3, 1, 6), stride=2, padding=1, groups=3
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_stays_known_while_jax_traces(name):
    x = jax.random.normal(jax.random.key(1), (3, 8))
    fn, params = from_torch(Call(KNOWN[name]).eval())
    expected = KNOWN[name](torch.tensor(np.asarray(x))).numpy()
    np.testing.assert_allclose(fn(params, x), expected, rtol=1e-5, atol=1e-5)
    found, back = jax.vjp(jax.jit(lambda x: fn(params, x)), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(back(found)[0]).all()


DEPENDING = [
    lambda x: x[x > 0].sum(),
    lambda x: x * x.sum().item(),
    lambda x: x if x.sum() > 0 else -x,
]


@pytest.mark.parametrize("function", DEPENDING, ids=["mask", "item", "if"])
def test_what_depends_on_numbers_is_named_with_its_line(function):
    fn, params = from_torch(Call(function).eval())
    fn(params, X)
    with pytest.raises(relprop.InputError, match=r"(?s)Call has shapes .*test_torch_state.py:\d+"):
        jax.jit(fn)(params, X)


def test_operators_without_a_lowering_are_named_with_their_line():
    fn, params = from_torch(Call(lambda x: torch.special.airy_ai(x)).eval())
    with pytest.raises(relprop.InputError, match=r"(?s)airy_ai.*test_torch_state.py:\d+"):
        fn(params, X)


@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 4))]
)
def test_compiled_modules_are_refused_at_once(compiled):
    module = nn.Sequential(compiled(nn.Linear(4, 3).eval()), nn.ReLU()).eval()
    with pytest.raises(relprop.InputError, match=r"compiled by torch.jit: '0'.*from_onnx"):
        from_torch(module)


@pytest.mark.parametrize("fresh", [nn.Identity, nn.GELU, nn.Sequential, lambda: nn.Linear(4, 4)])
def test_training_mode_is_no_matter_where_it_makes_no_difference(fresh):
    module = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)).eval()
    module[1] = fresh()
    fn, params = from_torch(module)
    assert fn(params, X).shape == (2, 4)


@pytest.mark.parametrize(
    "fresh", [nn.Dropout, lambda: nn.BatchNorm1d(4), nn.RReLU, lambda: nn.GRU(4, 4), Sizes]
)
def test_training_mode_is_refused_where_it_may(fresh):
    module = nn.Sequential(nn.Linear(4, 4)).eval()
    module.append(fresh())
    with pytest.raises(relprop.InputError, match="in training mode"):
        from_torch(module)


@functools.lru_cache(maxsize=4)
def places(count):
    """A table as DINOv3 keeps it: of the first call, for all of them."""
    return torch.arange(count, dtype=torch.float32) / count


def behind_a_wrapper(function):
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def wrapper(*args):
        return cached(*args)

    return wrapper


@behind_a_wrapper
def halves(count):
    return places(count) / 2


class Tables(nn.Module):
    """Reads what functions of its file have cached."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + places(x.shape[-1]) + halves(x.shape[-1])


def test_caches_of_functions_keep_nothing_that_was_traced():
    fn, params = from_torch(Tables().eval())
    plain = fn(params, X)
    for _ in range(2):
        np.testing.assert_allclose(jax.jit(lambda p, x: fn(p, x))(params, X), plain, rtol=1e-6)
    assert type(places(4)) is type(halves(4)) is torch.Tensor
