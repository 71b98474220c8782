"""Attention maps as the formulas want them: one per layer, with samples and heads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._errors import InputError
from relprop.anatomy.streams import Application, TokenFlow
from relprop.places import Inside


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of attention: applications that see the same tokens are heads of it.

    Attributes:
        application: who looks at whom.
        attention: the map.
        gradient: its gradient.
        relevance: its relevance by the rules; None for methods that go without.
    """

    application: Application
    attention: Float[Array, "n heads q k"]
    gradient: Float[Array, "n heads q k"]
    relevance: Float[Array, "n heads q k"] | None

    def only(self, heads: Sequence[int]) -> Layer:
        """With some of the heads."""
        numbers = jnp.asarray(heads)
        relevance = None if self.relevance is None else self.relevance[:, numbers]
        return Layer(
            self.application, self.attention[:, numbers], self.gradient[:, numbers], relevance
        )


def unseen(flow: TokenFlow, found: Mapping[str, Inside]) -> list[Application]:
    """Applications of attention whose map is none of some maps."""
    return [
        application for application in flow.applications.values() if _name(application) not in found
    ]


def layers_of(
    flow: TokenFlow, plain: Mapping[str, Inside], by_rules: Mapping[str, Inside] | None
) -> dict[int, Layer]:
    """The maps of all layers of attention, in order of evaluation, by their first application.

    Args:
        flow: the applications.
        plain: all maps with their gradient, loops stacked.
        by_rules: the same with their relevance.

    Raises:
        InputError: a map is inside of something that a rule takes as one operation.
    """
    given = [plain] if by_rules is None else [plain, by_rules]
    hidden = list(
        dict.fromkeys(application for found in given for application in unseen(flow, found))
    )
    if hidden:
        raise InputError(
            "The rules take as one operation what has attention in it, so that its map has no "
            "relevance:\n" + listed(hidden)
        )
    together: dict[object, list[Layer]] = {}
    numbers: dict[object, int] = {}
    for number, application in flow.applications.items():
        inside = plain[_name(application)]
        relevance = None if by_rules is None else by_rules[_name(application)].relevance
        layer = Layer(
            application,
            _arranged(inside.value, application),
            _arranged(inside.relevance, application),
            None if relevance is None else _arranged(relevance, application),
        )
        n, _, q, k = layer.attention.shape
        key = (
            application.queries,
            application.keys,
            application.before,
            application.keys_before,
            (n, q, k),
        )
        numbers.setdefault(key, number)
        _put(together.setdefault(key, []), layer)
    return {numbers[key]: _beside(heads) for key, heads in together.items()}


def chosen(
    layers: Mapping[int, Layer],
    start_layer: int,
    numbers: Sequence[int] | None,
    heads: Sequence[int] | None,
) -> dict[int, Layer]:
    """The layers and heads that count.

    Raises:
        InputError: there are not so many.
    """
    every = list(layers)
    _check("layers", numbers, len(every))
    picked = (
        every if numbers is None else [every[n] for n in sorted(n % len(every) for n in numbers)]
    )
    if not 0 <= start_layer < len(picked):
        raise InputError(f"start_layer is {start_layer}, but there are {len(picked)} layers.")
    found = {number: layers[number] for number in picked[start_layer:]}
    if heads is None:
        return found
    _check("heads", heads, min(layer.attention.shape[1] for layer in found.values()))
    return {number: layer.only(heads) for number, layer in found.items()}


def listed(applications: Sequence[Application]) -> str:
    """One line per application of attention."""
    return "\n".join(f"  {application}" for application in applications)


def _check(what: str, numbers: Sequence[int] | None, count: int) -> None:
    wrong = [n for n in numbers or () if not -count <= n < count]
    if wrong or (numbers is not None and not len(numbers)):
        raise InputError(f"`{what}` is {list(numbers or ())}, but there are {count} {what}.")


def _name(application: Application) -> str:
    return f"attention {application.map:03d}"


def _put(layers: list[Layer], layer: Layer) -> None:
    """Adds heads, or rows of those that are there already, where queries came in chunks."""
    rows = layer.application.rows
    for i, there in enumerate(layers):
        others = there.application.rows
        alike = there.attention.shape == layer.attention.shape
        if alike and rows is not None and others is not None and not {*rows} & {*others}:
            application = dataclasses.replace(there.application, rows=(*others, *rows))
            layers[i] = _combined((there, layer), application, jnp.add)
            return
    layers.append(layer)


def _beside(layers: Sequence[Layer]) -> Layer:
    """Heads that were computed one by one."""

    def joined(*maps: Array) -> Array:
        return jnp.concatenate(maps, axis=1)

    return layers[0] if len(layers) == 1 else _combined(layers, layers[0].application, joined)


def _combined(layers: Sequence[Layer], application: Application, of: Callable[..., Array]) -> Layer:
    relevance = [layer.relevance for layer in layers if layer.relevance is not None]
    return Layer(
        application,
        of(*(layer.attention for layer in layers)),
        of(*(layer.gradient for layer in layers)),
        of(*relevance) if relevance else None,
    )


def _arranged(array: Array, application: Application) -> Float[Array, "n heads q k"]:
    """One round of the loops around a map, with an axis for samples and one for heads."""
    array = array[tuple(slice(None) if i is None else i for i in application.rounds)]
    query, key = application.axes
    if query is None:
        array, query = array[..., None], array.ndim
    rest = [i for i in range(array.ndim) if i not in (query, key)]
    array = jnp.transpose(array, (*rest, query, key))
    if application.columns is not None:
        array = jnp.take(array, jnp.asarray(application.columns), axis=-1)
    kinds, sizes = (
        [kind for kind, _ in application.leading],
        [size for _, size in application.leading],
    )
    q, k = array.shape[-2:]
    array = array.reshape(*sizes, q, k)
    order = [[i for i, kind in enumerate(kinds) if kind == of] for of in ("batch", "queries")]
    heads = [i for i in range(len(kinds)) if i not in (*order[0], *order[1])]
    samples, chunks = (math.prod(sizes[i] for i in of) for of in order)
    array = jnp.transpose(array, (*order[0], *heads, *order[1], len(kinds), len(kinds) + 1))
    array = array.reshape(samples, -1, chunks * q, k)
    if application.rows is None:
        return array
    # Tokens that do not look stay as they are.
    rows = jnp.asarray(application.rows)
    return jnp.zeros((*array.shape[:2], k, k), array.dtype).at[:, :, rows].set(array)
