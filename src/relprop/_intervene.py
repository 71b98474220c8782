"""Interventions: a function with other values at places inside of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from relprop._core.edit import fits
from relprop._core.graph import Value
from relprop._core.replaced import Replacing, Turns
from relprop._errors import InputError
from relprop._run import closed
from relprop.places.kinds import places_of
from relprop.places.opened import Opened
from relprop.places.turns import AtStep


def intervene(
    f: Callable[..., Any],
    edits: Mapping[Any, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., Any]:
    r"""The same function with values at places inside of it replaced.

    .. math:: f(x) \big|_{v \leftarrow e(v)}

    What is computed from a value reads the new one instead. The result is an ordinary function,
    to be compiled, differentiated and mapped: with `jax.vmap` over what the edits close over,
    thousands of interventions share what comes before the place. A function with a derivative of
    its own, inside of which something is edited, has that of what it computes.

    Args:
        f: any function of pytrees of arrays.
        edits: by place, as in `places=` (also `relprop.places.Parameter`), what is to be there: a
            function of the value, such as those of `relprop.edits`, or an array. Both broadcast to
            the shape of the value, and are converted to its dtype. A place that means several
            values has each of them edited; several places that mean one value edit it in order.
            In a loop a function is applied at every step; an array may have an axis for the steps
            in front. `relprop.places.AtStep` means one step.
        argnums: of which arguments the values at places are computed. They may be integers, such as
            token ids. Names of parameters are those of the other arguments.
        has_aux: whether f returns a pair of arrays and anything else.

    Returns:
        A function with the arguments and the results of f.

    Raises:
        NothingMatchedError: a place is not there.
        InputError: an edit is no array or function, does not fit the value, or means a step that
            does not exist.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(relprop.named(2 * x, "doubled") + 1)
    >>> x = jnp.array([1.0, 3.0])
    >>> f(x), intervene(f, {"doubled": 0.0})(x), intervene(f, {"doubled": jnp.square})(x)
    (Array(10., dtype=float32), Array(2., dtype=float32), Array(42., dtype=float32))

    Source: Vig et al. 2020, section 3 (interventions on neurons and heads).
    """
    if not isinstance(edits, Mapping):
        raise InputError(
            f"The edits are a dict from places to functions or arrays, got {type(edits).__name__}."
        )
    places = places_of(list(edits))
    made = [_checked(place, edit) for place, edit in zip(places, edits.values(), strict=True)]

    @functools.wraps(f)
    def edited(*args: Any, **kwargs: Any) -> Any:
        opened = Opened.of(closed(f, kwargs), args, argnums, has_aux)
        changes: dict[Value, list[_Change]] = {}
        found = opened.find_all(places)
        for place, edit, values in zip(places, made, found, strict=True):
            step = place.steps if isinstance(place, AtStep) else ()
            for name, value in values:
                change = _Change(edit, name, step, opened.loops[value])
                changes.setdefault(value, []).append(change)
        _check_all(changes)
        replacing = Replacing({v: functools.partial(_apply, own) for v, own in changes.items()})
        outputs, _ = opened.evaluated(replacing)
        return opened.trace.returned(outputs)

    return edited


def values_at(
    f: Callable[..., Any],
    places: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
) -> Callable[..., dict[str, Shaped[Array, "..."]]]:
    """The values at places inside a function, to be patched into another run of it.

    Args:
        f: any function of pytrees of arrays.
        places: as in `places=`.
        argnums: as for `intervene`.
        has_aux: as for `intervene`.

    Returns:
        A function with the arguments of f that returns the values by the names of their places; in
        a `scan` with one entry per step in front, and zeros in a branch that was not taken.

    Raises:
        NothingMatchedError: a place is not there.
        InputError: it is inside of a `while_loop` or a `shard_map`.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(relprop.named(2 * x, "doubled") + 1)
    >>> values_at(f, "doubled")(jnp.array([1.0, 3.0]))["doubled"].tolist()
    [2.0, 6.0]
    """
    wanted = places_of(places)

    @functools.wraps(f)
    def values_of(*args: Any, **kwargs: Any) -> dict[str, Array]:
        opened = Opened.of(closed(f, kwargs), args, argnums, has_aux)
        names = opened.named(wanted)
        _, kept = opened.evaluated(Replacing({}, {v: first for v, (first, *_) in names.items()}))
        by_name = {name: kept[own[0]] for own in names.values() for name in own}
        return dict(sorted(by_name.items()))

    return values_of


@dataclasses.dataclass(frozen=True, eq=False)
class _Change:
    """An edit of one value.

    Attributes:
        edit: a function of the value, or an array.
        name: of the place.
        step: the step of each loop around in which it is applied; all of them if empty.
        rounds: how often these loops are run, None where that is not known.
    """

    edit: Any
    name: str
    step: tuple[int, ...]
    rounds: tuple[int | None, ...]

    def problem(self, value: Value) -> str:
        """What is wrong with it, in words, as far as that is known beforehand."""
        if self.step and len(self.step) != len(self.rounds):
            return f"{len(self.step)} step(s) are named, but {len(self.rounds)} loop(s) are around"
        for step, count in zip(self.step, self.rounds, strict=bool(self.step)):
            if (step < 0) if count is None else not -count <= step < count:
                return f"there is no step {step} in a loop of {count or 'unknown length'}"
        if callable(self.edit):
            return ""
        rounds = () if None in self.rounds or self.step else self.rounds
        shape = (*rounds, *value.shape)
        if not fits(self.edit.shape, shape):  # type: ignore[arg-type]
            steps = f", in {rounds} steps" if rounds else ""
            return f"the edit has shape {self.edit.shape}, the value {value.shape}{steps}"
        return _kind_problem(self.edit, value)

    def __call__(self, value: Array, turns: Turns) -> Array:
        new = self._new(value, turns)
        if not self.step:
            return new
        here = jnp.asarray(True)
        for turn, step, count in zip(turns, self.step, self.rounds, strict=True):
            here &= turn == (step % count if count else step)
        return jnp.where(here, new, value)

    def _new(self, value: Array, turns: Turns) -> Array:
        if callable(self.edit):
            new = jnp.asarray(self.edit(value))
            problem = _kind_problem(new, value)
            if problem or not fits(new.shape, value.shape):
                raise InputError(
                    f"The edit of {self.name!r} returned an array of shape {new.shape} and type "
                    f"{new.dtype}, which does not fit the value, {value.dtype}{list(value.shape)}."
                )
        else:
            new, over = self.edit, self.edit.ndim - value.ndim
            if over > 0:  # One entry per step of the loops around.
                own = zip(new.shape[:over], turns[len(turns) - over :], strict=True)
                new = new[tuple(0 if count == 1 else turn for count, turn in own)]
        return jnp.broadcast_to(new, value.shape).astype(value.dtype)


def _apply(changes: Sequence[_Change], value: Array, turns: Turns) -> Array:
    for change in changes:
        value = change(value, turns)
    return value


def _checked(place: Any, edit: Any) -> Any:
    """An edit, which if it is no function is an array."""
    if callable(edit):
        return edit
    if isinstance(edit, (jax.Array, np.ndarray, np.generic, int, float, complex, list, tuple)):
        try:
            return jnp.asarray(edit)
        except (TypeError, ValueError):
            pass
    raise InputError(
        f"An edit is a function of the value, or an array; at {place!r} it is {edit!r}."
    )


def _kind_problem(new: Array, value: Any) -> str:
    if jnp.issubdtype(new.dtype, jnp.complexfloating) and not jnp.issubdtype(
        value.dtype, jnp.complexfloating
    ):
        return f"the edit is complex, the value {value.dtype}"
    return ""


def _check_all(changes: Mapping[Value, Sequence[_Change]]) -> None:
    wrong = [
        f"  {change.name}: {problem}"
        for value, own in changes.items()
        for change in own
        if (problem := change.problem(value))
    ]
    if wrong:
        raise InputError(
            f"{len(wrong)} edit(s) do not fit the values at their places:\n"
            + "\n".join(wrong)
            + "\nAn edit broadcasts to the shape of the value; in a scan an array may have an axis "
            "for the steps in front."
        )
