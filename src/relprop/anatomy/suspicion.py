"""What looks like a known block and was not recognised: told, never guessed."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.plan import Step
from relprop.anatomy.blocks import Suspicion, place
from relprop.anatomy.wiring import Wiring

_ROOTS = ("rsqrt", "sqrt")
_RANDOM = ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform")


def suspicions(wiring: Wiring) -> Iterator[Suspicion]:
    """Quotients and products that remind of softmax, normalisation or activation."""
    for step in wiring.steps:
        if step.structure == "quotient":
            below = wiring.active(step)[-1]
            if _sums(wiring, below):
                kind = "softmax or normalisation"
                reason = "a quotient whose denominator is a sum over the input"
                yield _suspicion(step, kind, reason)
        elif step.structure == "activation" and step.primitive in _ROOTS:
            if _sums(wiring, wiring.active(step)[0]):
                yield _suspicion(
                    step, "normalisation", "the root of a sum, which does more than divide"
                )
        elif step.structure == "product" and _are_activations(wiring, step):
            yield _suspicion(step, "gate", "a product of two activations: which is the gate?")
        elif _is_random(wiring, step):
            yield _suspicion(step, "dropout", "random numbers change a value: a training mode?")


def _are_activations(wiring: Wiring, step: Step) -> bool:
    makers = [wiring.maker(wiring.origin(a, "structural")) for a in wiring.active(step)]
    elementwise = step.operation.propagator.elementwise and len(makers) == 2
    return elementwise and all(m is not None and m.structure == "activation" for m in makers)


def _is_random(wiring: Wiring, step: Step) -> bool:
    """Whether a value is scaled or selected by chance."""
    if step.structure not in ("scale", "structural") or len(step.operation.inputs) < 2:
        return False
    behind = (e for constant in wiring.constants(step) for e in wiring.behind(constant))
    return any(e.name in _RANDOM for e in behind)


def _suspicion(step: Step, kind: str, reason: str) -> Suspicion:
    return Suspicion(kind=f"{kind}?", **place(step), reason=reason)  # type: ignore[arg-type]


def _sums(wiring: Wiring, value) -> bool:
    """Whether a value is a sum over axes, but for what happens entry by entry."""
    seen = set()
    queue = [value]
    while queue:
        value = queue.pop()
        step = wiring.maker(value)
        if step is None or value in seen:
            continue
        seen.add(value)
        kind = registry.lookup(step.operation.equations[0].primitive)
        if kind.reduces:
            return True
        if step.structure in ("structural", "scale", "offset", "activation", "sum"):
            queue.extend(wiring.active(step))
    return False
