"""Relevance is conserved on networks that nobody chose, and rules are values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import relprop
from relprop import rules

# ----------------------------------------------------------------------------------- networks

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "none": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A random network: what hypothesis draws and prints."""

    seed: int
    convolutions: tuple[int, ...]  # channels of each
    pooling: str
    widths: tuple[int, ...]  # of the dense layers
    activation: str
    biases: bool
    residual: bool
    zeros: bool

    def arrays(self, dtype):
        """Input and parameters."""
        rng = np.random.default_rng(self.seed)
        x = rng.normal(size=(2, 5, 4, 2) if self.convolutions else (2, 3))
        if self.zeros:
            x *= rng.random(x.shape) < 0.5
        kernels, channels = [], 2
        for features in self.convolutions:
            kernels.append(rng.normal(size=(2, 3, channels, features)))
            channels = features
        size = 5 * 4 * channels if self.convolutions else 3
        if self.convolutions and self.pooling != "none":
            size = 2 * 2 * channels
        weights = []
        for width in (*self.widths, 2):
            weights.append(rng.normal(size=(size, width)))
            size = width
        biases = [rng.normal(size=w.shape[-1]) for w in kernels + weights]
        if self.zeros:
            biases = [b * (rng.random(b.shape) < 0.5) for b in biases]
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), (x, (kernels, weights, biases)))

    def __call__(self, x, parameters):
        kernels, weights, biases = parameters
        remaining = iter(biases)
        act = ACTIVATIONS[self.activation]

        def biased(z):
            b = next(remaining)
            return z + b.reshape((1,) * (z.ndim - 1) + b.shape) if self.biases else z

        for kernel in kernels:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = act(biased(x))
        if kernels:
            window = (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
            if self.pooling == "average":
                x = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, *window) / 4
            elif self.pooling == "maximum":
                x = lax.reduce_window(x, -np.inf, lax.max, *window)
            x = x.reshape(2, -1)
        for weight in weights[:-1]:
            h = act(biased(x @ weight))
            x = x + h if self.residual and x.shape == h.shape else h
        return jnp.sum(biased(x @ weights[-1])[:, 0])


networks = st.builds(
    Network,
    seed=st.integers(0, 2**16),
    convolutions=st.sampled_from([(), (), (), (3,), (2, 3)]),
    pooling=st.sampled_from(["average", "maximum", "none"]),
    widths=st.lists(st.integers(1, 4), max_size=2).map(tuple),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    biases=st.booleans(),
    residual=st.booleans(),
    zeros=st.booleans(),
)

epsilons = st.sampled_from([0.0, 1e-6, 0.1])
biases = st.sampled_from(["absorb", "ignore"])
gammas = st.sampled_from([0.0, 0.25, 10.0])
conserving = st.one_of(
    st.builds(rules.Zero, bias=biases),
    st.builds(rules.Epsilon, epsilon=epsilons, bias=biases),
    st.builds(rules.Gamma, gamma=gammas, epsilon=epsilons, bias=biases),
    st.builds(
        lambda alpha, **rest: rules.AlphaBeta(alpha, alpha - 1, **rest),
        alpha=st.sampled_from([1.0, 1.5, 2.0]), epsilon=epsilons, bias=biases,
    ),
    st.builds(rules.ZPlus, epsilon=epsilons, bias=biases),
    st.builds(rules.ZBox, low=st.just(-1.0), high=st.just(1.0), epsilon=epsilons),
    st.builds(rules.WSquare, epsilon=epsilons, bias=biases),
    st.builds(rules.Flat, epsilon=epsilons),
)  # fmt: skip


def _amounts(row):
    return [row.arrived, row.left, row.bias, row.epsilon, row.stopped]


# To check annotations of sequences, beartype draws entries at random.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=8)
@given(network=networks, rule=conserving)
def test_every_operation_accounts_for_all_that_arrives(dtype, network, rule):
    with jax.enable_x64(dtype == "float64"):
        x, parameters = network.arrays(dtype)
        book = relprop.ledger(network, rule)(x, parameters)
        score = float(jax.jit(network)(x, parameters))
    assert book.relevance.dtype == dtype
    assert book.fault is None
    # What is summed up and cancels: the relevance of the input entry by entry, that of the layers
    # in between at least as a whole. A thousand roundings of it are allowed.
    size = np.abs(book.relevance).sum() + sum(abs(a) for row in book for a in _amounts(row))
    allowed = 1e3 * np.finfo(dtype).eps * float(size)
    for row in book:
        assert abs(row.gap) <= allowed, book
    accounted = book.left + book.bias + book.epsilon + book.stopped
    assert abs(score - accounted) <= allowed, book
    assert abs(book.gap) <= allowed
    if not network.biases or getattr(rule, "bias", "") == "ignore":
        assert book.bias == 0


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.5), (1.0, 1.0)])
def test_what_a_rule_makes_or_loses_is_not_conserved(alpha, beta, x64):
    weight = jnp.array([[1.0, -2.0], [-0.5, 1.5]])
    with pytest.warns(relprop.ConservationWarning, match=f"alpha - beta is {alpha - beta}"):
        rule = rules.AlphaBeta(alpha, beta, epsilon=0.0)
    book = relprop.ledger(lambda x: jnp.sum((x @ weight) ** 2), rule)(jnp.array([[1.0, 3.0]]))
    (layer,) = (row for row in book if row.operation.structure == "dense")
    np.testing.assert_allclose(layer.not_conserved, (1 - alpha + beta) * layer.arrived)
    np.testing.assert_allclose(book.not_conserved, layer.not_conserved)
    assert book.not_conserved_by == {"dense": layer.not_conserved}
    assert abs(layer.gap) < 1e-12 and abs(book.gap) < 1e-12


