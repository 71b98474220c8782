"""Gates: what opens and closes for something else, as in SwiGLU, GEGLU, LSTM and GRU.

A gate is told by what it is as a function, and not by how it is written: a sigmoid is one that
rises or falls between zero and some limit. In a gated linear unit, any activation of one layer is a
gate for another layer of the same input. What a sigmoid opens for may be a constant, as the first
state of a recurrence is; a mere scale of its result is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop._core.operation import Operation
from relprop._core.registry import operation_of
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation
from relprop.propagators.recognised import GatedProduct
from relprop.propagators.sums import Sum
from relprop.recognise.activation import activations, is_relu, joins
from relprop.recognise.average import averages
from relprop.recognise.dataflow import Dataflow, is_elementwise, is_move
from relprop.recognise.normaliser import normalisers
from relprop.recognise.probe import probed
from relprop.recognise.softmax import softmaxes

_SIGMOID, _ACTIVATION = 2, 1
# A square or an exponential by itself is no activation that opens and closes.
_NONE = ("exp", "exp2", "log", "square", "integer_pow", "sqrt", "rsqrt", "abs", "sin", "cos", "pow")


def gates(flow: Dataflow) -> Iterator[Operation]:
    """Each product of two values of which one is a gate, or the more gate-like one."""
    ends = {operation.last: operation for operation in flow.found(joins)}
    both = _functions(flow)
    taken = {op.last for find in (softmaxes, normalisers, averages) for op in flow.found(find)}
    rooted = _of_normalisers(flow)
    for equation in flow.equations:
        kind = registry.lookup(equation.primitive)
        operands = flow.operands(equation)
        # A product inside an activation, such as x * sigmoid(x), is no gate.
        if not isinstance(kind, Multiplication) or equation in ends or equation in taken:
            continue
        # Nor is one by a normaliser: an activation that is normalised opens for nothing.
        if any(operand in rooted for operand in operands):
            continue
        scores = [_gatedness(flow, both, operand) for operand in operands]
        if len(operands) == 2 and scores[0] != scores[1]:
            gate, signal = sorted(operands, key=lambda a: -scores[operands.index(a)])
            # A share of a softmax is no signal: the weight of an expert that has an activation.
            opens = _of_one_source(flow, both, gate, signal) and not _is_share(flow, signal)
            if max(scores) == _SIGMOID or opens:
                yield Operation(GatedProduct(), (equation,), (gate, signal), equation.outputs)
        elif len(operands) == 1 and scores == [_SIGMOID]:
            (gate,) = operands
            (signal,) = [a for a in equation.inputs if a is not gate] or [gate]
            if _is_signal(flow, signal, equation):
                yield Operation(GatedProduct(), (equation,), (gate, signal), equation.outputs)


def _functions(flow: Dataflow) -> dict[Equation, Operation]:
    """The functions of the entries of one value, by the equation that completes them."""
    known = flow.memory.setdefault("functions", {})
    if not known:
        known.update((op.last, op) for find in (joins, activations) for op in flow.found(find))
    return known


def _is_share(flow: Dataflow, atom: Atom) -> bool:
    """Whether a value is a softmax, or entries of one, also scaled, chosen or added up."""
    known = flow.memory.setdefault("shares", {})
    if not known:
        known.update((op.last, True) for op in flow.found(softmaxes))
    while True:
        if atom in flow.beyond:
            flow, atom = flow.beyond[atom]
            return _is_share(flow, atom)
        equation = flow.producer(atom)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or equation in known:
            return equation in known
        kind = registry.lookup(equation.primitive)
        links = is_move(equation) or isinstance(kind, Multiplication | Division | Sum)
        if len(operands) != 1 or not (links or equation.name == "select_n"):
            return False
        (atom,) = operands


def _of_normalisers(flow: Dataflow) -> set[Atom]:
    """Normalisers, and functions of one of them, entry by entry."""
    roots = {operation.last for operation in flow.found(normalisers)}
    found: set[Atom] = set()
    for equation in flow.equations:
        operands = flow.operands(equation)
        alone = len(operands) == 1 and operands[0] in found
        if equation in roots or (alone and (is_move(equation) or is_elementwise(equation))):
            found.update(equation.outputs)
    return found


def _gatedness(flow: Dataflow, ends: Mapping[Equation, Operation], atom: Atom) -> int:
    """2 for a sigmoid, 1 for another activation, 0 for everything else."""
    known: dict[Atom, int] = flow.memory.setdefault("gatedness", {})
    passed: list[Atom] = []
    while atom not in known:
        passed.append(atom)
        found = _gatedness_or_before(flow, ends, atom)
        if isinstance(found, int):
            known[atom] = found
        else:
            atom = found
    known.update(dict.fromkeys(passed, known[atom]))
    return known[atom]


def _gatedness_or_before(
    flow: Dataflow, ends: Mapping[Equation, Operation], atom: Atom
) -> int | Atom:
    """As `_gatedness`; or of a value that is another one, limited, scaled or moved, that one."""
    if atom in flow.beyond:
        around, value = flow.beyond[atom]
        return _gatedness(around, _functions(around), value) if around.depends(value) else 0
    equation = flow.producer(atom)
    operands = [] if equation is None else flow.operands(equation)
    if equation is None or not operands:
        return 0
    operation = ends.get(equation)
    if operation is None and len(operands) == 1 and is_elementwise(equation):
        operation = operation_of(equation)
    if operation is not None and _is_sigmoid(flow, operation):
        return _SIGMOID
    if equation in ends:
        if not _only_limits(ends[equation]):
            return _ACTIVATION
        return operands[0] if len(operands) == 1 else ends[equation].inputs[0]
    if len(operands) != 1:
        return 0
    # Moves, factors and offsets: `1 - z` is a gate if z is.
    kind = registry.lookup(equation.primitive)
    affine = isinstance(kind, Addition | Multiplication | Negation)
    affine = affine or (isinstance(kind, Division) and equation.inputs[0] is operands[0])
    limit = equation.name in ("min", "clamp") or (equation.name == "max" and not is_relu(equation))
    squared = equation.name == "square" or equation.params.get("y") in (2, 3)
    if not (affine or is_move(equation) or limit or squared):
        nonlinear = is_elementwise(equation) and equation.name not in _NONE
        return _ACTIVATION if nonlinear else 0
    return operands[0]


def _only_limits(operation: Operation) -> bool:
    """Whether a function does nothing but limiting, scaling and shifting, and is no ReLU."""
    names = ("max", "min", "clamp", "add", "sub", "mul", "div", "neg", "convert_element_type")
    return all(e.name in names and not is_relu(e) for e in operation.equations)


def _is_sigmoid(flow: Dataflow, operation: Operation) -> bool:
    """Whether a function only rises or only falls, between zero and some limit."""
    curve = flow.memory.setdefault("probed", {})
    if operation.last not in curve:
        curve[operation.last] = probed(operation, flow.number)
    values = curve[operation.last]
    if values is None:
        return False
    largest = np.abs(values).max()
    steps = np.diff(values)
    tolerance = 1e-5 * largest
    level = max(abs(steps[0]), abs(steps[1]), abs(steps[-1]), abs(steps[-2])) <= 1e-2 * largest
    monotone = bool((steps >= -tolerance).all() or (steps <= tolerance).all())
    one_sided = values.min() >= -tolerance or values.max() <= tolerance
    from_zero = min(abs(values[0]), abs(values[-1])) <= 1e-2 * largest
    return bool(largest > 0 and level and monotone and one_sided and from_zero)


def _of_one_source(
    flow: Dataflow, ends: Mapping[Equation, Operation], gate: Value, signal: Value
) -> bool:
    """Whether the signal is computed from the argument of the layer that the gate is one of.

    The gate may be an activation of a layer of another activation, and so on, as the wider
    contexts of focal modulation are: then from the argument of any of these layers.
    """
    atom: Atom = gate
    sources: set[Atom] = set()
    inner = flow
    for _ in range(64):
        if atom in flow.beyond and flow.producer(atom) is None:
            flow, atom = flow.beyond[atom]
            ends = _functions(flow)
        equation = flow.producer(atom)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or not operands:
            break
        one = len(operands) == 1
        if sources and equation in ends:
            atom = ends[equation].inputs[0]
            continue
        atom = operands[0]
        if isinstance(registry.lookup(equation.primitive), Contraction) and one:
            sources.add(flow.origin(atom)[0])
        elif sources and not (one and (is_move(equation) or is_elementwise(equation))):
            break
    sources = sources or {flow.origin(atom)[0]}
    return _leads(inner, sources, signal)


def _leads(flow: Dataflow, sources: set[Atom], atom: Atom) -> bool:
    """Whether a value is one of some values or computed from them, here or around."""
    if atom in sources or flow.leads(sources, atom):
        return True
    if not flow.beyond:
        return False
    places = [flow.beyond[a] for a in (atom, *flow.behind(atom)) if a in flow.beyond]
    return any(around.depends(a) and _leads(around, sources, a) for around, a in places)


def _is_signal(flow: Dataflow, atom: Atom, product: Equation) -> bool:
    """Whether a constant is what a gate opens for, and not a scale of the gate.

    It is if it was computed by a layer, from a constant state; or if it is an array that is then
    added to something else that depends on the inputs.
    """
    if flow.is_number(atom) or not atom.shape:
        return False
    if any(isinstance(registry.lookup(e.primitive), Contraction) for e in flow.makers_behind(atom)):
        return True
    value = product.outputs[0]
    while True:
        uses = flow.consumers(value)
        if len(uses) != 1:
            return False
        (use,) = uses
        kind = registry.lookup(use.primitive)
        if isinstance(kind, Addition) and len(flow.operands(use)) == 2:
            return True
        link = is_move(use) or isinstance(kind, Addition | Negation)
        if not link or len(flow.operands(use)) != 1:
            return False
        (value,) = use.outputs
