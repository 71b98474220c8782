"""Batch normalisation at inference: a constant scale and shift per channel, however written.

Means, variances, weights and biases are constants then, and ``(x - mean) * rsqrt(var + eps)``, a
division by the root, or ``x * factor + summand`` are the same: an affine map of each entry. It is
told from other scales by its factors, which are arrays along the channels and not one number. Next
to a layer, the channels are the axes that the weight of the layer has as well; elsewhere, one axis.
The weights of a norm whose normaliser depends on the input are no batch norm.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal, Value
from relprop._core.operation import Operation
from relprop.propagators.affine import Affine, Merged
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation
from relprop.propagators.recognised import Biased
from relprop.recognise.bias import biased_layers, is_layer
from relprop.recognise.dataflow import Dataflow, is_elementwise, is_move
from relprop.recognise.gate import gates

#: Equations one after another, each of them an affine map of each entry or a move.
_Chain = tuple[Equation, ...]


def merged_layers(flow: Dataflow) -> Iterator[Operation]:
    """Each layer with the batch norms after and before it; one between two belongs to the first."""
    layers = [e for e in flow.equations if is_layer(flow, e)]
    biased = {operation.equations[0]: operation for operation in flow.found(biased_layers)}
    after = {layer: _after(flow, layer) for layer in layers}
    taken = {operation.last for operation in biased.values()}
    taken.update(equation for chain in after.values() for equation in chain)
    for layer in layers:
        before = _before(flow, layer, taken)
        behind = after[layer]
        if before and not behind and layer in biased:
            behind = biased[layer].equations[1:]
            if not all(_goes_on(flow, equation) for equation in behind):
                continue
        chain = (*before, layer, *behind)
        if len(chain) > 1:
            start = flow.operands(before[0] if before else layer)[0]
            own = [start if atom in flow.dependent else atom for atom in layer.inputs]
            others = _constants(flow, before + behind)
            yield Operation(Merged(main=len(before)), chain, (*own, *others), chain[-1].outputs)


def batch_norms(flow: Dataflow) -> Iterator[Operation]:
    """Each batch norm by itself."""
    # What is added to the result of a layer is its bias; what is subtracted is a mean.
    biased = (op for op in flow.found(biased_layers) if op.propagator == Biased(sign=1))
    inside = {operation.last for operation in (*biased, *flow.found(gates))}
    for equation in flow.equations:
        if equation in inside or not _is_per_channel(flow, equation):
            continue
        (start,) = flow.operands(equation)
        chain = _longest(
            _prefixes((equation, *_following(flow, equation.outputs[0]))),
            lambda chain: (
                _is_per_channel(flow, chain[-1])
                and _scales(flow, chain)
                and _keeps_axes(chain)
                and len(_axes_at_end(flow, chain)) <= 1
            ),
        )
        if chain and not _is_product(flow, start):
            inside.update(chain)
            yield Operation(Affine(), chain, (start, *_constants(flow, chain)), chain[-1].outputs)


def _after(flow: Dataflow, layer: Equation) -> _Chain:
    """The batch norm of the result of a layer, or nothing."""
    kind, weight = _weight(flow, layer)
    carried = set(kind.carried(layer, weight))
    return _longest(
        _prefixes(_following(flow, layer.outputs[0])),
        lambda chain: (
            _is_per_channel(flow, chain[-1])
            and _scales(flow, chain)
            and _axes_at_start(flow, chain) <= carried
        ),
    )


def _before(flow: Dataflow, layer: Equation, taken: Set[Equation]) -> _Chain:
    """The batch norm of the argument of a layer, or nothing."""
    kind, weight = _weight(flow, layer)
    met = set(kind.contracted(layer, weight))
    (argument,) = flow.operands(layer)
    chain = tuple(itertools.takewhile(lambda e: e not in taken, _preceding(flow, argument)))[::-1]
    return _longest(
        (chain[n:] for n in range(len(chain))),
        lambda chain: (
            _is_per_channel(flow, chain[0])
            and _scales(flow, chain)
            and not _is_product(flow, flow.operands(chain[0])[0])
            and _axes_at_end(flow, chain) <= met
        ),
    )


def _weight(flow: Dataflow, layer: Equation) -> tuple[Contraction, int]:
    """What is known of a layer, and the position of its weight."""
    kind = registry.lookup(layer.primitive)
    assert isinstance(kind, Contraction)
    return kind, 1 - [atom in flow.dependent for atom in layer.inputs].index(True)


def _longest(candidates: Iterator[_Chain], fits: Callable[[_Chain], bool]) -> _Chain:
    return next(filter(fits, candidates), ())


def _prefixes(chain: Iterable[Equation]) -> Iterator[_Chain]:
    whole = tuple(chain)
    return (whole[:n] for n in range(len(whole), 0, -1))


def _following(flow: Dataflow, value: Value) -> Iterator[Equation]:
    """What alone is done with a value, as long as it is affine or a move."""
    while value not in flow.graph.explained_outputs:
        uses = flow.consumers(value)
        if len(uses) != 1 or not _goes_on(flow, uses[0]):
            return
        yield uses[0]
        (value,) = uses[0].outputs


def _preceding(flow: Dataflow, value: Value) -> Iterator[Equation]:
    """What a value is made of, the last first, as long as it is affine or a move."""
    while True:
        equation = flow.producer(value)
        if equation is None or not _goes_on(flow, equation):
            return
        yield equation
        (value,) = flow.operands(equation)


def _goes_on(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation is an affine map of each entry of one value, or a move of them all."""
    if len(flow.operands(equation)) != 1 or len(equation.outputs) != 1:
        return False
    if is_move(equation):
        return len(equation.inputs) == 1 and _groups(equation) is not None
    kind = registry.lookup(equation.primitive)
    (value,) = flow.operands(equation)
    affine = isinstance(kind, Addition | Multiplication | Negation)
    affine = affine or (isinstance(kind, Division) and equation.inputs[0] is value)
    return (
        affine
        and value.shape == equation.outputs[0].shape
        and not any(_is_touched(flow, atom) for atom in equation.inputs if atom is not value)
    )


