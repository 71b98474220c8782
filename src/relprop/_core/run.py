"""The two passes: forward with a tape, backward with relevance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from relprop import _compat
from relprop._core.compared import (
    amount_of,
    is_compared,
    paired,
    paired_trees,
    reference_of,
    value_of,
)
from relprop._core.edit import Edits
from relprop._core.graph import Atom, Environment, Equation, Recall, Value
from relprop._core.operation import Operation
from relprop._core.order import after, once
from relprop._core.plan import Plan, Step
from relprop._core.relevance import Relevance, add
from relprop._core.repeated import Shared
from relprop._core.returned import checked
from relprop._core.site import Site

# What the ledger knows of one step: the name of an entry -> a scalar.
Account = dict[str, Any]
Keep = Literal["", "sums", "faults"]
Accounts = dict[int, Account]  # by the number of the step
CONSTANT = -1  # in place of a number: relevance that a graph was given for its constant outputs
PLACES = -2  # likewise: what masks have stopped, and what has entered by seeds


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is wanted of a backward pass beside the relevance of the inputs.

    Attributes:
        keep: what to sum up per step: ``"sums"`` of what arrives, leaves and is absorbed, or
            ``"faults"``, the same and how many numbers are NaN or infinite.
        edits: masks and seeds at values.
        never: for `once`, or None where nothing is to be kept from being computed twice.
        leaf: what the rule of a step does, traced once for all steps that are alike.
    """

    keep: Keep = ""
    edits: Edits = dataclasses.field(default_factory=dict)
    never: Array | None = None
    leaf: Shared = dataclasses.field(default_factory=lambda: Shared(_leaf))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Inside:
    """A place inside a function.

    Attributes:
        relevance: of the value; inside of a scan, with one entry per step in front.
        value: what the forward pass computed there.
    """

    relevance: Inexact[Array, "..."]
    value: Inexact[Array, "..."]


class Record(NamedTuple):
    """What a backward pass leaves behind, beside the relevance of the inputs.

    Attributes:
        accounts: sums per step, by its number, if somebody keeps the ledger.
        inside: the watched places, by their names.
    """

    accounts: Accounts
    inside: dict[str, Inside]

    @property
    def places(self) -> dict[str, Inside]:
        """The watched places in the order of their names, as a compiled function returns them."""
        return dict(sorted(self.inside.items()))


