"""Values that are scaled by a statistic of themselves: a normalisation, whatever its functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from relprop._core import registry
from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.wiring import Wiring
from relprop.propagators.linear import Dense
from relprop.propagators.sums import ScatteredSum, WindowSum

# What a statistic is computed by: nothing of this has weights, or is something known.
_PASSED = (
    "structural",
    "scale",
    "offset",
    "sum",
    "average",
    "linear",
    "activation",
    "maximum",
    "product",
    "quotient",
    "logsumexp",
    "gate",
)
_BENT = ("activation", "product", "quotient", "logsumexp", "gate")
# A statistic of more steps is none.
_MOST = 200


def own_statistic(wiring: Wiring, step: Step) -> list[Step]:
    """The steps of the statistic by which a product or quotient scales what it is one of."""
    operands = wiring.active(step)
    if len(operands) != 2 or not step.operation.propagator.elementwise or len({*operands}) < 2:
        return []
    sides = [operands] if step.structure == "quotient" else [operands, operands[::-1]]
    for value, scale in sides:
        among = _linear_in(wiring, value)
        for source, passed in _sources(wiring, scale):
            if source in among:
                return passed
    return []


def _linear_in(wiring: Wiring, value: Value) -> set[Value]:
    """A value and all that it is linear in."""
    found: set[Value] = set()
    queue = [value]
    while queue and len(found) < _MOST:
        value = queue.pop(0)
        step = wiring.maker(value)
        if value in found:
            continue
        found.add(value)
        if step is not None and step.structure in ("structural", "scale", "offset", "sum"):
            queue.extend(wiring.active(step))
    return found


def _sources(wiring: Wiring, value: Value) -> Iterator[tuple[Value, list[Step]]]:
    """Values that another one is a statistic of: it is a function of one of them alone."""
    waiting = {value}
    passed: list[Step] = []
    while len(passed) < _MOST:
        makers = [step for v in waiting if (step := wiring.maker(v)) is not None]
        if len(makers) < len(waiting) - 1:
            return  # Nothing makes an input; two of them are two sources.
        if len(waiting) == 1:
            (source,) = waiting
            if _collects(wiring, passed, source) and any(s.structure in _BENT for s in passed):
                yield source, passed
        if not makers:
            return
        last = max(makers, key=wiring.order)
        if last.structure not in _PASSED:
            return
        passed.append(last)
        waiting = (waiting - {*last.operation.outputs}) | {*wiring.active(last)}


def _collects(wiring: Wiring, passed: Collection[Step], source: Value) -> bool:
    """Whether some steps bring entries of a value together."""
    taken = [s for s in passed if s.structure == "structural" and wiring.active(s) == [source]]
    # Parts that are only put together again, as by a roll, are still apart.
    joined = any(len(wiring.active(s)) > 1 for s in passed if s.structure != "structural")
    return (len(taken) > 1 and joined) or any(map(_reduces, passed))


def _reduces(step: Step) -> bool:
    """Whether a step adds up entries."""
    kinds = [registry.lookup(equation.primitive) for equation in step.operation.equations]
    if any(isinstance(kind, Dense) for kind in kinds):
        return step.structure == "product"
    return any(kind.reduces or isinstance(kind, WindowSum | ScatteredSum) for kind in kinds)
