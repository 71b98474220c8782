"""Attention maps as the formulas want them: one per application, with samples and heads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._errors import InputError
from relprop.anatomy.streams import Look, TokenFlow
from relprop.places import Inside


@dataclasses.dataclass(frozen=True)
class Layer:
    """One application of attention.

    Attributes:
        look: who looks at whom.
        attention: the map.
        gradient: its gradient.
        relevance: its relevance by the rules; None for methods that go without.
    """

    look: Look
    attention: Float[Array, "n heads q k"]
    gradient: Float[Array, "n heads q k"]
    relevance: Float[Array, "n heads q k"] | None

    def only(self, heads: Sequence[int]) -> Layer:
        """With some of the heads."""
        numbers = jnp.asarray(heads)
        relevance = None if self.relevance is None else self.relevance[:, numbers]
        return Layer(self.look, self.attention[:, numbers], self.gradient[:, numbers], relevance)


def layers_of(
    flow: TokenFlow, plain: Mapping[str, Inside], by_rules: Mapping[str, Inside] | None
) -> dict[int, Layer]:
    """The maps of all applications of attention, in order of evaluation.

    Args:
        flow: the applications.
        plain: all maps with their gradient, loops stacked.
        by_rules: the same with their relevance.

    Raises:
        InputError: a map is inside of something that a rule takes as one operation.
    """
    given = [plain] if by_rules is None else [plain, by_rules]
    hidden = [
        look for look in flow.looks.values() if any(_name(look) not in found for found in given)
    ]
    if hidden:
        raise InputError(
            "The rules take as one operation what has attention in it, so that its map has no "
            "relevance:\n" + listed(hidden)
        )
    layers = {}
    for number, look in flow.looks.items():
        inside = plain[_name(look)]
        relevance = None if by_rules is None else by_rules[_name(look)].relevance
        layers[number] = Layer(
            look,
            _arranged(inside.value, look),
            _arranged(inside.relevance, look),
            None if relevance is None else _arranged(relevance, look),
        )
    return layers


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


def listed(looks: Sequence[Look]) -> str:
    """One line per application of attention."""
    return "\n".join(f"  {look}" for look in looks)


def _check(what: str, numbers: Sequence[int] | None, count: int) -> None:
    wrong = [n for n in numbers or () if not -count <= n < count]
    if wrong or (numbers is not None and not len(numbers)):
        raise InputError(f"`{what}` is {list(numbers or ())}, but there are {count} {what}.")


def _name(look: Look) -> str:
    return f"attention {look.map:03d}"


def _arranged(array: Array, look: Look) -> Float[Array, "n heads q k"]:
    """One round of the loops around a map, with an axis for samples and one for heads."""
    array = array[look.rounds]
    sizes = [size for _, size in look.leading]
    array = array.reshape(*sizes, *array.shape[-2:])
    of_batch = [i for i, (kind, _) in enumerate(look.leading) if kind == "batch"]
    array = jnp.moveaxis(array, of_batch, range(len(of_batch)))
    samples = math.prod(sizes[i] for i in of_batch)
    return array.reshape(samples, -1, *array.shape[-2:])
