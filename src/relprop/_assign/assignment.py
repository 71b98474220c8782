"""The plan of an explanation: every operation on the way is given its rule, once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from relprop._assign import problems
from relprop._assign.ordinals import Chosen, none_chosen, positions
from relprop._assign.signs import with_signs
from relprop._core.cuts import Ways, with_cuts
from relprop._core.graph import Value
from relprop._core.plan import Choose, Plan, Planner, Step, numbered, reach
from relprop._core.trace import Trace
from relprop.anatomy import anatomy_of
from relprop.composites import Composite
from relprop.places.kinds import Place
from relprop.places.location import check_visible, hidden, located, parameters, sources
from relprop.recognise.findings import Findings
from relprop.rules import Rule, Zero
from relprop.structures import DEFAULTS, recognisers


def assign(
    trace: Trace,
    composite: Composite,
    outputs: list[bool],
    on_missing: Any = "error",
    places: Sequence[Place] = (),
    findings: Findings | None = None,
) -> Plan:
    """The plan for a traced function.

    Args:
        trace: the function.
        composite: the rules.
        outputs: per output of the graph, whether it is explained.
        on_missing: ``"error"``, ``"gradient"`` or a rule, for operations without one.
        places: where inside relevance is asked for.
        findings: what other plans for the same function have found, if there are any.

    Raises:
        MissingRuleError: operations without a rule can be reached, or every way to the score ends
            at a cut; all are listed.
        RuleError: rules cannot be applied where the composite puts them; all are listed.
        NothingMatchedError: a selection matches nothing, or a place isn't there.
        InputError: a place has no relevance of its own, a mask does not fit, or what reads a
            parameter that is to be credited has no rule for that.
    """
    fallback = _fallback(on_missing)
    problems.check_mutation(trace.graph)
    explained = trace.explained_values
    extra = sources(trace.graph, places, explained)
    credited = parameters(trace.graph, places, explained)
    found = findings or Findings()
    assignment = _Assignment(trace, composite, outputs, fallback, extra, credited, found)
    plan, chosen = assignment.planned()
    if places:
        plan = located(plan, places, extra | credited)
        if around := hidden(plan):
            # What is looked at may be no step inside of a chain of functions.
            plan, chosen = assignment.planned(around.keys())
            plan = located(plan, places, extra | credited)
    problems.check_constants(plan, outputs)
    if fallback is None and not composite.is_gradient:
        problems.check_cuts(trace, plan, outputs)
    problems.check_rules(plan)
    problems.check_selections(composite, chosen, plan)
    check_visible(plan)
    return with_signs(plan)


def anatomy(trace: Trace, outputs: list[bool]) -> Plan:
    """The plan in which all that depends on the inputs is in its place, whatever the rules."""
    return reach(anatomy_of(trace.graph, trace.explained_values, outputs), outputs)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Assignment:
    """What a plan is made from.

    Attributes:
        trace: the function.
        composite: the rules.
        outputs: per output of the graph, whether it is explained.
        fallback: the rule of operations that have none.
        extra: values that are explained beside the inputs, with their names.
        credited: parameters that are to be credited, likewise.
        findings: normal forms and what is recognised in them, each computed once.
    """

    trace: Trace
    composite: Composite
    outputs: Sequence[bool]
    fallback: Rule | None
    extra: Mapping[Value, str]
    credited: Mapping[Value, str]
    findings: Findings

    def planned(self, visible: Collection[Value] = ()) -> tuple[Plan, Chosen]:
        """The plan, and which operations each selection with a position means.

        Args:
            visible: values that are not to disappear inside of what is recognised.
        """
        chosen = none_chosen(self.composite)
        plan = self._plan(self._choice(chosen), visible)
        if any(entry.where.is_ordinal for entry in self.composite.entries):
            chosen = positions(self.composite, plan)
            choose = self._choice(chosen)
            # A rule that makes constants, or that takes a body as a whole, changes what is on the
            # way; any other one only takes the place of the one before.
            plan = _with_rules(plan, choose) or self._plan(choose, visible)
        return plan, chosen

    def _plan(self, choose: Choose, visible: Collection[Value]) -> Plan:
        explained = self.trace.explained_values
        wanted = recognisers(self.composite.structures, self.composite.canonizers)
        found = functools.partial(
            self.findings.recognised, recognisers=tuple(wanted), visible=visible
        )
        read = functools.partial(self.findings.readings, visible={*visible, *self.extra})
        planner = Planner(read, found, choose, self.extra.keys())
        plan = planner.assign(
            self.trace.graph, explained, credited=self.credited.keys(), asked=self.outputs
        )
        plan, _ = reach(plan, self.outputs)
        plan = with_cuts(plan, Ways.of(plan, explained))
        return numbered(plan)[0]

    def _choice(self, chosen: Chosen) -> Choose:
        """The rule for each operation, and a note on who chose it."""

        def choose(step: Step) -> tuple[Rule | None, str]:
            _, rule = self.composite.find(step, chosen)
            if step.off_path:
                return _rule_off_path(step, rule), "parameters"
            if rule is None and not step.has_inside and self.fallback is not None:
                return self.fallback, "on_missing"
            return rule, step.operation.propagator.note

        return choose


def _with_rules(plan: Plan, choose: Callable[[Step], tuple[Rule | None, str]]) -> Plan | None:
    """The plan with rules chosen anew; None where it would be another plan by them."""
    steps = []
    for step in plan.steps:
        if step.cut:
            steps.append(step)
            continue
        rule, note = choose(dataclasses.replace(step, rule=None, bodies=(), note=""))
        new = dataclasses.replace(step, rule=rule, note=note)
        if step.has_inside and step.rule is None:
            bodies = [_with_rules(body, choose) for body in step.bodies]
            if rule is not None or None in bodies:
                return None
            new = dataclasses.replace(step, bodies=tuple(bodies))
        elif new.detaches != step.detaches or (step.has_inside and rule is None):
            return None
        steps.append(new)
    return dataclasses.replace(plan, steps=tuple(steps))


def _rule_off_path(step: Step, rule: Rule | None) -> Rule | None:
    """The rule on the way to a parameter; where no other applies, gradient times value."""
    if rule is not None and rule.problem(step.operation, step.active):
        rule = DEFAULTS.get(step.structure or "")
    return Zero() if rule is None and not step.has_inside else rule


def _fallback(on_missing: Any) -> Rule | None:
    if on_missing == "error":
        return None
    if on_missing == "gradient":
        return Zero()
    if isinstance(on_missing, Rule):
        return on_missing
    raise ValueError(f"on_missing must be 'error', 'gradient' or a rule, got {on_missing!r}.")
