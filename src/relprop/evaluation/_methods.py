"""Methods by name or as they are: rules, presets, baselines, functions, and two controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop import baselines, presets
from relprop._errors import InputError, unknown_name
from relprop._transform import relevance
from relprop.composites import Composite
from relprop.rules import Rule

#: From a score to what explains it.
Make = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
#: Baselines that need nothing beside the function.
_PLAIN = ("gradient", "gradient_times_input", "integrated_gradients", "deeplift")
_OTHERS = ("feature_ablation",)


def random(f: Callable[[Any], Any]) -> Callable[[Any], Float[Array, "..."]]:
    """A control: an explanation by chance, of the same sample always the same.

    >>> random(jnp.sum)(jnp.ones(3)).shape
    (3,)
    """

    def explain(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        seed = lax.bitcast_convert_type(jnp.sum(x).astype(jnp.float32), jnp.uint32)
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), seed), x.shape, x.dtype)

    return explain


def edges(f: Callable[[Any], Any]) -> Callable[[Any], Float[Array, "..."]]:
    r"""A control: an edge detector, which knows nothing of the function.

    .. math:: R = \sqrt{(\partial_1 x)^2 + (\partial_2 x)^2}

    by differences along the first two axes, or of what has one axis along that.

    >>> edges(jnp.sum)(jnp.array([0.0, 0.0, 1.0, 1.0])).tolist()
    [0.0, 0.5, 0.5, 0.0]

    Source: Adebayo et al. 2018.
    """

    def explain(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        axes = [axis for axis in range(min(2, x.ndim)) if x.shape[axis] > 1]
        slopes = [jnp.asarray(jnp.gradient(x, axis=axis)) for axis in axes]
        return jnp.sqrt(sum((slope**2 for slope in slopes), jnp.zeros_like(x)))

    return explain


CONTROLS: Mapping[str, Make] = {"random": random, "edges": edges}


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """What explains a score.

    Attributes:
        make: from a score to what explains it.
        rules: of relevance propagation; None for other methods.
        control: whether it looks at nothing that was learnt, so that others must beat it.
    """

    make: Make
    rules: Rule | Composite | None = None
    control: bool = False


def methods_of(given: Any) -> dict[str, Method]:
    """Names and methods.

    Raises:
        UnknownNameError: a name is not known; names the near matches.
        InputError: two have one name, something is no method, or there is none.
    """
    if isinstance(given, (str, Rule, Composite)) or callable(given):
        given = [given]
    if not isinstance(given, Mapping):
        pairs = [(_name(one), one) for one in _several(given)]
        twice = {name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1}
        if twice:
            raise InputError(
                f"Several methods are called {', '.join(sorted(twice))}: name them with a dict."
            )
        given = dict(pairs)
    if not given:
        raise InputError("There is no method to evaluate.")
    return {name: _method(name, one) for name, one in given.items()}


def _several(given: Any) -> Iterable[Any]:
    if isinstance(given, Iterable):
        return given
    raise InputError(f"Methods are a dict or a list of them, got {type(given).__name__}.")


def _name(one: Any) -> str:
    if isinstance(one, str):
        return one
    if isinstance(one, Composite):
        return one.name or "composite"
    return str(one) if isinstance(one, Rule) else getattr(one, "__name__", repr(one))


def _method(name: str, given: Any) -> Method:
    if isinstance(given, str):
        return _by_name(given)
    if isinstance(given, (Rule, Composite)):
        return Method(lambda f: relevance(f, given), given)
    if callable(given):
        make: Any = given
        return Method(make, control=make in CONTROLS.values())
    raise InputError(
        f"The method {name!r} is a {type(given).__name__}: give a rule, a composite, a name, or a "
        "function from a score to what explains it, such as `relprop.baselines.gradient`."
    )


def _by_name(name: str) -> Method:
    key = name.lower().replace("-", "_")
    if key in CONTROLS:
        return Method(CONTROLS[key], control=True)
    if key in presets.names():
        rules = presets.by_name(key)
        return Method(lambda f: relevance(f, rules), rules)
    if key in (*_PLAIN, *_OTHERS):
        return Method(getattr(baselines, key))
    raise unknown_name("method", name, (*CONTROLS, *presets.names(), *_PLAIN, *_OTHERS))
