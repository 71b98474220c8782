"""From a composite and a traced function to a plan, with all that is wrong told at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import Any

from relprop._core import registry
from relprop._core.cuts import Ways, with_cuts
from relprop._core.graph import Atom, Equation, Graph, Value
from relprop._core.plan import Plan, Planner, Step, numbered, reach
from relprop._core.trace import Trace
from relprop._errors import InputError, MissingRuleError, NothingMatchedError, RuleError
from relprop.anatomy import anatomy_of
from relprop.composites import Composite
from relprop.places import Place, check_visible, hidden, located, parameters, sources
from relprop.propagators.general import Kernel
from relprop.reading import Readings
from relprop.recognise import recognise
from relprop.rules import Rule, Zero
from relprop.structures import DEFAULTS, recognisers

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


def assign(
    trace: Trace,
    composite: Composite,
    outputs: list[bool],
    on_missing: Any = "error",
    places: Sequence[Place] = (),
) -> Plan:
    """The plan for a traced function.

    Args:
        trace: the function.
        composite: the rules.
        outputs: per output of the graph, whether it is explained.
        on_missing: ``"error"``, ``"gradient"`` or a rule, for operations without one.
        places: where inside relevance is asked for.

    Raises:
        MissingRuleError: operations without a rule can be reached, or every way to the score ends
            at a cut; all are listed.
        RuleError: rules cannot be applied where the composite puts them; all are listed.
        NothingMatchedError: a selection matches nothing, or a place isn't there.
        InputError: a place has no relevance of its own, a mask does not fit, or what reads a
            parameter that is to be credited has no rule for that.
    """
    fallback = _fallback(on_missing)
    _check_mutation(trace.graph)
    extra = sources(trace.graph, places, trace.explained_values)
    credited = parameters(trace.graph, places, trace.explained_values)
    plan_with = functools.partial(
        _chosen_plan,
        trace,
        composite,
        outputs,
        fallback,
        (extra.keys(), credited.keys()),
        Readings(),
    )
    plan, chosen = plan_with()
    if places:
        around = hidden(located(plan, places, extra | credited))
        if around:
            # What is looked at may be no step inside of a chain of functions.
            plan, chosen = plan_with(around.keys())
    _check_constants(plan, outputs)
    if fallback is None and not composite.is_gradient:
        _check_cuts(trace, plan, outputs)
    used: set[int] = set()
    missing: list[str] = []
    refused: list[str] = []
    uncredited: list[str] = []
    for step in plan.walk(aside=True):
        number, _ = composite.find(step, chosen)
        if number is not None and not step.aside:
            used.add(number)
        if step.missing:
            missing.append(_describe(step) + _hint(step))
        elif step.rule is not None:
            problem = step.rule.problem(step.operation, step.active)
            if problem and step.structure == "while":
                missing.append(_describe(step) + _hint(step))
            elif problem:
                refused.append(f"{_describe(step)}\n      {step.rule}: {problem}.")
            elif any(step.credited):
                problem = step.rule.credit_problem(step.operation, step.active, step.credited)
                if problem:
                    uncredited.append(f"{_describe(step)}\n      {step.rule}: {problem}.")
    if missing:
        raise MissingRuleError(_missing_message(missing))
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
    _check_selections(composite, used, plan)
    if places:
        plan = located(plan, places, extra | credited)
        check_visible(plan)
    return plan


def anatomy(trace: Trace, outputs: list[bool]) -> Plan:
    """The plan in which all that depends on the inputs is in its place, whatever the rules."""
    return reach(anatomy_of(trace.graph, trace.explained_values, outputs), outputs)[0]


def _check_mutation(graph: Graph) -> None:
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


def _check_constants(plan: Plan, outputs: list[bool]) -> None:
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


def _check_cuts(trace: Trace, plan: Plan, outputs: list[bool]) -> None:
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


def _rule_aside(step: Step, rule: Rule | None) -> Rule | None:
    """The rule on the way to a parameter; where no other applies, gradient times value."""
    if rule is not None and rule.problem(step.operation, step.active):
        rule = DEFAULTS.get(step.structure or "")
    return Zero() if rule is None and not step.has_inside else rule


def _chosen_plan(
    trace, composite, outputs, fallback, beside, readings, visible=()
) -> tuple[Plan, Any]:
    """The plan, and which operation each entry with a position means.

    `beside` are the values explained beside the inputs, and the parameters that are credited.
    """
    plan_with = functools.partial(
        _plan, trace, composite, outputs, fallback, beside, readings, visible
    )
    chosen = _positions(composite, plan_with)
    return plan_with(chosen), chosen


def _plan(
    trace: Trace,
    composite: Composite,
    outputs: list[bool],
    fallback: Rule | None,
    beside: tuple[Set[Value], Set[Value]],
    readings: Readings,
    visible: Collection[Value],
    chosen: Sequence[set[Any] | None],
) -> Plan:
    def choose(step: Step) -> tuple[Rule | None, str]:
        _, rule = composite.find(step, chosen)
        if step.aside:
            return _rule_aside(step, rule), "parameters"
        if rule is None and not step.has_inside and fallback is not None:
            return fallback, "on_missing"
        return rule, step.operation.propagator.note

    found = functools.partial(
        recognise,
        recognisers=recognisers(composite.structures, composite.canonizers),
        visible=visible,
    )
    extra, credited = beside
    planner = Planner(functools.partial(readings, visible={*visible, *extra}), found, choose, extra)
    plan = planner.assign(trace.graph, trace.explained_values, credited=credited, asked=outputs)
    plan, _ = reach(plan, outputs)
    plan = with_cuts(plan, Ways.of(plan, trace.explained_values))
    plan, _ = numbered(plan)
    return plan


def _in_order(plan: Plan) -> Iterator[Step]:
    """All steps, layers in the order of their products, wherever their biases are added."""
    at = {equation: i for i, equation in enumerate(plan.graph.equations)}

    def position(step: Step) -> int:
        return at.get(step.operation.main, at.get(step.operation.last, len(at)))

    for step in sorted(plan.steps, key=position):
        yield step
        for body in step.bodies:
            yield from _in_order(body)


def _positions(
    composite: Composite, plan_with: Callable[[Sequence[set[Any] | None]], Plan]
) -> list[set[Any] | None]:
    """Per entry with a position, the operations that it means."""
    none: list[set[Any] | None] = [None] * len(composite.entries)
    if not any(entry.where.is_ordinal for entry in composite.entries):
        return none
    plan = plan_with(none)
    known = set(plan.walk())
    steps = [step for step in _in_order(plan) if step in known]
    chosen = list(none)
    for number, entry in enumerate(composite.entries):
        if entry.where.is_ordinal:
            matching = [step.key for step in steps if entry.where.matches(step)]
            if entry.where.first:
                foremost, _ = _foremost(plan, set(matching), set())
                matching = [key for key in matching if key in foremost]
            chosen[number] = set(entry.where.pick(matching))
    return chosen


def _foremost(plan: Plan, among: Set[Any], behind: Set[Atom]) -> tuple[set[Any], set[Atom]]:
    """Of some steps, those that read nothing that another one of them made.

    Args:
        plan: the operations.
        among: the keys of the steps.
        behind: inputs of the plan that one of them made, outside.

    Returns:
        their keys, and all that is computed from what one of the steps made.
    """
    found: set[Any] = set()
    behind = set(behind)
    for step in plan.steps:
        inputs, outputs = step.operation.inputs, step.operation.outputs
        reads = any(atom in behind for atom in inputs)
        if step.key in among:
            found.update(() if reads else (step.key,))
            behind.update(outputs)
        elif reads and not step.bodies:
            behind.update(outputs)
        for body in step.bodies:
            # What bodies are given are the last operands. What a turn of a loop hands to the next
            # one is not looked at: a layer does not come before itself.
            given = zip(reversed(body.graph.inputs), reversed(inputs), strict=False)
            inner, made = _foremost(body, among, {value for value, a in given if a in behind})
            found |= inner
            results = zip(outputs, body.graph.outputs, strict=False)
            behind.update(out for out, result in results if result in made)
    return found, behind


def _fallback(on_missing: Any) -> Rule | None:
    if on_missing == "error":
        return None
    if on_missing == "gradient":
        return Zero()
    if isinstance(on_missing, Rule):
        return on_missing
    raise ValueError(f"on_missing must be 'error', 'gradient' or a rule, got {on_missing!r}.")


def _check_selections(composite: Composite, used: set[int], plan: Plan) -> None:
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


def _missing_message(missing: list[str]) -> str:
    return (
        f"{len(missing)} operation(s) on the way from the explained inputs to the score have no "
        "rule (operands in brackets do not depend on the inputs):\n"
        + "\n".join(missing)
        + "\nName a rule with `Composite().at(primitive=...).use(rule)`, teach relprop the "
        "primitive with `relprop.propagators.register`, or accept gradient times input for all of "
        'them with `on_missing="gradient"`.'
    )
