"""Along which axis of a value its channels lie: read from the layer that made it, never guessed.

A convolution says it by its dimension numbers, a dense layer by the axis that its weight brings
into the result. From there on the axis is followed: through what is done entry by entry, through
pooling, norms, transposes and reshapes, into and out of loops and branches. Where it is summed
over, merged with another axis or cut in parts, there is none, and neither is there where two values
meet whose channels lie along different axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Graph, Literal, Value
from relprop._errors import InputError
from relprop.anatomy.axes import Axes, Dim, Laid, Shape
from relprop.anatomy.laying import through
from relprop.propagators.linear import Contraction, Convolution, Dense


@dataclasses.dataclass(frozen=True, eq=False)
class _Merged:
    """Channels that are all there, but merged or cut: another reshape may restore their axis.

    Attributes:
        axes: of which the value's are some.
        shape: the axes of the value.
        channels: the axis that the channels had.
        lost: where that was lost.
    """

    axes: Axes
    shape: Shape
    channels: Dim
    lost: str

    @property
    def layout(self) -> object:
        """What two values have in common whose channels lie in the same places."""
        (whole,) = self.axes.find(self.channels)
        return [
            [(self.axes.size((a,)), whole in self.axes.ancestry((a,))) for a in self.axes.find(dim)]
            for dim in self.shape
        ]


#: An axis, or the reason why there is none; None where nothing is known.
_Found = int | str | _Merged | None


def channel_axis(graph: Graph, value: Value, name: str) -> int:
    """The axis of the channels of a value, counted from the end, so that loops don't matter.

    Args:
        graph: the whole function.
        value: in whatever body of it.
        name: what the user calls the value.

    Raises:
        InputError: it is not known; says why, and asks for the axis.
    """
    if len(value.shape) == 1:
        return -1  # there is no other
    found = _Reader(graph).known.get(value)
    found = found.lost if isinstance(found, _Merged) else found
    if isinstance(found, int):
        return found - len(value.shape)
    raise InputError(
        f"Along which axis do the channels of {name!r} lie, whose shape is {list(value.shape)}? "
        f"It is read from the layer that made a value, but here "
        f"{found or 'there is no layer before it'}. Say it with `axis=`."
    )


class _Reader:
    """Reads a graph once, with the axis of channels in place of each value.

    Attributes:
        known: what is known of the values computed from the explained inputs.
    """

    def __init__(self, graph: Graph):
        self.known: dict[Value, _Found] = {}
        # Values that hold numbers of their own, unlike those made of nothing but shapes.
        self._data: set[Atom] = {*graph.inputs}
        self._read(graph)

    def _read(self, graph: Graph) -> None:
        self._data.update(graph.constants)
        for equation in graph.equations:
            if any(self._holds_data(atom) for atom in equation.inputs):
                self._data.update(equation.outputs)
            found = [self._of(atom) for atom in equation.inputs]
            if equation.bodies:
                results = self._inside(equation, found)
            else:
                results = self._results(equation, found)
            for out, result in zip(equation.outputs, results, strict=True):
                if out.touched and out.inexact:
                    self.known[out] = result

    def _of(self, atom: Atom) -> _Found:
        return self.known.get(atom) if isinstance(atom, Value) else None

    def _holds_data(self, atom: Atom) -> bool:
        return atom.shape != () if isinstance(atom, Literal) else atom in self._data

    def _results(self, equation: Equation, found: Sequence[_Found]) -> list[_Found]:
        kind = registry.lookup(equation.primitive)
        if isinstance(kind, Contraction):
            factors = equation.inputs[: kind.operands]
            weights = [i for i, atom in enumerate(factors) if not atom.touched]
            if len(weights) == 1 and self._holds_data(factors[weights[0]]):
                return [_of_layer(kind, equation, weights[0])]
            if isinstance(kind, Convolution) and not weights:
                return [equation.params["dimension_numbers"].out_spec[1]]
        return [
            _joined(equation, [_followed(equation, i, axis, n) for i, axis in enumerate(found)])
            for n in range(len(equation.outputs))
        ]

    # Bodies

    def _inside(self, equation: Equation, found: Sequence[_Found]) -> list[_Found]:
        if equation.name == "scan":
            return self._loop(equation, found)
        if equation.name == "while":
            carried = len(equation.outputs)
            return self._repeated(equation, equation.bodies[-1], found, carried, carried)
        results = [self._body(equation, body, found) for body in equation.bodies]
        return [_joined(equation, branches) for branches in zip(*results, strict=True)]

    def _loop(self, equation: Equation, found: Sequence[_Found]) -> list[_Found]:
        """A scan: its body sees one step of what is stacked, and its results are stacked."""
        (body,) = equation.bodies
        consts, carried = _compat.scan_sizes(equation.params)
        stacked = [
            "its channels are the steps of a scan" if axis == 0 else _of_one_step(axis)
            for axis in found[consts + carried :]
        ]
        given = [*found[: consts + carried], *stacked]
        results = self._repeated(equation, body, given, carried, len(given) - consts)
        return [*results[:carried], *map(_of_all_steps, results[carried:])]

    def _repeated(
        self, equation: Equation, body: Graph, found: Sequence[_Found], carried: int, after: int
    ) -> list[_Found]:
        """A body whose first results are `carried` of its inputs, `after` before the last."""
        given = list(found)
        first = len(given) - after
        results: list[_Found] = []
        for _ in range(2):  # a second time with what the first one carries
            results = self._body(equation, body, given)
            for i in range(carried):
                given[first + i] = _joined(equation, [given[first + i], results[i]])
        return results

    def _body(self, equation: Equation, body: Graph, found: Sequence[_Found]) -> list[_Found]:
        count = len(body.inputs)
        atoms = equation.inputs[len(equation.inputs) - count :]
        for value, atom, axis in zip(body.inputs, atoms, found[len(found) - count :], strict=True):
            if self._holds_data(atom):
                self._data.add(value)
            if value.touched:
                self.known[value] = axis
        self._read(body)
        return [self._of(atom) for atom in body.outputs]


def _of_layer(kind: Contraction, equation: Equation, weight: int) -> _Found:
    """The axis that the weight brings into the result."""
    if isinstance(kind, Convolution):
        if weight == 1 and equation.params["batch_group_count"] == 1:
            return equation.params["dimension_numbers"].out_spec[1]
        return f"the convolution at {equation.source} has its weight for an image"
    if not isinstance(kind, Dense):
        return f"it is not known which axis is which in {equation.name} at {equation.source}"
    axes = zip(kind.carried(equation, weight), kind.contracted(equation, weight), strict=True)
    own = [to for to, met in axes if to is not None and met is None]
    shape = equation.outputs[0].shape
    wide = [axis for axis in own if shape[axis] != 1] if len(own) > 1 else own
    if len(wide) == 1:
        return wide[0]
    sizes = " and ".join(str(shape[axis]) for axis in own)
    have = f"several axes of outputs, of sizes {sizes}" if own else "no axis of outputs"
    return f"the weight of the dense layer at {equation.source} has {have}"


def _followed(equation: Equation, operand: int, axis: _Found, output: int) -> _Found:
    """Where the axis of an operand is in a result, or why it is lost."""
    out = equation.outputs[output]
    if isinstance(axis, _Merged):
        laid = [Laid(axis.shape) if i == operand else None for i in range(len(equation.inputs))]
        result = through(axis.axes, equation, laid, _unknown)[output]
        return _settled(axis.axes, result.shape, axis.channels, axis.lost)
    if not isinstance(axis, int):
        return axis
    lost = f"the axis of channels is lost in {equation.name} at {equation.source}"
    if equation.name == "reshape":
        axes = Axes()
        before = axes.of(equation.inputs[operand].shape)
        shape = axes.regroup(before, out.shape)
        # Of axes of size 1 it is not known which is which.
        return _settled(axes, shape, before[axis], lost) if before[axis] else lost
    rule = _RULES.get(equation.name)
    if rule is not None:
        found = rule(equation, operand, axis)
    elif equation.name.startswith("reduce_") and "axes" in equation.params:
        gone = equation.params["axes"]
        found = None if axis in gone else axis - sum(a < axis for a in gone)
    else:
        # Entry by entry, or along axes that stay where they are.
        found = axis if len(equation.inputs[operand].shape) == len(out.shape) else None
    return lost if found is None else found


def _settled(axes: Axes, shape: Shape, channels: Dim, lost: str) -> _Found:
    """The axis of a shape that the channels are, if there is one; all of them may be inside."""
    wanted = axes.find(channels)
    places = [i for i, dim in enumerate(shape) if axes.find(dim) == wanted]
    if len(places) == 1:
        return places[0]
    parts = [a for dim in shape for a in axes.find(dim) if wanted[0] in axes.ancestry((a,))]
    complete = math.prod(axes.size((part,)) for part in parts) == axes.size(wanted)
    return _Merged(axes, shape, channels, lost) if parts and complete else lost


def _joined(equation: Equation, found: Sequence[_Found]) -> _Found:
    """What is known of a value that is made of several."""
    axes = {axis for axis in found if isinstance(axis, int)}
    if len(axes) > 1:
        return (
            f"values meet in {equation.name} at {equation.source} whose channels lie along "
            f"different axes, {' and '.join(map(str, sorted(axes)))}"
        )
    merged = [axis for axis in found if isinstance(axis, _Merged)]
    if not axes and merged:
        alike = all(other.layout == merged[0].layout for other in merged)
        return merged[0] if alike else merged[0].lost
    return next(iter(axes), next((why for why in found if isinstance(why, str)), None))


def _of_one_step(axis: _Found) -> _Found:
    if isinstance(axis, _Merged):
        return _settled(axis.axes, axis.shape[1:], axis.channels, axis.lost)
    return axis - 1 if isinstance(axis, int) else axis


def _of_all_steps(axis: _Found) -> _Found:
    if isinstance(axis, _Merged):
        return dataclasses.replace(axis, shape=((), *axis.shape))
    return axis + 1 if isinstance(axis, int) else axis


# What happens to an axis of an operand: where it is in the result, or None.


def _transposed(equation: Equation, operand: int, axis: int) -> int | None:
    return equation.params["permutation"].index(axis)


def _broadcast(equation: Equation, operand: int, axis: int) -> int | None:
    to = equation.params["broadcast_dimensions"][axis]
    same = equation.inputs[operand].shape[axis] == equation.outputs[0].shape[to]
    return to if same else None


def _squeezed(equation: Equation, operand: int, axis: int) -> int | None:
    gone = equation.params["dimensions"]
    return None if axis in gone else axis - sum(a < axis for a in gone)


def _stacked(equation: Equation, operand: int, axis: int) -> int | None:
    return axis + (equation.params["axis"] <= axis)


def _unstacked(equation: Equation, operand: int, axis: int) -> int | None:
    along = equation.params["axis"]
    return None if axis == along else axis - (along < axis)


def _traced(equation: Equation, operand: int, axis: int) -> int | None:
    """By the axes that `relprop.anatomy.axes` knows one by one; those of size 1 it does not."""
    axes = Axes()
    own = axes.of(equation.inputs[operand].shape)
    laid = [Laid(own) if i == operand else None for i in range(len(equation.inputs))]
    (result,) = through(axes, equation, laid, _unknown)
    wanted = axes.find(own[axis])
    places = [i for i, dim in enumerate(result.shape) if dim and axes.find(dim) == wanted]
    return places[0] if len(places) == 1 else None


def _pooled(equation: Equation, operand: int, axis: int) -> int | None:
    return axis if equation.params["window_dimensions"][axis] == 1 else None


def _sorted(equation: Equation, operand: int, axis: int) -> int | None:
    return axis if equation.params.get("dimension", equation.params.get("axis")) != axis else None


def _top(equation: Equation, operand: int, axis: int) -> int | None:
    along = equation.params.get("axis", equation.params.get("reduction_dimension", -1))
    return axis if axis != along % len(equation.inputs[operand].shape) else None


def _transformed(equation: Equation, operand: int, axis: int) -> int | None:
    rank = len(equation.inputs[operand].shape)
    return axis if axis < rank - len(equation.params["fft_lengths"]) else None


_RULES: Mapping[str, Callable[[Equation, int, int], int | None]] = {
    "approx_top_k": _top,
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": lambda equation, operand, axis: None,
    "dot_general": _traced,
    "fft": _transformed,
    "gather": _traced,
    "reduce_window": _pooled,
    "reduce_window_max": _pooled,
    "reduce_window_min": _pooled,
    "reduce_window_sum": _pooled,
    "sort": _sorted,
    "squeeze": _squeezed,
    "stack": _stacked,
    "top_k": _top,
    "transpose": _transposed,
    "unstack": _unstacked,
}


def _unknown(atom: object) -> None:
    """Numbers of indices are not needed: an axis is followed, not its entries."""
    del atom
