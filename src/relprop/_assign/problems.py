"""What can be wrong with a plan: rules that are missing or don't apply, cuts, idle selections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relprop._assign.ordinals import Chosen
from relprop._core import registry
from relprop._core.cuts import Ways
from relprop._core.graph import Equation, Graph
from relprop._core.plan import Plan, Step
from relprop._core.trace import Trace
from relprop._errors import InputError, MissingRuleError, NothingMatchedError, RuleError
from relprop.composites import Composite
from relprop.propagators.general import Kernel

_HINTS = {
    "while": (
        "how often a while loop runs is known only afterwards; use `lax.scan`, or `fori_loop` "
        "with bounds that are Python numbers"
    ),
    "cut": "no relevance passes here",
}
_KERNEL_HINT = (
    "what it does cannot be seen: explain the model with its plain JAX version (such as "
    '`implementation="xla"`), or give the `jax.custom_vjp` function or `relprop.region` around it '
    "a rule as a whole"
)

#: What to do about a cut.
CUT_REMEDY = (
    "choose a score before it, explain the value after it, or give it a derivative, as "
    "straight-through estimators have, with a `jax.custom_vjp` function around it"
)


def check_mutation(graph: Graph) -> None:
    """Refuses arrays that are changed in place, wherever they are."""
    found = [f"  {e.name}\n      at {e.source}" for e in _all_equations(graph) if _mutates(e)]
    if found:
        raise MissingRuleError(
            "The function changes arrays in place, so that what depends on what cannot be seen:\n"
            + "\n".join(found)
            + "\nReturn new arrays instead, as `x.at[...].set(...)` does."
        )


def _all_equations(graph: Graph) -> Iterator[Equation]:
    for equation in graph.equations:
        yield equation
        for body in equation.bodies:
            yield from _all_equations(body)


def _mutates(equation: Equation) -> bool:
    return registry.lookup(equation.primitive).mutates


def check_constants(plan: Plan, outputs: list[bool]) -> None:
    """Refuses rules that leave nothing to explain."""
    explained = [o for o, on in zip(plan.graph.outputs, outputs, strict=True) if on]
    detached = [_describe(s) + f"\n      {s.rule}" for s in plan.walk() if s.detaches]
    if not detached or any(out in plan.active for out in explained):
        return
    raise RuleError(
        "Rules take as constants all that connects the inputs with the score:\n"
        + "\n".join(detached)
        + "\nGive them another rule, or explain what goes into them: logits rather than "
        "probabilities."
    )


def check_cuts(trace: Trace, plan: Plan, outputs: list[bool]) -> None:
    """Refuses functions whose score is computed from the explained inputs by way of cuts only."""
    explained = [o for o, on in zip(plan.graph.outputs, outputs, strict=True) if on and o.inexact]
    if any(out in plan.active for out in explained):
        return
    ways = Ways.of(plan, trace.explained_values)
    cuts = {e: None for out in explained if out in ways.severed for e in ways.severed[out].cuts}
    if cuts:
        lines = [f"  {cut.name}{_in_scope(cut.scope)}\n      at {cut.source}" for cut in cuts]
        raise MissingRuleError(
            f"Every way from the explained inputs to the score ends at one of {len(cuts)} "
            "operation(s) that no relevance passes:\n"
            + "\n".join(lines)
            + f"\nTo be explained, {CUT_REMEDY}."
        )


def _in_scope(scope: str) -> str:
    return f" in {scope}" if scope else ""


def check_rules(plan: Plan) -> None:
    """Refuses operations without a rule, and rules that do not apply."""
    missing: list[str] = []
    endless: list[str] = []
    refused: list[str] = []
    uncredited: list[str] = []
    for step in plan.walk(off_path=True):
        if step.missing:
            (endless if step.structure == "while" else missing).append(
                _describe(step) + _hint(step)
            )
        elif step.rule is not None:
            problem = step.rule.problem(step.operation, step.active)
            if problem and step.structure == "while":
                endless.append(_describe(step) + _hint(step))
            elif problem:
                refused.append(f"{_describe(step)}\n      {step.rule}: {problem}.")
            elif any(step.credited):
                problem = step.rule.credit_problem(step.operation, step.active, step.credited)
                if problem:
                    uncredited.append(f"{_describe(step)}\n      {step.rule}: {problem}.")
    if missing or endless:
        raise MissingRuleError(_missing_message(missing, endless))
    if refused:
        raise RuleError(
            f"{len(refused)} operation(s) got a rule that cannot be applied to them:\n"
            + "\n".join(refused)
            + "\nGive them another rule with `composite.at(...).use(...)`; the first match wins."
        )
    if uncredited:
        raise InputError(
            f"{len(uncredited)} operation(s) read parameters that are to be credited with "
            "relevance, and have no rule that says with how much:\n"
            + "\n".join(uncredited)
            + "\nLeave those parameters out, or give the operations another rule."
        )


def check_selections(composite: Composite, chosen: Chosen, plan: Plan) -> None:
    """Refuses selections that got no operation."""
    used = {composite.find(step, chosen)[0] for step in plan.walk()}
    idle = [
        entry
        for number, entry in enumerate(composite.entries)
        if number not in used and not entry.optional
    ]
    if not idle:
        return
    present = sorted({f"{step.structure} ({step.primitive})" for step in plan.walk()})
    lines = "\n".join(f"  {entry.where} -> {entry.rule}" for entry in idle)
    raise NothingMatchedError(
        f"{len(idle)} selection(s) got no operation, because none matches or an earlier selection "
        f"took all that do:\n{lines}\nThe function has: {', '.join(present) or 'no operations'}. "
        "`relprop.inspect(f, rules)(*args)` lists them; `at(..., optional=True)` allows it."
    )


def _describe(step: Step) -> str:
    shapes = ", ".join(
        f"{atom!r}" if on else f"({_dtype(atom)}{list(atom.shape)})"
        for atom, on in zip(step.operation.inputs, step.active, strict=True)
    )
    return f"  {step.primitive}: {shapes}{_in_scope(step.scope)}\n      at {step.source}"


def _dtype(atom: Any) -> str:
    return str(atom.dtype)


def _hint(step: Step) -> str:
    if isinstance(step.operation.propagator, Kernel):
        hint = _KERNEL_HINT
    else:
        hint = _HINTS.get(step.structure or "", "")
    return f"\n      {hint}." if hint else ""


def _missing_message(missing: list[str], endless: list[str]) -> str:
    """What to say of operations without a rule, and of loops, which no rule can be given to."""
    advice = (
        "Name a rule with `Composite().at(primitive=...).use(rule)`, teach relprop the "
        "primitive with `relprop.propagators.register`, or accept gradient times input for "
        'all of them with `on_missing="gradient"`.'
    )
    if endless:
        but = "No rule can pass a while loop, nor does its gradient exist: write it"
        around = (
            "in one of these forms, or give the function with a derivative of its own around it "
            '(as `odeint` has) a rule as a whole, `.at(structure="custom_derivative").use(Zero())`.'
        )
        advice = f"{advice} {but} {around}" if missing else f"{but} {around}"
    return (
        f"{len(missing) + len(endless)} operation(s) on the way from the explained inputs to the "
        "score have no rule (operands in brackets do not depend on the inputs):\n"
        + "\n".join([*missing, *endless])
        + f"\n{advice}"
    )
