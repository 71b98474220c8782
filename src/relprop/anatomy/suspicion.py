"""What looks like a known block and was not recognised: told, never guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from relprop._core import registry
from relprop._core.graph import Atom, Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Suspicion, place
from relprop.anatomy.decays import of_states
from relprop.anatomy.statistics import own_statistic
from relprop.anatomy.wiring import Wiring

_ROOTS = ("rsqrt", "sqrt")
_EXPONENTIALS = ("exp", "exp2", "logistic")
#: What sums up entries of one value, though it is no reduction.
_COLLECTING = ("scatter-add", "scan", "while")
_RANDOM = ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform")
#: What can be done about each kind.
REMEDIES = {
    "softmax or normalisation?": (
        "write a softmax or a norm as `jax.nn` or your framework does, or give the quotient a rule"
    ),
    "normalisation?": "keep the root that divides apart from the one that is read as a value",
    "gate?": "a product goes in equal parts to its factors; another rule can be given to it",
    "dropout?": "explain the model as it is when it is evaluated",
}


def suspicions(wiring: Wiring) -> Iterator[Suspicion]:
    """Quotients and products that remind of softmax, normalisation or activation."""
    chance = _random_values(wiring)
    states: set[Value] | None = None
    told: set[Step] = set()
    for step in wiring.steps:
        if step.off_path:
            continue
        found = _of_a_sum(wiring, step) or _of_itself(wiring, step, told)
        if found is not None:
            told.add(step)
            yield _suspicion(step, *found)
        elif step.structure == "product" and _are_activations(wiring, step):
            states = of_states(wiring) if states is None else states
            if states.isdisjoint(step.operation.outputs):
                reason = "a product of two activations: which is the gate?"
                yield _suspicion(step, "gate", reason)
        elif _is_random(wiring, step, chance):
            yield _suspicion(step, "dropout", "random numbers change a value: a training mode?")


def _of_a_sum(wiring: Wiring, step: Step) -> tuple[str, str] | None:
    """What a step reminds of that divides by a sum, takes its root or its logarithm away."""
    if step.structure == "quotient":
        above, below = wiring.active(step)[0], wiring.active(step)[-1]
        if _sums(wiring, below) and _share(wiring, above, below):
            reason = "a quotient whose denominator is a sum over the input"
            return "softmax or normalisation", reason
    elif step.structure == "activation" and step.primitive in _EXPONENTIALS:
        if _less_a_logarithm(wiring, step):
            reason = "an exponential less the logarithm of a sum that may not be that of its own"
            return "softmax or normalisation", reason
    elif step.structure == "activation" and step.primitive in _ROOTS:
        if _sums(wiring, wiring.active(step)[0]) and _divides_its_own(wiring, step):
            return "normalisation", "the root of a sum, which does more than divide"
    return None


def _of_itself(wiring: Wiring, step: Step, told: Set[Step]) -> tuple[str, str] | None:
    """What a step reminds of that scales a value by something computed from its own entries."""
    if step.structure not in ("product", "quotient"):
        return None
    passed = own_statistic(wiring, step)
    if not passed or not told.isdisjoint(passed):
        return None
    names = {e.name for s in passed for e in s.operation.equations}
    kind = "softmax or normalisation" if names & {*_EXPONENTIALS} else "normalisation"
    return kind, "a value times a statistic of its own entries"


def _less_a_logarithm(wiring: Wiring, step: Step) -> bool:
    """Whether the logarithm of something that a value has a part in is taken from that value."""
    difference = wiring.maker(wiring.origin(wiring.active(step)[0], "structural", "scale"))
    if difference is None or difference.primitive != "sub" or len(wiring.active(difference)) != 2:
        return False
    value, taken = wiring.active(difference)
    makers = map(wiring.maker, _behind(wiring, taken, (*_BY_ENTRY, "maximum")))
    logarithms = [m for m in makers if m and (m.structure == "logsumexp" or m.primitive == "log")]
    return bool(logarithms) and _share(wiring, value, taken)


def _are_activations(wiring: Wiring, step: Step) -> bool:
    makers = [wiring.maker(wiring.origin(a, "structural")) for a in wiring.active(step)]
    elementwise = step.operation.propagator.elementwise and len(makers) == 2
    return elementwise and all(m is not None and m.structure == "activation" for m in makers)


def _random_values(wiring: Wiring) -> set[Atom]:
    """The constants of a plan that chance has a part in."""
    found: set[Atom] = set()
    for equation in wiring.plan.graph.equations:
        if equation.name in _RANDOM or any(atom in found for atom in equation.inputs):
            found.update(out for out in equation.outputs if out not in wiring.plan.active)
    return found


def _is_random(wiring: Wiring, step: Step, chance: set[Atom]) -> bool:
    """Whether a value is scaled or selected by chance."""
    if step.structure not in ("scale", "structural") or len(step.operation.inputs) < 2:
        return False
    return any(constant in chance for constant in wiring.constants(step))


def _suspicion(step: Step, kind: str, reason: str) -> Suspicion:
    return Suspicion(kind=f"{kind}?", **place(step), reason=reason)  # type: ignore[arg-type]


def _divides_its_own(wiring: Wiring, root: Step) -> bool:
    """Whether a root divides something that it was computed from, among other things."""
    queue, seen = list(root.operation.outputs), set()
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        for reader in wiring.readers(value):
            operands = wiring.active(reader)
            if reader.structure in ("quotient", "product", "gate") and len(operands) == 2:
                others = [a for a in operands if a is not value]
                if any(_share(wiring, other, value) for other in others):
                    return True
            elif reader.structure in ("structural", "offset", "scale", "activation", "maximum"):
                queue.extend(reader.operation.outputs)
    return False


def _share(wiring: Wiring, above: Value, below: Value) -> bool:
    """Whether a value is linear in something that another one was computed from."""
    among = _behind(wiring, below, (*_BY_ENTRY, *_COLLECTED))
    return not among.isdisjoint(_behind(wiring, above, (*_LINEAR, "activation")))


_COLLECTED = ("average", "product", "logsumexp", "scan", "while")
_BY_ENTRY = ("structural", "scale", "offset", "activation", "sum")
_LINEAR = ("structural", "scale", "offset", "sum", "average", "linear")


def _behind(wiring: Wiring, value: Value, structures: tuple[str, ...]) -> set[Value]:
    """A value and all behind it, as far as steps of some structures lead."""
    found: set[Value] = set()
    queue = [value]
    while queue:
        value = queue.pop()
        if value in found:
            continue
        found.add(value)
        step = wiring.maker(value)
        if step is not None and step.structure in structures:
            queue.extend(wiring.active(step))
    return found


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
        equation = step.operation.equations[0]
        if registry.lookup(equation.primitive).reduces or equation.name in _COLLECTING:
            return True
        if step.structure == "sum" and _meet(wiring, wiring.active(step)):
            return True
        if step.structure in _BY_ENTRY:
            queue.extend(wiring.active(step))
    return False


def _meet(wiring: Wiring, parts: Sequence[Value]) -> bool:
    """Whether summands are entries of one value."""
    seen: set[Value] = set()
    for part in parts:
        own = _behind(wiring, part, _BY_ENTRY)
        if not seen.isdisjoint(own):
            return True
        seen |= own
    return False