def _is_per_channel(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation scales or shifts by an array, and not by one number."""
    if not _goes_on(flow, equation) or is_move(equation):
        return False
    return any(not _is_number(flow, a) for a in equation.inputs if a not in flow.dependent)


def _scales(flow: Dataflow, chain: _Chain) -> bool:
    kinds = (
        registry.lookup(equation.primitive) for equation in chain if _is_per_channel(flow, equation)
    )
    return any(isinstance(kind, Multiplication | Division) for kind in kinds)


def _is_touched(flow: Dataflow, atom: Atom) -> bool:
    """Whether it was computed from the input, also if that was outside of a body or cut off."""
    if atom in flow.touched or not atom.touched or flow.producer(atom) is None:
        return atom in flow.touched or atom.touched
    # As it was traced; what is read may have lost that, as by a condition that is always the same.
    behind = [a for maker in flow.makers_behind(atom) for a in maker.inputs]
    return any(a in flow.touched or (a.touched and flow.producer(a) is None) for a in behind)


def _is_product(flow: Dataflow, value: Value) -> bool:
    """Whether a value is a product or quotient of two computed from the input: normalised.

    Or made of such alone, as ``x / s - mean / s``, perhaps with weights of its own.
    """
    equation = flow.producer(flow.origin(value)[0])
    operands = [] if equation is None else flow.operands(equation)
    if equation is None or not operands:
        return False
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Multiplication | Division):
        if all(_is_touched(flow, atom) for atom in equation.inputs):
            return True
    if equation.name == "select_n":  # What is not divided where there is nothing to divide by.
        return any(_is_product(flow, operand) for operand in operands)
    # Groups that are put side by side; weights and signs.
    together = isinstance(kind, Addition) or equation.name in ("concatenate", "stack")
    if together or _goes_on(flow, equation):
        return all(_is_product(flow, operand) for operand in operands)
    return False


def _constants(flow: Dataflow, chain: _Chain) -> list[Value]:
    """What a chain reads besides what it is applied to."""
    atoms = [a for e in chain for a in e.inputs if isinstance(a, Value) and a not in flow.dependent]
    return list(dict.fromkeys(atoms))


# Along which axes the constants of a chain vary.


def _axes_at_end(flow: Dataflow, chain: _Chain) -> set[int | None]:
    """In the result of the chain."""
    axes: set[int | None] = set()
    for equation in chain:
        if is_move(equation):
            axes = {o for ins, outs in _groups(equation) or () if axes & {*ins} for o in outs}
        axes |= _own_axes(flow, equation)
    return axes


def _axes_at_start(flow: Dataflow, chain: _Chain) -> set[int | None]:
    """In what the chain is applied to."""
    axes: set[int | None] = set()
    for equation in reversed(chain):
        if is_move(equation):
            axes = {i for ins, outs in _groups(equation) or () if axes & {*outs} for i in ins}
        axes |= _own_axes(flow, equation)
    return axes


def _keeps_axes(chain: _Chain) -> bool:
    """Whether each entry of the result stands where the entry stood that it was made of."""
    where = [frozenset((axis,)) for axis in range(len(chain[0].outputs[0].shape))]
    for equation in chain:
        if is_move(equation):
            moved = [frozenset[int]()] * len(equation.outputs[0].shape)
            for ins, outs in _groups(equation) or ():
                for axis in outs:
                    moved[axis] = frozenset().union(*(where[i] for i in ins))
            where = moved
    sizes = chain[0].outputs[0].shape
    same = sizes == chain[-1].outputs[0].shape
    return same and all(axes == {i} for i, axes in enumerate(where) if sizes[i] != 1)


def _own_axes(flow: Dataflow, equation: Equation) -> set[int]:
    atoms = [] if is_move(equation) else [a for a in equation.inputs if a not in flow.dependent]
    return {axis for atom in atoms for axis in _varying(flow, atom)}


def _varying(flow: Dataflow, atom: Atom) -> set[int]:
    """The axes along which a constant may vary: those that it wasn't broadcast along."""
    equation = flow.producer(atom)
    every = {axis for axis, size in enumerate(atom.shape) if size != 1}
    if equation is None or len(equation.outputs) != 1:
        return every
    if equation.name == "broadcast_in_dim":
        (inner, *_) = equation.inputs
        to = equation.params["broadcast_dimensions"]
        return {to[axis] for axis in _varying(flow, inner)} & every
    if is_elementwise(equation) and not equation.bodies:
        same = (a for a in equation.inputs if len(a.shape) == len(atom.shape))
        return {axis for a in same for axis in _varying(flow, a)}
    groups = _groups(equation) if len(equation.inputs) == 1 else None
    if groups is None:
        return every
    inner = _varying(flow, equation.inputs[0])
    return {o for ins, outs in groups if inner & {*ins} for o in outs}


def _is_number(flow: Dataflow, atom: Atom) -> bool:
    """Whether a constant is one number, perhaps broadcast."""
    if atom.shape == ():
        return True
    equation = flow.producer(atom)
    if equation is None or isinstance(atom, Literal):
        return False
    return (is_move(equation) or is_elementwise(equation)) and all(
        _is_number(flow, a) for a in equation.inputs
    )


def _groups(equation: Equation) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Axes of an operand, each group with the axes of the result that it becomes.

    None for what does more than to rename, reorder, split and join axes.
    """
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    if equation.name == "transpose":
        return [((i,), (o,)) for o, i in enumerate(equation.params["permutation"])]
    if equation.name == "broadcast_in_dim":
        to = equation.params["broadcast_dimensions"]
        if all(size == 1 for axis, size in enumerate(after) if axis not in to) and before == tuple(
            after[axis] for axis in to
        ):
            return [((i,), (o,)) for i, o in enumerate(to)]
        return None
    if equation.name in ("reshape", "squeeze", "expand_dims"):
        return _split_and_joined(before, after)
    if is_elementwise(equation) and before == after:
        return [((i,), (i,)) for i in range(len(before))]
    return None


def _split_and_joined(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes of two shapes of one size, in groups that hold the same numbers."""

    def within(shape: Sequence[int], low: int, high: int) -> tuple[int, ...]:
        upto = list(itertools.accumulate(shape, operator.mul, initial=1))
        inside = (low <= a and b <= high for a, b in itertools.pairwise(upto))
        return tuple(axis for axis, here in enumerate(inside) if here and shape[axis] != 1)

    sizes = (set(itertools.accumulate(s, operator.mul, initial=1)) for s in (before, after))
    cuts = sorted(set.intersection(*sizes))
    return [(within(before, *cut), within(after, *cut)) for cut in itertools.pairwise(cuts)]