class Tape(Environment):
    """All values of a forward pass, and what steps with bodies kept for the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: dict[Step, Any] = {}

    def copy(self) -> Tape:
        tape = Tape()
        tape.update(self)
        tape.inner.update(self.inner)
        return tape


@_compat.as_one()
def forward(plan: Plan, inputs: Sequence[Any], replay: bool = False) -> tuple[list[Any], Tape]:
    """Evaluates a graph once, keeping its values.

    Args:
        plan: the plan of the graph.
        inputs: values of the graph's inputs; if some are `Compared`, so is all that follows.
        replay: the graph has been evaluated before: don't print or log a second time.
    """
    if is_compared(inputs):
        return _forward_twice(plan, inputs, replay)
    tape = Tape()
    tape.update(plan.graph.constants)
    tape.update(zip(plan.graph.inputs, inputs, strict=True))
    _evaluate(plan, plan.graph.evaluated, tape, replay)
    return tape.read_all(plan.graph.outputs), tape


def _evaluate(plan: Plan, equations: Sequence[Equation], tape: Tape, replay: bool) -> None:
    """Evaluates equations of a plan, onto a tape that holds what they read."""
    nested = {step.operation.outputs[0]: step for step in plan.steps if step.bodies}
    for equation in equations:
        if replay and not equation.outputs:
            continue
        values = tape.read_all(equation.inputs)
        step = nested.get(equation.outputs[0]) if equation.bodies and equation.outputs else None
        # What a call returns may be what the last loop inside of it returns.
        if step is not None and step.operation.last.traced is equation.traced:
            outputs, tape.inner[step] = step.nested.forward(step, values, replay)
        elif replay and equation.bodies and equation.has_effects:
            outputs, _ = (quiet := _unplanned(equation)).nested.forward(quiet, values, replay)
        else:
            outputs = equation.evaluate(values)
        tape.update(zip(equation.outputs, outputs, strict=True))


def recalled(
    plan: Plan, tape: Tape, atoms: Sequence[Atom], awaited: Any, inside: bool = False
) -> None:
    """Puts on the tape what it lacks of some values, by evaluating it a second time.

    Args:
        plan: the plan of the graph.
        tape: of the forward pass.
        atoms: the values that are wanted.
        awaited: arrays that are there when they are needed, and not before.
        inside: also what a body has kept, of which the values are there.
    """
    for atom in atoms:
        group = plan.graph.recalls.get(atom) if isinstance(atom, Value) else None
        if group is None or (atom in tape and not inside):
            continue
        recalled(plan, tape, group.reads, awaited)
        values = [tape[value] for value in group.reads]
        if group.call.params.get("prevent_cse", True):
            # Without the barrier XLA finds the values in the forward pass and keeps them all.
            values, awaited = _compat.barrier((values, awaited))
            wait = functools.partial(after, awaited=jax.tree.leaves(awaited)[0])
            active = plan.is_active(group.reads)
            values = [
                jax.tree.map(wait, value) if on else value
                for value, on in zip(values, active, strict=True)
            ]
        again = Tape()
        again.update(plan.graph.constants)
        if is_compared(values):
            _evaluate_twice(plan, group, values, again)
        else:
            again.update(zip(group.reads, values, strict=True))
            _evaluate(plan, group.equations, again, replay=True)
        made = [out for equation in group.equations for out in equation.outputs]
        tape.update((out, again[out]) for out in made if out not in tape)
        tape.inner.update(again.inner)


def _evaluate_twice(plan: Plan, group: Recall, values: Sequence[Any], tape: Tape) -> None:
    """The same for the runs of inputs and references."""
    runs = []
    for own in (value_of, reference_of):
        run = Tape()
        run.update(plan.graph.constants)
        run.update(zip(group.reads, map(own, values), strict=True))
        _evaluate(plan, group.equations, run, replay=True)
        runs.append(run)
    ours, theirs = runs
    tape.update((value, paired(ours[value], theirs[value])) for value in theirs)
    tape.inner.update(
        (step, paired_trees(ours.inner[step], theirs.inner[step])) for step in theirs.inner
    )


def _forward_twice(plan: Plan, inputs: Sequence[Any], replay: bool) -> tuple[list[Any], Tape]:
    """The runs of inputs and references, value by value."""
    outputs, tape = forward(plan, [*map(value_of, inputs)], replay)
    others, reference = forward(plan, [*map(reference_of, inputs)], replay=True)
    both = Tape()
    both.update((value, paired(tape[value], reference[value])) for value in reference)
    both.inner = {
        step: paired_trees(tape.inner[step], reference.inner[step]) for step in tape.inner
    }
    return [*map(paired, outputs, others)], both


def _unplanned(equation: Equation) -> Step:
    """A step without rules, to evaluate the bodies of an equation by hand."""
    bodies = tuple(Plan(body, (), frozenset()) for body in equation.bodies)
    return Step(Operation.of(equation), (), None, bodies=bodies)


@_compat.as_one()
def backward(
    plan: Plan,
    tape: Tape,
    seeds: Sequence[Relevance | None],
    request: Request,
) -> tuple[list[Relevance | None], Record]:
    """Takes relevance from the outputs of a graph to its inputs.

    Args:
        plan: the plan of the graph.
        tape: of the forward pass.
        seeds: relevance of each output; None where there is none.
        request: what is wanted beside.

    Returns:
        Relevance of each input (None where none arrives), the accounts per step, and the places
        that are watched.
    """
    if plan.graph.recalls:
        tape = tape.copy()  # What is computed again belongs to this pass alone.
    found: dict[Value, Relevance | None] = {}
    # Where relevance of several consumers has been added up, and what entries alone make of it.
    joined: set[Atom] = set()
    record = Record({}, {})
    accounts = record.accounts

    def need(atoms: Sequence[Atom], awaited: Any) -> None:
        if plan.graph.recalls:
            recalled(plan, tape, atoms, awaited)

    def taken(value: Value) -> Relevance | None:
        """All relevance that has arrived at a value, as masks and seeds leave it."""
        relevance = found.pop(value, None)
        if value in request.edits or value in plan.watched:
            need([value], relevance if relevance is not None else jnp.zeros(()))
        for edit in request.edits.get(value, ()):
            before, array = relevance, amount_of(tape[value])
            relevance = edit.apply(before, array)
            if request.keep:
                _count(accounts, edit.kind, _sum([before], [array]) - _sum([relevance], [array]))
        return relevance

    def look(value: Value, relevance: Relevance | None) -> None:
        array = value_of(tape[value])
        total = (relevance or Relevance()).total(amount_of(tape[value]))
        for name in plan.watched[value]:
            record.inside[name] = Inside(_compat.alike(total, array), array)

    # An output may be an input, a constant, or the same value twice: seeds accumulate.
    for atom, seed in zip(plan.graph.outputs, seeds, strict=True):
        if seed is not None and plan.receives(atom):
            found[atom] = add(found.get(atom), seed)  # type: ignore[index]
    if request.keep:
        outside = [
            None if atom in plan.active or not jnp.issubdtype(atom.dtype, jnp.inexact) else seed
            for atom, seed in zip(plan.graph.outputs, seeds, strict=True)
        ]
        # Only what is asked for: a tape need not hold outputs that are inputs.
        read = [
            None if seed is None else tape.read(atom)
            for atom, seed in zip(plan.graph.outputs, outside, strict=True)
        ]
        lost = [
            seed if atom in plan.severed else None
            for atom, seed in zip(plan.graph.outputs, outside, strict=True)
        ]
        cut = _sum(lost, read)
        accounts[CONSTANT] = {"bias": _sum(outside, read) - cut, "cut": cut}

    for step in reversed(plan.steps):
        operation = step.operation
        arriving = [taken(out) for out in operation.outputs]
        for out, relevance in zip(operation.outputs, arriving, strict=True):
            if out in plan.watched:
                look(out, relevance)
        if all(relevance is None for relevance in arriving):
            if not any(body.watches for body in step.bodies):
                continue
            # Nothing arrives, which is what those who look inside are to be told.
            need(operation.outputs, jnp.zeros(()))
            arriving = [
                Relevance(share=jnp.zeros_like(amount_of(tape[out])))
                if out in plan.active
                else None
                for out in operation.outputs
            ]
        by_entry = operation.propagator.elementwise or operation.propagator.structural
        if by_entry and any(out in joined for out in operation.outputs):
            if sum(step.active) > 1:
                arriving = [_once(r, request.never) for r in arriving]
            else:
                joined.update(operation.inputs)
        need((*operation.outputs, *operation.inputs), arriving)
        if step.bodies and step not in tape.inner and plan.graph.recalls:
            recalled(plan, tape, operation.outputs[:1], arriving, inside=True)
        values = tape.read_all(operation.inputs)
        outputs = tape.read_all(operation.outputs)
        account: Account = {}
        # The ledger is about the way from the inputs to the score.
        asked = dataclasses.replace(request, keep="") if step.aside else request
        with jax.named_scope(_scope_name(step)):
            if step.bodies:
                handed, inner = step.nested.backward(
                    step, values, tape.inner[step], arriving, asked
                )
                leaving = [r if a in plan.active else None for a, r in _pairs(step, handed)]
                credits = [r if a in plan.credited else None for a, r in _pairs(step, handed)]
                changes = inner.accounts.pop(PLACES, {})
                if asked.keep:
                    # To a constant that a loop starts from, or that a branch returns.
                    lost = [
                        r if own and a not in plan.active else None
                        for (a, r), own in zip(_pairs(step, handed), _handed(step), strict=True)
                    ]
                    constant = inner.accounts.pop(CONSTANT)
                    severed = step.severed or (False,) * len(lost)
                    cut = [r if on else None for r, on in zip(lost, severed, strict=True)]
                    account["cut"] = constant["cut"] + _sum(cut, values)
                    rest = [None if on else r for r, on in zip(lost, severed, strict=True)]
                    account["bias"] = constant["bias"] + _sum(rest, values)
                    account.update(changes)
                for kind, amount in changes.items():
                    _count(accounts, kind, amount)
                accounts.update(inner.accounts)
                record.inside.update(inner.inside)
            else:
                leaving, credits, account = request.leaf(
                    step, bool(asked.keep), values, outputs, arriving
                )
        if asked.keep:
            account |= {"arrived": _sum(arriving, outputs), "left": _sum(leaving, values)}
            account["size_arrived"] = _sum(arriving, outputs, jnp.abs)
            account["size_left"] = _sum(leaving, values, jnp.abs)
            if asked.keep == "faults":
                account |= _faults(operation, arriving, values, outputs, leaving)
            accounts[step.number] = account
        for atom, value, *both in zip(operation.inputs, values, leaving, credits, strict=True):
            for relevance in both:
                if relevance is not None and plan.receives(atom):
                    like = value_of(value)
                    relevance = relevance.map(lambda r, like=like: _compat.alike(r, like))
                    before = found.get(atom)  # type: ignore[index]
                    found[atom] = add(before, relevance)  # type: ignore[index]
                    if before is not None:
                        joined.add(atom)
    leaving = {value: taken(value) for value in plan.graph.inputs}
    for value, names in plan.watched.items():
        if names[0] not in record.inside:
            look(value, leaving[value] if value in leaving else taken(value))
    return [leaving[value] for value in plan.graph.inputs], record


def _leaf(
    step: Step, keep: bool, values: Sequence[Any], outputs: Sequence[Any], arriving: Sequence[Any]
) -> tuple[list[Relevance | None], list[Relevance | None], Account]:
    """What the rule of a step hands to active operands and to parameters, and what is absorbed."""
    account: Account = {}
    site = _site(step, values, outputs, _note_into(account) if keep else None)
    leaving = checked(step, "propagate", step.active, step.rule.propagate(site, arriving))
    if keep and any(step.severed):
        bias = account.get("bias", 0.0)
        cut = _severed_part(step, values, outputs, arriving, bias)
        account.update(cut=cut, bias=bias - cut)
    credited = step.rule.credit(site, arriving) if any(step.credited) else ()
    credited = checked(step, "credit", step.credited, credited)
    return _spread(step.active, leaving), _spread(step.credited, credited), account


def _severed_part(step: Step, values, outputs, arriving, bias: Any) -> Any:
    """Of what constants have absorbed, the part of those that were computed by way of cuts."""
    operation = step.operation
    positions = operation.propagator.summands(operation, step.active)
    summands = [i for i in positions if jnp.issubdtype(operation.inputs[i].dtype, jnp.inexact)]
    if all(step.severed[i] for i in summands):
        return bias
    # Only what moves numbers has several such operands: outputs are copies of one or the other.
    site = Site(operation, step.severed, [*map(value_of, values)], [*map(value_of, outputs)])
    ones = tuple(jnp.ones_like(x) for x in site.inputs)
    _, copied = jax.jvp(site.function, site.inputs, ones)
    pairs = zip(arriving, site.outputs, copied, strict=True)
    found = (_everywhere(r.total(y) * jnp.real(c)) for r, y, c in pairs if r is not None)
    return sum(found, 0.0)


def _once(relevance: Relevance | None, never: Array | None) -> Relevance | None:
    if relevance is None or never is None:
        return relevance
    return relevance.map(lambda array: once(array, never))


def _count(accounts: Accounts, kind: str, lost: Any) -> None:
    """Adds what a mask has stopped, or a seed taken away (less than nothing), to the accounts."""
    # Always both entries, so that the branches of a condition keep the same ones.
    account = accounts.setdefault(PLACES, {"mask": jnp.zeros(()), "seed": jnp.zeros(())})
    account[kind] = account[kind] + lost


def _site(step: Step, values: Sequence[Any], outputs: Sequence[Any], note: Any) -> Site:
    """What the rule of a step is to see."""
    against = None
    if is_compared(values) or is_compared(outputs):
        theirs = [*map(reference_of, values)], [*map(reference_of, outputs)]
        against = Site(step.operation, step.active, theirs[0], theirs[1])
    ours = [*map(value_of, values)], [*map(value_of, outputs)]
    return Site(step.operation, step.active, ours[0], ours[1], note, against, step.credited)


def _spread(mask: Sequence[bool], relevances: Sequence[Relevance | None]) -> list[Any]:
    """One entry per operand, from one per operand that a mask selects."""
    supply = iter(relevances)
    return [next(supply) if on else None for on in mask]


def _handed(step: Step) -> list[bool]:
    """Per operand, whether what a body hands it has left the results, and is no mere credit."""
    handed = [False] * len(step.operation.inputs)
    for body in step.bodies:
        own = body.is_active(body.graph.inputs)
        start = len(handed) - len(own)
        handed[start:] = [a or b for a, b in zip(handed[start:], own, strict=True)]
    return handed


def _pairs(step: Step, leaving: Sequence[Any]) -> Iterator[tuple[Atom, Any]]:
    return zip(step.operation.inputs, leaving, strict=True)


def _scope_name(step: Step) -> str:
    # Profiles of the compiled explanation then name the user's layer and the rule.
    rule = type(step.rule).__name__ if step.rule is not None else step.structure
    return "/".join(part for part in (step.scope, f"relprop.{rule}") if part)


def _note_into(account: Account) -> Callable[[str, Callable[[], Any]], None]:
    def note(what: str, amount: Callable[[], Any]) -> None:
        # Relevance of complex numbers is real, whatever a rule computes it by.
        account[what] = account.get(what, 0.0) + _everywhere(jnp.real(amount()))

    return note


def _faults(operation, arriving, values, outputs, leaving) -> Account:
    """How many numbers of a step are none."""
    inexact = [jnp.issubdtype(atom.dtype, jnp.inexact) for atom in operation.inputs]
    given = [value_of(v) for v, on in zip(values, inexact, strict=True) if on]
    made = [value_of(v) for v, a in zip(outputs, operation.outputs, strict=True) if a.inexact]
    bad_arrived, bad_left = (_count_bad(jax.tree.leaves(r)) for r in (arriving, leaving))
    nan_given, nan_made = (sum((_everywhere(jnp.isnan(v)) for v in vs), 0) for vs in (given, made))
    # Told apart here, in each turn of a loop by itself: later turns go on with what one has made.
    return {
        "bad_values": _count_bad(made),
        "bad_arrived": bad_arrived,
        "bad_made": jnp.where(bad_arrived == 0, bad_left, 0),
        "nan_given": nan_given,
        "nan_made": jnp.where(nan_given == 0, nan_made, 0),
    }


def _sum(relevances, values, of: Callable[[Array], Array] = lambda r: r) -> Any:
    total = 0.0
    for relevance, value in zip(relevances, values, strict=True):
        if relevance is not None:
            total = total + _everywhere(of(jnp.real(relevance.total(amount_of(value)))))
    return total


def _count_bad(arrays) -> Any:
    return sum((_everywhere(~jnp.isfinite(a)) for a in arrays), 0)


def _everywhere(array: Any) -> Any:
    """The sum of all entries, on all devices that hold different ones."""
    total = jnp.sum(array)
    return _compat.alike(total, jax.ShapeDtypeStruct((), total.dtype))
