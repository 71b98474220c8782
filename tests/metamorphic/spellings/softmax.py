"""Softmax, log-softmax, and everything that is one of them by another way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..grammar import D, T, after, before, each, normal, piece
from ..wrappers import bodies

BODIES = ("jit", "checkpoint", "custom_jvp", "custom_vjp", "cond", "map_over_batch")


def _sum(e):
    return e.sum(-1, keepdims=True)


def _shifted(z):
    return z - z.max(-1, keepdims=True)


def _over_sum(e):
    return e / _sum(e)


def spellings_of_softmax(size):
    """Softmax over the last axis, which has the given size."""
    log2 = float(np.log2(np.e))
    ones = jnp.ones((size, 1))

    def of_exp(finish):
        return lambda z: finish(jnp.exp(_shifted(z)))

    def twice(z):
        return jnp.exp(_shifted(z)) / _sum(jnp.exp(_shifted(z)))

    return {
        "jax.nn.softmax": jax.nn.softmax,
        "e/sum": of_exp(_over_sum),
        "e/sum, no maximum": lambda z: _over_sum(jnp.exp(z)),
        "exp(z)/exp(z).sum()": lambda z: jnp.exp(z) / _sum(jnp.exp(z)),
        "exp(z - m)/exp(z - m).sum()": twice,
        "stopped maximum": lambda z: _over_sum(
            jnp.exp(z - lax.stop_gradient(z.max(-1, keepdims=True)))
        ),
        "maximum of all": lambda z: _over_sum(jnp.exp(z - z.max())),
        "maximum by sort": lambda z: _over_sum(jnp.exp(z - jnp.sort(z, -1)[..., -1:])),
        "constant shift": lambda z: _over_sum(jnp.exp(z - 3.0)),
        "e*(1/sum)": of_exp(lambda e: e * (1 / _sum(e))),
        "(1/sum)*e": of_exp(lambda e: (1 / _sum(e)) * e),
        "e*reciprocal(sum)": of_exp(lambda e: e * jnp.reciprocal(_sum(e))),
        "e*sum**-1": of_exp(lambda e: e * _sum(e) ** -1),
        "e*exp(-log sum)": of_exp(lambda e: e * jnp.exp(-jnp.log(_sum(e)))),
        "e/(sum + 1e-9)": of_exp(lambda e: e / (_sum(e) + 1e-9)),
        "e/maximum(sum, 1e-9)": of_exp(lambda e: e / jnp.maximum(_sum(e), 1e-9)),
        "e/sum[:, None]": of_exp(lambda e: e / e.sum(-1)[..., None]),
        "e/(e @ ones)": of_exp(lambda e: e / (e @ ones)),
        "e/einsum": of_exp(lambda e: e / jnp.einsum("...j->...", e)[..., None]),
        "e/einsum with ones": of_exp(
            lambda e: e / jnp.einsum("...j,j->...", e, jnp.ones(size))[..., None]
        ),
        "e/(mean*n)": of_exp(lambda e: e / (e.mean(-1, keepdims=True) * size)),
        "e/mean/n": of_exp(lambda e: e / e.mean(-1, keepdims=True) / size),
        "e/cumsum[-1]": of_exp(lambda e: e / jnp.cumsum(e, -1)[..., -1:]),
        "e/sum by hand": of_exp(lambda e: e / sum(e[..., i : i + 1] for i in range(size))),
        "e/norm1": of_exp(lambda e: e / jnp.linalg.norm(e, 1, axis=-1, keepdims=True)),
        "stacked columns": of_exp(
            lambda e: jnp.stack([e[..., i] / e.sum(-1) for i in range(size)], -1)
        ),
        "exp2": lambda z: _over_sum(jnp.exp2(_shifted(z) * log2)),
        "exp2 of scaled": lambda z: _over_sum(jnp.exp2(_shifted(z * log2))),
        "exp(log_softmax)": lambda z: jnp.exp(jax.nn.log_softmax(z)),
        "exp(z - logsumexp)": lambda z: jnp.exp(z - jax.nn.logsumexp(z, -1, keepdims=True)),
        "exp(z - m - log sum)": lambda z: jnp.exp(
            _shifted(z) - jnp.log(_sum(jnp.exp(_shifted(z))))
        ),
        "1/sum exp(zj - zi)": lambda z: 1 / jnp.exp(z[..., None, :] - z[..., :, None]).sum(-1),
        "softmax, renormalised": lambda z: _over_sum(jax.nn.softmax(z)),
        "tempered": lambda z: jax.nn.softmax(z * 2 * 0.5),
        "vmap": jax.vmap(jax.nn.softmax),
        "vmap by hand": jax.vmap(lambda z: (lambda e: e / e.sum())(jnp.exp(z - z.max()))),
        "axis 0": lambda z: jax.nn.softmax(z.T, axis=0).T,
        "nested jits": lambda z: jax.jit(_over_sum)(jax.jit(jnp.exp)(jax.jit(_shifted)(z))),
        "where=": lambda z: jax.nn.softmax(z, where=jnp.ones(z.shape, bool)),
        "halves side by side": of_exp(_halves_over_sum),
        "halves of exp(z - logsumexp)": lambda z: _in_halves(
            lambda part: jnp.exp(part - jax.nn.logsumexp(z, -1, keepdims=True)), z
        ),
        "diag(1/sum) @ e": of_exp(lambda e: jnp.diag(1 / e.sum(-1)) @ e),
        "gradient of logsumexp": jax.grad(lambda z: jax.nn.logsumexp(z, -1).sum()),
        "exp(z - tree of logaddexp)": lambda z: jnp.exp(z - _tree(_columns(z))),
        "exp(z - chain of logaddexp)": lambda z: jnp.exp(
            z - functools.reduce(jnp.logaddexp, _columns(z))
        ),
        "sigmoid(z - logsumexp of the others)": lambda z: jnp.stack(
            [jax.nn.sigmoid(z[..., i] - _lse_without(z, i)) for i in range(size)], -1
        ),
        "entries over the sum of entries": of_exp(_entries_over_sum),
        **each(lambda wrap: lambda z: _over_sum(wrap(jnp.exp)(_shifted(z))), bodies("e", *BODIES)),
        **each(_sum_in, bodies("sum", *BODIES)),
    }


def _in_halves(f, z):
    half = z.shape[-1] // 2
    return jnp.concatenate([f(z[..., :half]), f(z[..., half:])], -1)


def _halves_over_sum(e):
    return _in_halves(lambda part: part / _sum(e), e)


def _lse_without(z, i):
    return jax.nn.logsumexp(jnp.concatenate([z[..., :i], z[..., i + 1 :]], -1), -1)


def _entries_over_sum(e):
    entries = [e[..., i] for i in range(e.shape[-1])]
    return jnp.stack([entry / functools.reduce(jnp.add, entries) for entry in entries], -1)


def _columns(z):
    return [z[..., i : i + 1] for i in range(z.shape[-1])]


def _tree(parts):
    half = len(parts) // 2
    return jnp.logaddexp(_tree(parts[:half]), _tree(parts[half:])) if half else parts[0]


def _sum_in(wrap):
    def softmax(z):
        e = jnp.exp(_shifted(z))
        return e / wrap(_sum)(e)

    return softmax


@piece(w=normal(D, D), v=normal(D, D))
def softmax(w, v):
    """Beside its input, so that something is left where attention maps are constants."""
    return each(lambda f: lambda x: x + f(x @ w) @ v, spellings_of_softmax(D))


@piece(w=normal(D, 2), v=normal(2, D))
def softmax_of_two(w, v):
    def of_entries(share):
        return lambda z: jnp.stack([share(z[:, 0], z[:, 1]), share(z[:, 1], z[:, 0])], -1)

    def shifted(a, b):
        m = jnp.maximum(a, b)
        return jnp.exp(a - m) / (jnp.exp(a - m) + jnp.exp(b - m))

    spellings = {
        "jax.nn.softmax": jax.nn.softmax,
        "e0/(e0 + e1)": of_entries(lambda a, b: jnp.exp(a) / (jnp.exp(a) + jnp.exp(b))),
        "shifted by the larger": of_entries(shifted),
        "exp(z0 - logaddexp)": of_entries(lambda a, b: jnp.exp(a - jnp.logaddexp(a, b))),
        "e[0]/(e[0] + e[1])": lambda z: _entries_over_sum(jnp.exp(z)),
        "exp(z - logaddexp)": lambda z: jnp.exp(z - jnp.logaddexp(z[:, :1], z[:, 1:])),
        "sigmoid": of_entries(lambda a, b: jax.nn.sigmoid(a - b)),
    }
    return each(lambda f: lambda x: x + f(x @ w) @ v, spellings)


@piece(w=normal(D, D), u=normal(D, D), v=normal(D, D))
def softmax_of_two_values(w, u, v):
    """Of each entry of two values, as of two things that are mixed."""

    def shifted(a, b):
        m = jnp.maximum(a, b)
        return jnp.exp(a - m) / (jnp.exp(a - m) + jnp.exp(b - m))

    spellings = {
        "stacked": lambda a, b: jax.nn.softmax(jnp.stack([a, b]), axis=0)[0],
        "ea/(ea + eb)": lambda a, b: jnp.exp(a) / (jnp.exp(a) + jnp.exp(b)),
        "exp(a - logaddexp)": lambda a, b: jnp.exp(a - jnp.logaddexp(a, b)),
        "shifted by the larger": shifted,
    }
    return each(lambda f: lambda x: x + f(x @ w, x @ u) @ v, spellings)


@piece(w=normal(D, 2), v=normal(D, D), u=normal(D, D))
def mixture_of_two(w, v, u):
    def of_shares(shares):
        def f(x):
            p = shares(x @ w)
            return p[:, :1] * (x @ v) + p[:, 1:] * (x @ u)

        return f

    def late(total, columns):
        def f(x):
            e = jnp.exp(x @ w)
            a, b = columns(e)
            return (a * (x @ v) + b * (x @ u)) / total(e)

        return f

    return {
        "softmax": of_shares(jax.nn.softmax),
        "entries over the sum of entries": of_shares(lambda z: _entries_over_sum(jnp.exp(z))),
        "divided last": late(_sum, _columns),
        "by the sum of entries": late(lambda e: (e[:, 0] + e[:, 1])[:, None], _columns),
        "entries first": late(
            lambda e: (e[:, 0] + e[:, 1])[:, None], lambda e: (e[:, 0, None], e[:, 1, None])
        ),
    }


@piece(w=normal(D, D), v=normal(D, D))
def capped_softmax(w, v):
    """Scores between -5 and 5."""

    def sigmoid(z):
        return 1 / (1 + jnp.exp(-z))

    def ratio(p, q):
        return 5 * (p - q) / (p + q)

    caps = {
        "5 tanh(z/5)": lambda z: 5 * jnp.tanh(z / 5),
        "10 sigmoid(2z/5) - 5": lambda z: 10 * jax.nn.sigmoid(2 * z / 5) - 5,
        "5(2 sigmoid - 1)": lambda z: 5 * (2 * jax.nn.sigmoid(z * 0.4) - 1),
        "5 - 10 sigmoid(-2z/5)": lambda z: 5 - 10 * jax.nn.sigmoid(-2 * z / 5),
        "by exponentials": lambda z: 10 * sigmoid(2 * z / 5) - 5,
        "less its limit": lambda z: 5 * jnp.tanh(z / 5) - 5.0,
        "5 sinh/cosh": lambda z: 5 * jnp.sinh(z / 5) / jnp.cosh(z / 5),
        "difference over sum": lambda z: ratio(jnp.exp(z / 5), jnp.exp(-z / 5)),
        "and its inverse": lambda z: ratio(jnp.exp(z / 5), 1 / jnp.exp(z / 5)),
        "halves of both": lambda z: ratio(jnp.exp(z / 5) / 2, jnp.exp(-0.2 * z) / 2),
        "the other way round": lambda z: -ratio(jnp.exp(-z / 5), jnp.exp(z / 5)),
    }
    return each(lambda cap: lambda x: x + jax.nn.softmax(cap(x @ w)) @ v, caps)


def _mask():
    return jnp.tril(jnp.ones((T, T), bool))


def spellings_of_masked_softmax(mask):
    """Softmax over the last axis where the mask is set, 0 elsewhere."""

    def gated(e):
        return e * mask

    return {
        "where(mask, z, -inf)": lambda z: jax.nn.softmax(jnp.where(mask, z, -jnp.inf)),
        "where(mask, z, -1e9)": lambda z: jax.nn.softmax(jnp.where(mask, z, -1e9)),
        "where(mask, z, finfo.min)": lambda z: jax.nn.softmax(
            jnp.where(mask, z, jnp.finfo(z.dtype).min)
        ),
        "z + where(mask, 0, -1e9)": lambda z: jax.nn.softmax(z + jnp.where(mask, 0.0, -1e9)),
        "z + where(mask, 0, -inf)": lambda z: jax.nn.softmax(z + jnp.where(mask, 0.0, -jnp.inf)),
        "z*mask - 1e9*(1 - mask)": lambda z: jax.nn.softmax(z * mask - 1e9 * (1.0 - mask)),
        "where=mask": lambda z: jax.nn.softmax(z, where=mask),
        "e*mask/(e*mask).sum()": lambda z: _over_sum(gated(jnp.exp(_shifted(z)))),
        "e*mask/(e*mask).sum(), no maximum": lambda z: gated(jnp.exp(z)) / _sum(gated(jnp.exp(z))),
        "e*mask*(1/sum)": lambda z: (lambda e: e * (1 / _sum(e)))(gated(jnp.exp(_shifted(z)))),
        "e*mask/(sum + 1e-9)": lambda z: (lambda e: e / (_sum(e) + 1e-12))(gated(jnp.exp(z))),
        "where(mask, e, 0)/sum": lambda z: _over_sum(jnp.where(mask, jnp.exp(_shifted(z)), 0)),
        "softmax, mask, renormalised": lambda z: _over_sum(jax.nn.softmax(z) * mask),
        "softmax, where, renormalised": lambda z: _over_sum(jnp.where(mask, jax.nn.softmax(z), 0)),
        "softmax, mask, + 1e-12": lambda z: (lambda p: p / (_sum(p) + 1e-12))(
            jax.nn.softmax(z) * mask
        ),
        "masked, then zeroed": lambda z: jnp.where(
            mask, jax.nn.softmax(jnp.where(mask, z, -1e9)), 0
        ),
        "minimum": lambda z: jax.nn.softmax(jnp.minimum(z, jnp.where(mask, 1e9, -1e9))),
        "select": lambda z: jax.nn.softmax(lax.select(mask, z, jnp.full_like(z, -1e9))),
        "exp(where - logsumexp)": lambda z: (
            lambda y: jnp.exp(y - jax.nn.logsumexp(y, -1, keepdims=True))
        )(jnp.where(mask, z, -1e9)),
        "exp(z - logsumexp(b=mask))*mask": lambda z: (
            jnp.exp(z - jax.scipy.special.logsumexp(z, -1, b=mask, keepdims=True)) * mask
        ),
    }


@piece(w=normal(D, T), v=normal(T, D))
def masked_softmax(w, v):
    spellings = spellings_of_masked_softmax(_mask())
    return each(lambda f: lambda x: x + f(x @ w) @ v, spellings)


@piece(w=normal(D, D), v=normal(D, D))
def softmax_of_the_largest(w, v):
    """The weights of chosen experts: of a softmax the three largest entries, renormalised."""

    def placed(weights, places):
        return (weights[..., None] * jax.nn.one_hot(places, D)).sum(-2)

    def chosen(z):
        p, places = lax.top_k(jax.nn.softmax(z), 3)
        return placed(_over_sum(p), places)

    def turned(z):
        p, places = lax.top_k(jax.nn.softmax(z), 3)
        return placed(_over_sum(jnp.sort(p, -1, descending=True)), places)

    def looked_up(z):
        places = lax.top_k(z, 3)[1]
        p = jnp.take_along_axis(jax.nn.softmax(z), places, -1)
        return placed(p / (_sum(p) + 1e-20), places)

    def scores(z):
        largest, places = lax.top_k(z, 3)
        return placed(jax.nn.softmax(largest), places)

    def hidden(z):
        return jax.nn.softmax(jnp.where(z >= lax.top_k(z, 3)[0][:, 2:], z, -jnp.inf))

    def zeroed(z):
        p = jax.nn.softmax(z)
        return _over_sum(jnp.where(p >= lax.top_k(p, 3)[0][:, 2:], p, 0))

    spellings = {
        "softmax of the largest": scores,
        "the others at -inf": hidden,
        "largest of a softmax": chosen,
        "the same, sorted": turned,
        "looked up": looked_up,
        "the others zeroed": zeroed,
    }
    return each(lambda f: lambda x: x + f(x @ w) @ v, spellings)


@piece(w=normal(D, D))
def log_softmax(w):
    def by_hand(z):
        y = z - z.max(-1, keepdims=True)
        return y - jnp.log(_sum(jnp.exp(y)))

    spellings = {
        "jax.nn.log_softmax": jax.nn.log_softmax,
        "z - logsumexp": lambda z: z - jax.nn.logsumexp(z, -1, keepdims=True),
        "-logsumexp + z": lambda z: -jax.nn.logsumexp(z, -1, keepdims=True) + z,
        "z - log(sum exp)": lambda z: z - jnp.log(_sum(jnp.exp(z))),
        "shifted by hand": by_hand,
        "stopped maximum": lambda z: (lambda y: y - jnp.log(_sum(jnp.exp(y))))(
            z - lax.stop_gradient(z.max(-1, keepdims=True))
        ),
        "constant shift": lambda z: (lambda y: y - jnp.log(_sum(jnp.exp(y))))(z - 1.5),
        "z - m - (log sum)": lambda z: (
            z - (z.max(-1, keepdims=True) + jnp.log(_sum(jnp.exp(_shifted(z)))))
        ),
        "vmap": jax.vmap(jax.nn.log_softmax),
        "checkpoint": jax.checkpoint(jax.nn.log_softmax),
        "scipy": lambda z: z - jax.scipy.special.logsumexp(z, -1, keepdims=True),
        "log(ones) by matmul": lambda z: z - jnp.log(jnp.exp(z) @ jnp.ones((D, 1))),
    }
    return before(lambda x: x @ w, spellings)


@piece(chains=False, w=normal(D), v=normal(D, D))
def segment_softmax(w, v):
    """Softmax over the neighbours of each node of a graph."""
    node = jnp.array([0, 0, 1, 1])

    def gathered(divide):
        def f(x):
            z = x @ w
            e = jnp.exp(z - jax.ops.segment_max(z, node, 2)[node])
            p = divide(e, jax.ops.segment_sum(e, node, 2)[node])
            return jax.ops.segment_sum(p[:, None] * (x @ v), node, 2)

        return f

    def by_entry(x):
        """As PyTorch Geometric does it, with two heads of the same weights."""
        z = x @ jnp.stack([w, w], 1)
        at = (jnp.repeat(node[:, None], 2, 1), lax.broadcasted_iota(jnp.int32, z.shape, 1))
        e = jnp.exp(z - jnp.full((2, 2), -jnp.inf).at[at].max(z)[node])
        p = e / (jnp.zeros((2, 2)).at[at].add(e)[node] + 1e-16)
        places = (jnp.repeat(node[:, None], D, 1), lax.broadcasted_iota(jnp.int32, (T, D), 1))
        return jnp.zeros((2, D)).at[places].add(p[:, :1] * (x @ v))

    def two(x):
        z, y = x @ w, x @ v
        return jnp.stack([jax.nn.softmax(z[:2]) @ y[:2], jax.nn.softmax(z[2:]) @ y[2:]])

    def one_hot(x):
        z, y = x @ w, x @ v
        member = node[None] == jnp.arange(2)[:, None]
        return jax.nn.softmax(jnp.where(member, z[None], -jnp.inf), -1) @ y

    return {
        "two softmaxes": two,
        "masked softmax": one_hot,
        "segment_sum": gathered(lambda e, s: e / s),
        "segment_sum + 1e-16": gathered(lambda e, s: e / (s + 1e-16)),
        "reciprocal": gathered(lambda e, s: e * (1 / s)),
        "entry by entry": by_entry,
    }


@piece(w=normal(D, D), v=normal(D, D))
def softmax_by_other_sums(w, v):
    """The sum of exponentials by a window, a tile, parts; powers; guards."""

    def of_exp(divide):
        return lambda z: divide(jnp.exp(z))

    def guarded(e):
        total = _sum(e)
        return jnp.where(total > 0, e / jnp.where(total > 0, total, 1.0), 0.0)

    spellings = {
        "e/sum": of_exp(_over_sum),
        "a window": of_exp(
            lambda e: e / lax.reduce_window(e, 0.0, lax.add, (1, D), (1, 1), "VALID")
        ),
        "a convolution": of_exp(
            lambda e: (
                e / lax.conv_general_dilated(e[:, None], jnp.ones((1, 1, D)), (1,), "VALID")[:, 0]
            )
        ),
        "a scan of exponentials": lambda z: (
            jnp.exp(z)
            / lax.scan(lambda s, c: (s + jnp.exp(c), None), jnp.zeros(T), z.T)[0][:, None]
        ),
        "tile": of_exp(lambda e: e / jnp.tile(_sum(e), (1, D))),
        "sum of parts": of_exp(lambda e: e / sum(jnp.split(e, D, -1))),
        "where(sum > 0)": of_exp(guarded),
        "einsum": of_exp(lambda e: jnp.einsum("tk,t->tk", e, 1 / e.sum(-1))),
        "2**(z/log 2)": lambda z: _over_sum(jnp.power(2.0, z / np.log(2.0))),
        "sqrt(exp(2z))": lambda z: _over_sum(jnp.sqrt(jnp.exp(2 * z))),
    }
    return before(lambda x: x @ w, after(lambda p: p @ v, spellings))


@piece(chains=False, w=normal(D, D))
def log_likelihood(w):
    """The logarithm of the probability of one class for each token."""
    classes = jnp.array([1, 0, 5, 2])
    hot = jax.nn.one_hot(classes, D)
    spellings = {
        "(log_softmax * hot).sum": lambda z: (jax.nn.log_softmax(z) * hot).sum(-1),
        "einsum": lambda z: jnp.einsum("tk,tk->t", jax.nn.log_softmax(z), hot),
        "log(softmax)": lambda z: (jnp.log(jax.nn.softmax(z)) * hot).sum(-1),
        "indexed": lambda z: jax.nn.log_softmax(z)[jnp.arange(T), classes],
        "log(softmax), indexed": lambda z: jnp.log(jax.nn.softmax(z)[jnp.arange(T), classes]),
        "vmap of log(softmax[k])": lambda z: jax.vmap(lambda r, k: jnp.log(jax.nn.softmax(r)[k]))(
            z, classes
        ),
        "-logsumexp(z - z[k])": lambda z: (
            -jax.nn.logsumexp(z - z[jnp.arange(T), classes][:, None], -1)
        ),
        "-log sum exp(z - z[k])": lambda z: (
            -jnp.log(jnp.exp(z - z[jnp.arange(T), classes][:, None]).sum(-1))
        ),
        "vmap of dot": lambda z: jax.vmap(jnp.dot)(jax.nn.log_softmax(z), hot),
    }
    return before(lambda x: jnp.tanh(x) @ w, spellings)
