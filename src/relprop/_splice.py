"""Features put into a function: a sparse autoencoder or a transcoder at a place inside of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop import _compat
from relprop._core.graph import Value
from relprop._core.replaced import Replace, Replacing, Turns
from relprop._errors import InputError
from relprop._run import closed
from relprop.places.kinds import named, places_of
from relprop.places.opened import Opened


def splice(
    f: Callable[..., Any],
    place: Any,
    encode: Callable[[Array], Any],
    decode: Callable[[Any], Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    into: Any = None,
) -> Callable[..., Any]:
    r"""The same function, in which a value is made of features and of what these leave over.

    .. math:: v = \mathrm{decode}(a) + e, \qquad a = \mathrm{encode}(v), \qquad
              e = v - \mathrm{decode}(\mathrm{encode}(v))

    What it computes does not change, up to rounding. The features are a value that is named
    ``"... features"`` after the place, for `places=`, `relprop.intervene` and
    `relprop.patching.nodes`. The error ``"... error"`` counts as a constant: no relevance goes
    through it to what comes before. `relprop.places.Errors` says how much it has.

    Args:
        f: any function of pytrees of arrays.
        place: where, as in `places=`; each value that is meant has features of its own.
        encode: from a value to its features, an array.
        decode: from features to an array of the shape of the value.
        argnums: as for `relprop.intervene`.
        has_aux: as for `relprop.intervene`.
        into: the place of the values that the features make, if not of those that they are made
            of: of a transcoder the output of an MLP, whose input is `place`.

    Returns:
        A function with the arguments and the results of f.

    Raises:
        NothingMatchedError: the place is not there.
        InputError: what is decoded has another shape than the value, or is NaN where that is not
            (where numbers are at hand: not inside of `jax.jit`); or `into` means other values than
            one after each of `place`.

    >>> import jax, jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(relprop.named(2 * x, "hidden") ** 2)
    >>> W = jnp.array([[1.0, -1.0, 0.0]])
    >>> g = splice(f, "hidden", lambda v: jax.nn.relu(v[:, None] @ W), lambda a: (a @ W.T)[:, 0])
    >>> x = jnp.array([1.0, -3.0])
    >>> g(x), relprop.intervene(g, {"hidden features": 0.0})(x)
    (Array(40., dtype=float32), Array(0., dtype=float32))

    Source: Marks et al. 2025, section 2 (features and errors); Ameisen et al. 2025 (transcoders).
    """
    starts, ends = places_of(place), places_of(place if into is None else into)

    @functools.wraps(f)
    def spliced(*args: Any, **kwargs: Any) -> Any:
        opened = Opened.of(closed(f, kwargs), args, argnums, has_aux)
        replace: dict[Value, Replace] = {}
        for name, start, end in _pairs(opened, starts, ends):
            put = _Features(name, encode, decode)
            if start is end:
                replace[start] = lambda value, turns, put=put: put.write(put.read(value), value)
            else:
                replace[start] = put.noted
                replace[end] = put.from_noted
        outputs, _ = opened.evaluated(Replacing(replace))
        return opened.trace.returned(outputs)

    return spliced


class _Features:
    """The features at one place, during one evaluation."""

    def __init__(self, name: str, encode: Callable[..., Any], decode: Callable[..., Any]):
        self._name, self._encode, self._decode = name, encode, decode
        self._noted: Any = None

    def read(self, value: Array) -> Array:
        return jnp.asarray(self._encode(value))

    def noted(self, value: Array, turns: Turns) -> Array:
        del turns
        self._noted = self.read(value)
        return value

    def from_noted(self, value: Array, turns: Turns) -> Array:
        del turns
        if self._noted is None:
            raise InputError(
                f"What the features of {self._name!r} are to be put into is computed before they "
                "are. `into` must mean a value that comes after."
            )
        return self.write(self._noted, value)

    def write(self, features: Array, value: Array) -> Array:
        # The error is that of the features as they are, also where somebody changes them.
        error = named(
            lax.stop_gradient(value - self._decoded(features, value)), self._label("error")
        )
        return self._decoded(named(features, self._label("features")), value) + error

    def _decoded(self, features: Array, value: Array) -> Array:
        decoded = jnp.asarray(self._decode(features))
        if decoded.shape != value.shape:
            raise InputError(
                f"What is decoded from the features of {self._name!r} has shape {decoded.shape}, "
                f"but is to be put in the place of a value of shape {value.shape}."
            )
        if not (_compat.is_traced(decoded) or _compat.is_traced(value)):
            if bool(jnp.any(jnp.isnan(decoded) & ~jnp.isnan(value))):
                raise InputError(
                    f"What is decoded from the features of {self._name!r} is NaN where the value "
                    "is not: the error would be NaN as well. Look at the weights of the features."
                )
        return decoded.astype(value.dtype)

    def _label(self, kind: str) -> str:
        return f"{self._name} {kind}"


def _pairs(opened: Opened, starts: Any, ends: Any) -> list[tuple[str, Value, Value]]:
    """Values that features are made of, with their names, and those that they make."""
    first, last = opened.named(starts), opened.named(ends)
    matched = len(first) == len(last) and all(
        opened.loops[a] == opened.loops[b] for a, b in zip(first, last, strict=False)
    )
    if not matched:
        raise InputError(
            f"The features are made of {len(first)} value(s) and make {len(last)}: "
            f"{[n[0] for n in first.values()]} and {[n[0] for n in last.values()]}. There must be "
            "one for each, in the same loop."
        )
    values = zip(first.items(), last, strict=True)
    return [(names[0], start, end) for (start, names), end in values]
