"""Functions of one number: what matters is the function, not its formula."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm

from ..grammar import D, after, before, each, normal, piece
from ..wrappers import bodies

BODIES = ("jit", "checkpoint", "custom_jvp", "custom_vjp", "cond", "vmap", "map_over_batch")


def _between_layers(w, b, v, spellings):
    """Each of them between two layers, and the reference in every body."""
    reference = next(iter(spellings.values()))
    spellings = spellings | each(lambda wrap: wrap(reference), bodies("all", *BODIES))
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


_LAYERS = {"w": normal(D, D), "b": normal(D), "v": normal(D, D)}


@piece(**_LAYERS)
def gelu_by_tanh(w, b, v):
    c = np.sqrt(2 / np.pi)
    return _between_layers(w, b, v, {
        "jax.nn.gelu": jax.nn.gelu,
        "by hand": lambda z: 0.5 * z * (1 + jnp.tanh(c * (z + 0.044715 * z**3))),
        "z*z*z": lambda z: 0.5 * z * (1 + jnp.tanh(c * (z + 0.044715 * z * z * z))),
        "power(z, 3.)": lambda z: 0.5 * z * (1 + jnp.tanh(c * (z + 0.044715 * jnp.power(z, 3.0)))),
        "Horner": lambda z: 0.5 * z * (1 + jnp.tanh(c * z * (1 + 0.044715 * z * z))),
        "sigmoid": lambda z: z * jax.nn.sigmoid(2 * c * (z + 0.044715 * z**3)),
        "cdf*z": lambda z: (0.5 * (1 + jnp.tanh(c * (z + 0.044715 * z**3)))) * z,
        "z/2 + z/2*tanh": lambda z: 0.5 * z + 0.5 * z * jnp.tanh(c * (z + 0.044715 * z**3)),
    })  # fmt: skip


@piece(**_LAYERS)
def gelu_by_erf(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "erf": lambda z: 0.5 * z * (1 + lax.erf(z / np.sqrt(2))),
        "z*(erf + 1)/2": lambda z: z * (lax.erf(z / np.sqrt(2)) + 1) / 2,
        "erfc": lambda z: 0.5 * z * lax.erfc(-z / np.sqrt(2)),
        "z*cdf": lambda z: z * norm.cdf(z),
        "z - z*sf": lambda z: z - z * 0.5 * lax.erfc(z / np.sqrt(2)),
    })  # fmt: skip


@piece(**_LAYERS)
def silu(w, b, v):
    sigmoid = jax.nn.sigmoid
    return _between_layers(w, b, v, {
        "jax.nn.silu": jax.nn.silu,
        "z*sigmoid": lambda z: z * sigmoid(z),
        "sigmoid*z": lambda z: sigmoid(z) * z,
        "z/(1 + exp(-z))": lambda z: z / (1 + jnp.exp(-z)),
        "z*(1/(1 + exp(-z)))": lambda z: z * (1 / (1 + jnp.exp(-z))),
        "z*reciprocal": lambda z: z * jnp.reciprocal(1 + jnp.exp(-z)),
        "z*(1 + tanh(z/2))/2": lambda z: z * 0.5 * (1 + jnp.tanh(z / 2)),
        "z*(.5 + .5*tanh(z/2))": lambda z: z * (0.5 + 0.5 * jnp.tanh(0.5 * z)),
        "z*exp/(1 + exp)": lambda z: z * jnp.exp(z) / (1 + jnp.exp(z)),
        "z*exp(-softplus(-z))": lambda z: z * jnp.exp(-jax.nn.softplus(-z)),
        "stable where": lambda z: (
            lambda e: z * jnp.where(z >= 0, 1 / (1 + e), e / (1 + e))
        )(jnp.exp(-jnp.abs(z))),
        "vmap of numbers": jax.vmap(jax.vmap(lambda t: t * sigmoid(t))),
        "flat": lambda z: (lambda y: (y * sigmoid(y)).reshape(z.shape))(z.reshape(-1)),
        "one side flat": lambda z: z * sigmoid(z.reshape(-1)).reshape(z.shape),
        "one side transposed": lambda z: z * sigmoid(z.T).T,
        "one side copied": lambda z: jnp.copy(z) * sigmoid(z),
        "one side barred": lambda z: z * sigmoid(lax.optimization_barrier(z)),
        "halves": lambda z: jnp.concatenate([jax.nn.silu(z[:, :3]), jax.nn.silu(z[:, 3:])], 1),
        "jit(sigmoid)": lambda z: z * jax.jit(sigmoid)(z),
        "checkpoint(sigmoid)": lambda z: z * jax.checkpoint(sigmoid)(z),
        "gradient of softplus": lambda z: z * jax.vmap(jax.vmap(jax.grad(jax.nn.softplus)))(z),
    })  # fmt: skip


@piece(**_LAYERS)
def softplus(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.softplus": jax.nn.softplus,
        "log1p(exp)": lambda z: jnp.log1p(jnp.exp(z)),
        "log(1 + exp)": lambda z: jnp.log(1 + jnp.exp(z)),
        "max + log1p": lambda z: jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))),
        "-log_sigmoid(-z)": lambda z: -jax.nn.log_sigmoid(-z),
        "-log(sigmoid(-z))": lambda z: -jnp.log(jax.nn.sigmoid(-z)),
        "logaddexp": lambda z: jnp.logaddexp(z, 0.0),
    })  # fmt: skip


@piece(**_LAYERS)
def mish(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.mish": jax.nn.mish,
        "z*tanh(softplus)": lambda z: z * jnp.tanh(jax.nn.softplus(z)),
        "log1p": lambda z: z * jnp.tanh(jnp.log1p(jnp.exp(z))),
        "logaddexp": lambda z: z * jnp.tanh(jnp.logaddexp(z, 0.0)),
        "algebraic": lambda z: (lambda q: z * (q * q + 2 * q) / (q * q + 2 * q + 2))(jnp.exp(z)),
    })  # fmt: skip


@piece(**_LAYERS)
def hard_swish(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.hard_swish": jax.nn.hard_swish,
        "z*relu6(z + 3)/6": lambda z: z * jax.nn.relu6(z + 3) / 6,
        "z*clip": lambda z: z * jnp.clip(z / 6 + 0.5, 0, 1),
        "z*min(max)": lambda z: z * (jnp.minimum(jnp.maximum(z + 3, 0), 6) / 6),
        "z*hard_sigmoid": lambda z: jax.nn.hard_sigmoid(z) * z,
    })  # fmt: skip


@piece(**_LAYERS)
def relu(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.relu": jax.nn.relu,
        "maximum(z, 0)": lambda z: jnp.maximum(z, 0),
        "maximum(0., z)": lambda z: jnp.maximum(0.0, z),
        "maximum(z, zeros)": lambda z: jnp.maximum(z, jnp.zeros_like(z)),
        "where(z > 0)": lambda z: jnp.where(z > 0, z, 0.0),
        "where(z < 0)": lambda z: jnp.where(z < 0, 0.0, z),
        "select": lambda z: lax.select(z > 0, z, jnp.zeros_like(z)),
        "z*(z > 0)": lambda z: z * (z > 0),
        "(z > 0)*z": lambda z: (z > 0).astype(z.dtype) * z,
        "(z + |z|)/2": lambda z: (z + jnp.abs(z)) / 2,
        "clip": lambda z: jnp.clip(z, 0),
        "-min(-z, 0)": lambda z: -jnp.minimum(-z, 0),
        "z - min(z, 0)": lambda z: z - jnp.minimum(z, 0),
        "stacked maximum": lambda z: jnp.stack([z, jnp.zeros_like(z)]).max(0),
        "z*heaviside": lambda z: z * jnp.heaviside(z, 0.0),
        "leaky_relu(., 0)": lambda z: jax.nn.leaky_relu(z, 0.0),
        "relu(relu)": lambda z: jax.nn.relu(jax.nn.relu(z)),
        "z*(1 + sign)/2": lambda z: 0.5 * z * (1 + jnp.sign(z)),
        "z*stopped step": lambda z: z * lax.stop_gradient((z > 0) * 1.0),
        "cond per number": jax.vmap(
            jax.vmap(lambda t: lax.cond(t > 0, lambda t: t, lambda t: 0.0 * t, t))
        ),
    })  # fmt: skip


@piece(**_LAYERS)
def leaky_relu(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.1),
        "where": lambda z: jnp.where(z > 0, z, 0.1 * z),
        "maximum": lambda z: jnp.maximum(z, 0.1 * z),
        "z*where": lambda z: z * jnp.where(z > 0, 1.0, 0.1),
        "relu(z) - .1 relu(-z)": lambda z: jax.nn.relu(z) - 0.1 * jax.nn.relu(-z),
        "max + .1 min": lambda z: jnp.maximum(z, 0) + 0.1 * jnp.minimum(z, 0),
        ".55 z + .45 |z|": lambda z: 0.55 * z + 0.45 * jnp.abs(z),
    })  # fmt: skip


@piece(**_LAYERS)
def elu(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.elu": jax.nn.elu,
        "where(z > 0, z, exp - 1)": lambda z: jnp.where(z > 0, z, jnp.exp(jnp.minimum(z, 0)) - 1),
        "expm1": lambda z: jnp.where(z > 0, z, jnp.expm1(z)),
        "relu - relu(1 - exp)": lambda z: jax.nn.relu(z) - jax.nn.relu(1 - jnp.exp(z)),
    })  # fmt: skip


@piece(**_LAYERS)
def tanh(w, b, v):
    return _between_layers(w, b, v, {
        "jnp.tanh": jnp.tanh,
        "2*sigmoid(2z) - 1": lambda z: 2 * jax.nn.sigmoid(2 * z) - 1,
        "exponentials": lambda z: (
            (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z))
        ),
        "expm1": lambda z: jnp.expm1(2 * z) / (jnp.expm1(2 * z) + 2),
        "sinh/cosh": lambda z: jnp.sinh(z) / jnp.cosh(z),
    })  # fmt: skip


@piece(**_LAYERS)
def sigmoid(w, b, v):
    return _between_layers(w, b, v, {
        "jax.nn.sigmoid": jax.nn.sigmoid,
        "1/(1 + exp(-z))": lambda z: 1 / (1 + jnp.exp(-z)),
        "exp/(1 + exp)": lambda z: jnp.exp(z) / (1 + jnp.exp(z)),
        "(1 + tanh(z/2))/2": lambda z: 0.5 * (1 + jnp.tanh(z / 2)),
        "exp(-softplus(-z))": lambda z: jnp.exp(-jax.nn.softplus(-z)),
        "exp(log_sigmoid)": lambda z: jnp.exp(jax.nn.log_sigmoid(z)),
        "1 - sigmoid(-z)": lambda z: 1 - jax.nn.sigmoid(-z),
        "reciprocal": lambda z: jnp.reciprocal(1 + jnp.exp(-z)),
    })  # fmt: skip


@piece(**_LAYERS)
def squared_relu(w, b, v):
    return _between_layers(w, b, v, {
        "square(relu)": lambda z: jnp.square(jax.nn.relu(z)),
        "relu**2": lambda z: jax.nn.relu(z) ** 2,
        "relu*relu": lambda z: jax.nn.relu(z) * jax.nn.relu(z),
        "z*relu": lambda z: z * jax.nn.relu(z),
        "where": lambda z: jnp.where(z > 0, z * z, 0.0),
        "power": lambda z: jnp.power(jax.nn.relu(z), 2.0),
    })  # fmt: skip
