"""Recurrent cells and state spaces: loops, and how their layers are written."""

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, T, normal, piece, positive

sigmoid = jax.nn.sigmoid
N = 3  # units of the cells


def _run(cell, start, read):
    """A cell over all tokens: unrolled, and as a loop of each kind."""

    def unrolled(x):
        state = start
        for t in range(T):
            state = cell(state, x[t])
        return read(state)

    def scanned(**options):
        return lambda x: read(lax.scan(lambda s, r: (cell(s, r), None), start, x, **options)[0])

    def collected(x):
        def step(s, r):
            s = cell(s, r)
            return s, read(s)

        return lax.scan(step, start, x)[1][-1]

    def checkpointed(x):
        step = jax.checkpoint(lambda s, r: (cell(s, r), None))
        return read(lax.scan(step, start, x)[0])

    def indexed(x):
        return read(lax.fori_loop(0, T, lambda t, s: cell(s, x[t]), start))

    def backwards(x):
        reverse = lax.scan(lambda s, r: (cell(s, r), None), start, x[::-1], reverse=True)[0]
        return read(reverse)

    def in_chunks(x):
        def chunk(s, rows):
            return lax.scan(lambda s, r: (cell(s, r), None), s, rows)[0], None

        return read(lax.scan(chunk, start, x.reshape(2, T // 2, D))[0])

    return {
        "unrolled": unrolled,
        "scan": scanned(),
        "scan, unroll=2": scanned(unroll=2),
        "all states, the last": collected,
        "scan of checkpoint": checkpointed,
        "fori_loop": indexed,
        "in reverse, twice": backwards,
        "scan of scans": in_chunks,
        "jit per step": lambda x: _unrolled_jit(cell, start, read, x),
    }


def _unrolled_jit(cell, start, read, x):
    state, step = start, jax.jit(cell)
    for t in range(T):
        state = step(state, x[t])
    return read(state)


def _each(forms, run):
    """Every form of the cell in a scan, and the first form in every loop."""
    first = next(iter(forms.values()))
    return run(first) | {f"scan, {name}": run(form)["scan"] for name, form in forms.items()}


@piece(chains=False, wx=normal(4, D, N), wh=normal(4, N, N), b=normal(4, N))
def lstm(wx, wh, b):
    forms = {
        "(x @ w + b) + h @ u": lambda x, h, k: (x @ wx[k] + b[k]) + h @ wh[k],
        "b + x @ w + h @ u": lambda x, h, k: b[k] + x @ wx[k] + h @ wh[k],
        "h @ u + (x @ w + b)": lambda x, h, k: h @ wh[k] + (x @ wx[k] + b[k]),
        "x @ w + h @ u + b": lambda x, h, k: x @ wx[k] + h @ wh[k] + b[k],
        "x @ w + (h @ u + b)": lambda x, h, k: x @ wx[k] + (h @ wh[k] + b[k]),
        "concatenated": lambda x, h, k: (
            jnp.concatenate([x, h]) @ jnp.concatenate([wx[k], wh[k]]) + b[k]
        ),
    }

    def cell_of(form, gate=sigmoid):
        def cell(state, x):
            h, c = state
            i, f, o, n = (form(x, h, k) for k in range(4))
            c = gate(f) * c + gate(i) * jnp.tanh(n)
            return gate(o) * jnp.tanh(c), c

        return cell

    def fused(state, x):
        h, c = state
        w = jnp.concatenate(list(wx), 1)
        u, bias = jnp.concatenate(list(wh), 1), b.reshape(-1)
        i, f, o, n = jnp.split((x @ w + bias) + h @ u, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(n)
        return sigmoid(o) * jnp.tanh(c), c

    def run(cell):
        return _run(cell, (jnp.zeros(N), jnp.zeros(N)), lambda state: state[0])

    def by_tanh(a):
        return 0.5 + 0.5 * jnp.tanh(a / 2)

    spellings = _each({name: cell_of(form) for name, form in forms.items()}, run)
    first = next(iter(forms.values()))
    return spellings | {
        "fused": run(fused)["scan"],
        "sigmoid by tanh": run(cell_of(first, by_tanh))["scan"],
        "sigmoid by exp": run(cell_of(first, lambda a: 1 / (1 + jnp.exp(-a))))["scan"],
    }


@piece(chains=False, wx=normal(3, D, N), wh=normal(3, N, N), b=normal(3, N), c=normal(3, N))
def gru(wx, wh, b, c):
    def cell(mix, gate=sigmoid):
        def step(h, x):
            i = [x @ wx[k] + b[k] for k in range(3)]
            j = [h @ wh[k] + c[k] for k in range(3)]
            r, z = gate(i[0] + j[0]), gate(i[1] + j[1])
            return mix(z, jnp.tanh(i[2] + r * j[2]), h)

        return step

    def run(step):
        return _run(step, jnp.zeros(N), lambda h: h)

    return _each(
        {
            "(1 - z)*n + z*h": cell(lambda z, n, h: (1 - z) * n + z * h),
            "z*h + (1 - z)*n": cell(lambda z, n, h: z * h + (1 - z) * n),
            "sigmoid by tanh": cell(
                lambda z, n, h: (1 - z) * n + z * h, lambda a: 0.5 + 0.5 * jnp.tanh(a / 2)
            ),
            "n + z*(h - n)": cell(lambda z, n, h: n + z * (h - n)),
        },
        run,
    )


@piece(chains=False, wx=normal(D, N), wh=normal(N, N), b=normal(N))
def simple_recurrence(wx, wh, b):
    def run(step):
        return _run(step, jnp.zeros(N), lambda h: h)

    return _each(
        {
            "(x @ w + b) + h @ u": lambda h, x: jnp.tanh((x @ wx + b) + h @ wh),
            "h @ u + (x @ w + b)": lambda h, x: jnp.tanh(h @ wh + (x @ wx + b)),
            "b + x @ w + h @ u": lambda h, x: jnp.tanh(b + x @ wx + h @ wh),
        },
        run,
    )


@piece(
    chains=False, a=positive(D, N), wb=normal(D, N), wc=normal(D, N), wd=normal(D, D), d=normal(D)
)
def state_space(a, wb, wc, wd, d):
    """A selective state space."""

    def run(order, states, read):
        def f(x):
            delta, b, c = jax.nn.softplus(x @ wd), x @ wb, x @ wc
            decay = jnp.exp(-delta[:, :, None] * a)
            entering = order(delta[:, :, None], b[:, None], x[:, :, None])
            return read(states(decay, entering), c) + x * d

        return f

    def scanned(decay, entering):
        def step(h, p):
            h = p[0] * h + p[1]
            return h, h

        return lax.scan(step, jnp.zeros((D, N)), (decay, entering))[1]

    def unrolled(decay, entering):
        h, all_states = jnp.zeros((D, N)), []
        for t in range(T):
            h = decay[t] * h + entering[t]
            all_states.append(h)
        return jnp.stack(all_states)

    def associative(decay, entering):
        def combine(p, q):
            return p[0] * q[0], q[0] * p[1] + q[1]

        return lax.associative_scan(combine, (decay, entering))[1]

    def first(delta, b, x):
        return delta * b * x

    def read(h, c):
        return jnp.einsum("tdn,tn->td", h, c)

    return {
        "scan": run(first, scanned, read),
        "unrolled": run(first, unrolled, read),
        "associative_scan": run(first, associative, read),
        "multiplied and summed": run(first, scanned, lambda h, c: (h * c[:, None]).sum(-1)),
        "b*delta*x": run(lambda delta, b, x: b * delta * x, scanned, read),
        "(delta*x)*b": run(lambda delta, b, x: (delta * x) * b, scanned, read),
    }