# ---------------------------------------------------------------------------- rules as values

VALUES = {
    "Zero(bias='absorb')": rules.Zero(),
    "Zero(bias='ignore')": rules.Zero("ignore"),
    "Epsilon(epsilon=1e-06, bias='absorb')": rules.Epsilon(),
    "Epsilon(epsilon=0.1, bias='ignore')": rules.Epsilon(0.1, "ignore"),
    "Norm(epsilon=1e-06, bias='absorb')": rules.Norm(),
    "Gamma(gamma=0.25, epsilon=1e-06, bias='absorb')": rules.Gamma(),
    "Gamma(gamma=1.0, epsilon=1e-06, bias='absorb')": rules.Gamma(1.0),
    "AlphaBeta(alpha=2.0, beta=1.0, epsilon=1e-09, bias='absorb')": rules.AlphaBeta(),
    "AlphaBeta(alpha=1.0, beta=0.0, epsilon=1e-09, bias='absorb')": rules.AlphaBeta(1.0, 0.0),
    "ZPlus(epsilon=1e-06, bias='absorb')": rules.ZPlus(),
    "ZPlus(epsilon=0.5, bias='ignore')": rules.ZPlus(0.5, "ignore"),
    "ZBox(low=0.0, high=1.0, epsilon=1e-06)": rules.ZBox(),
    "ZBox(low=(-1.0, -2.0), high=(1.0, 2.0), epsilon=1e-06)": rules.ZBox((-1.0, -2.0), (1.0, 2.0)),
    "WSquare(epsilon=1e-06, bias='absorb')": rules.WSquare(),
    "Flat(epsilon=1e-06)": rules.Flat(),
    "Pass()": rules.Pass(),
    "Route()": rules.Route(),
    "Uniform()": rules.Uniform(),
    "SignalTakesAll()": rules.SignalTakesAll(),
    "Stop()": rules.Stop(),
    "Constant()": rules.Constant(),
    "Gradient()": rules.Gradient(),
    "Stabilizer(epsilon=1e-06, clip=False, norm_scale=False, axes=None)": rules.Stabilizer(),
    "Epsilon(epsilon=Stabilizer(epsilon=0.1, clip=True, norm_scale=False, axes=None), "
    "bias='absorb')": rules.Epsilon(rules.Stabilizer(0.1, clip=True)),
}


@pytest.mark.parametrize("text", VALUES)
def test_rules_print_as_they_are_written(text):
    rule = VALUES[text]
    assert repr(rule) == text
    again = eval(text, vars(rules))
    assert again == rule and hash(again) == hash(rule)


def test_rules_are_different_values():
    # Also where one kind is computed as another: norm as epsilon, z-plus as alpha-beta.
    assert len(set(VALUES.values())) == len(VALUES)
    assert rules.Norm() != rules.Epsilon()
    assert rules.ZPlus(0.5) != rules.AlphaBeta(1.0, 0.0, 0.5)


@pytest.mark.parametrize("rule", VALUES.values(), ids=repr)
def test_rules_cannot_be_changed(rule):
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.epsilon = 1.0


@pytest.mark.parametrize(
    "kind",
    [rules.Zero, rules.Epsilon, rules.Norm, rules.Gamma, rules.AlphaBeta, rules.ZPlus,
     rules.WSquare],
)  # fmt: skip
def test_bias_is_absorbed_or_ignored(kind):
    with pytest.raises(ValueError, match="bias must be 'absorb' or 'ignore', got 'keep'"):
        kind(bias="keep")


def test_rules_by_name():
    assert rules.by_name("gamma") == rules.Gamma()
    assert rules.by_name("Z-Box") == rules.ZBox()
    assert rules.by_name("epsilon", epsilon=0.3) == rules.Epsilon(0.3)
    named = relprop.presets.by_name("epsilon", epsilon=0.3)
    assert named.entries == relprop.presets.uniform(rules.Epsilon(0.3)).entries
    with pytest.raises(relprop.UnknownNameError, match="epsilon"):
        rules.by_name("epsilom")
