"""Loops, branches and calls: relevance passes by the rules of what is inside them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from relprop import _compat
from relprop._core.backward import backward
from relprop._core.compared import Compared, evaluate, value_of
from relprop._core.cpu import after, in_turn
from relprop._core.edit import within
from relprop._core.forward import forward
from relprop._core.graph import Graph, Value
from relprop._core.plan import Masks, Nested, Plan, Planner, reach
from relprop._core.record import Record
from relprop._core.registry import unrepeatable
from relprop._core.relevance import Relevance, add
from relprop._core.tape import made_inside, mentioned, packed, unpacked


def _plan_body(planner: Planner, graph: Graph, masks: Masks, outputs: Sequence[Value]) -> Plan:
    """The plan of a body whose outputs are known outside as others."""
    explained, dependent, credited = (
        {v for v, on in zip(graph.inputs, mask, strict=True) if on and v.inexact} for mask in masks
    )
    asked = [out in planner.live for out in outputs]
    return planner.assign(graph, explained, dependent, credited, asked)


@dataclasses.dataclass(frozen=True)
class Call(Nested):
    """A call with one body whose derivative is custom: `custom_jvp` and `custom_vjp` functions.

    Relevance goes by the rules of the body; the derivative that the author wrote is used by the
    gradient rule, which takes the call as a whole. A function of one array, entry by entry, is
    an activation like any other.
    """

    name: str = "custom_derivative"
    calls: ClassVar[bool] = True

    def structure(self, operation, active):
        return self.name

    def plan(self, operation, masks, planner):
        return (_plan_body(planner, operation.last.bodies[0], masks, operation.outputs),)

    def reach(self, step, outputs):
        body, inputs = reach(step.bodies[0], outputs)
        return (body,), inputs

    def forward(self, step, values, replay):
        (body,) = step.bodies
        if replay or unrepeatable(step.operation.last):
            return self.taped(body, values, replay)
        # The value comes from the call itself and keeps the derivative that its author wrote;
        # compiled, the evaluation of the body is the same one again.
        outputs = step.operation.last.evaluate(in_turn(step.operation.inputs, values))
        return outputs, self.taped(body, values, replay=True)[1]

    @staticmethod
    def taped(body: Plan, values: Sequence[Any], replay: bool) -> tuple[list[Any], Any]:
        """The results of its body, and all that the way back reads."""
        outputs, tape = forward(body, values, replay)
        return outputs, packed(body, tape, mentioned(body))

    def backward(self, step, values, tape, arriving, request: Any):
        (body,) = step.bodies
        return backward(body, unpacked(body, tape, mentioned(body)), arriving, request)


@dataclasses.dataclass(frozen=True)
class Remat(Call):
    """`jax.checkpoint`: the body is evaluated again on the way back, as its user asked for.

    Unless it calls back for results: those are of one run, so all of that run is kept.
    """

    name: str = "remat"

    def forward(self, step, values, replay):
        if unrepeatable(step.operation.last):
            return self.taped(step.bodies[0], values, replay)
        if replay:
            return forward(step.bodies[0], values, replay)[0], ()
        return step.operation.last.evaluate(in_turn(step.operation.inputs, values)), ()

    def backward(self, step, values, tape, arriving, request: Any):
        if unrepeatable(step.operation.last):
            return super().backward(step, values, tape, arriving, request)
        if step.operation.last.params.get("prevent_cse", True):
            # Without the barrier XLA finds the values in the forward pass and keeps them all.
            values, arriving = _compat.barrier((list(values), arriving))
            awaited = jax.tree.leaves(arriving)[0]
            values = [
                jax.tree.map(lambda x: after(x, awaited), value) if on else value
                for value, on in zip(values, step.active, strict=True)
            ]
        _, tape = forward(step.bodies[0], values, replay=True)
        return backward(step.bodies[0], tape, arriving, request)


@dataclasses.dataclass(frozen=True)
class Region(Call):
    """A part that its author has marked as one thing; without a rule, a call like any other."""

    name: str = "region"

    def forward(self, step, values, replay):
        return self.taped(step.bodies[0], values, replay)


@dataclasses.dataclass(frozen=True)
class Branch(Nested):
    """`cond` and `switch`: the rules inside the branch that was taken.

    Branches keep different values; those of the same shape share a place on the tape, which is as
    long as that of the branch that keeps most.
    """

    def structure(self, operation, active):
        return "cond"

    def plan(self, operation, masks, planner):
        active, detached, credited = (mask[1:] for mask in masks)
        bodies = operation.last.bodies
        inside, outs = (active, detached, credited), operation.outputs
        return tuple(_plan_body(planner, body, inside, outs) for body in bodies)

    def reach(self, step, outputs):
        reached = [reach(body, outputs) for body in step.bodies]
        masks = [inputs for _, inputs in reached]
        inputs = tuple(any(column) for column in zip(*masks, strict=True))
        return tuple(body for body, _ in reached), (False, *inputs)

    def forward(self, step, values, replay):
        index, *operands = values

        def branch(body):
            def run(*operands):
                outputs, tape = forward(body, operands, replay)
                return outputs, packed(body, tape, made_inside(body))

            return run

        runs = [branch(body) for body in step.bodies]
        _, tapes = zip(*(jax.eval_shape(run, *operands) for run in runs), strict=True)
        layout = _SharedTape.layout(tapes)
        runs = [layout.writing(run, number) for number, run in enumerate(runs)]
        outputs, arrays = lax.switch(index, runs, *operands)
        return outputs, dataclasses.replace(layout, arrays=arrays)

    def backward(self, step, values, tape, arriving, request: Any):
        index, *operands = values
        # Of two runs that may take different branches, that of the value decides.
        apart = isinstance(index, Compared)

        def branch(number, body):
            def run(operands, arriving, shared):
                if apart:
                    _, again = forward(body, operands, replay=True)
                else:
                    again = unpacked(body, shared.read(number), made_inside(body))
                    again.update(zip(body.graph.inputs, operands, strict=True))
                return backward(body, again, arriving, request)

            return run

        runs = [branch(number, body) for number, body in enumerate(step.bodies)]
        # Branches may hand on different forms of relevance; the taken one has to fill in all.
        shapes = [jax.eval_shape(run, operands, arriving, tape) for run in runs]
        forms = [_union(column) for column in zip(*(s[0] for s in shapes), strict=True)]
        records = Record({}, {})
        for _, (accounts, inside) in shapes:
            records.accounts.update(accounts)
            records.inside.update(inside)
        filled = [_filled(run, forms, records) for run in runs]
        leaving, record = lax.switch(value_of(index), filled, operands, arriving, tape)
        return [None, *leaving], record


def _filled(run, forms, records: Record):
    def filled(*operands):
        leaving, (accounts, inside) = run(*operands)
        leaving = [_in_form(r, form) for r, form in zip(leaving, forms, strict=True)]
        # A branch that wasn't taken had no relevance.
        rest = _zeros(records)
        return leaving, Record(rest.accounts | accounts, rest.inside | inside)

    return filled


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["kinds", "places"]
)
@dataclasses.dataclass(frozen=True)
class _SharedTape:
    """What the taken one of several branches kept.

    Attributes:
        kinds: shape and type of each place.
        places: per branch the structure of its tape and the places of its leaves.
        arrays: per place; zeros where the branch that was taken kept nothing.
    """

    kinds: tuple[jax.ShapeDtypeStruct, ...]
    places: tuple[tuple[Any, tuple[int, ...]], ...]
    arrays: Sequence[Any] = ()

    @classmethod
    def layout(cls, tapes: Sequence[Any]) -> _SharedTape:
        """A tape with places for each of the tapes, given as shapes."""
        kinds: list[jax.ShapeDtypeStruct] = []
        places = []
        for tape in tapes:
            leaves, tree = jax.tree.flatten(tape)
            taken: dict[int, None] = {}
            for leaf in leaves:
                free = (i for i, kind in enumerate(kinds) if kind == leaf and i not in taken)
                place = next(free, len(kinds))
                if place == len(kinds):
                    kinds.append(leaf)
                taken[place] = None
            places.append((tree, tuple(taken)))
        return cls(tuple(kinds), tuple(places))

    def writing(self, run: Callable[..., Any], number: int) -> Callable[..., Any]:
        """A branch that returns its tape as arrays in their places."""

        def written(*operands):
            outputs, tape = run(*operands)
            arrays = dict(zip(self.places[number][1], jax.tree.leaves(tape), strict=True))
            return outputs, [
                arrays[i] if i in arrays else _compat.zeros(kind)
                for i, kind in enumerate(self.kinds)
            ]

        return written

    def read(self, number: int) -> Any:
        """The tape of a branch."""
        tree, places = self.places[number]
        return jax.tree.unflatten(tree, [self.arrays[place] for place in places])


@dataclasses.dataclass(frozen=True)
class Scan(Nested):
    """`scan`, and `fori_loop` with static bounds: the rules of the body, step by step backwards.

    The forward loop keeps the values of each step; the backward loop carries the relevance of
    the carried values and adds up that of the constants.
    """

    def structure(self, operation, active):
        return "scan"

    def plan(self, operation, masks, planner):
        # A carried value is active if it ever becomes so: repeat until nothing changes.
        body = operation.last.bodies[0]
        consts, carried = _compat.scan_sizes(operation.last.params)
        active, detached, credited = map(list, masks)
        # What is carried may be needed by later turns: it counts as what it is carried to.
        outs = [*body.outputs[:carried], *operation.outputs[carried:]]
        inside = planner.around(body.outputs[:carried])
        while True:
            plan = _plan_body(inside, body, (active, detached, credited), outs)
            before = (list(active), list(detached), list(credited))
            for i, out in enumerate(body.outputs[:carried], start=consts):
                active[i] = active[i] or out in plan.active
                detached[i] = detached[i] or out in plan.dependent
                credited[i] = credited[i] or out in plan.credited
            if (active, detached, credited) == before:
                return (plan,)

    def rounds(self, step):
        return (step.operation.last.params["length"],)

    def reach(self, step, outputs):
        (body,) = step.bodies
        consts, carried = _compat.scan_sizes(step.operation.last.params)
        wanted = list(outputs)
        while True:
            plan, inputs = reach(body, wanted)
            wider = list(wanted)
            for i, on in enumerate(inputs[consts : consts + carried]):
                wider[i] = wider[i] or on
            if wider == wanted:
                return (plan,), inputs
            wanted = wider

    def forward(self, step, values, replay):
        (plan,) = step.bodies
        params = step.operation.last.params
        consts, carried = _compat.scan_sizes(params)
        fixed = list(values[:consts])
        kept = _kept_values(plan, consts, carried)

        def body(carry, xs):
            outputs, tape = forward(plan, [*fixed, *carry, *xs], replay)
            return outputs[:carried], (outputs[carried:], packed(plan, tape, kept))

        final, (stacked, saved) = lax.scan(
            body,
            list(values[consts : consts + carried]),
            list(values[consts + carried :]),
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*final, *stacked], saved

    def backward(self, step, values, tape, arriving, request: Any):
        (plan,) = step.bodies
        params = step.operation.last.params
        consts, carried = _compat.scan_sizes(params)
        fixed, per_step = list(values[:consts]), list(values[consts + carried :])
        kept = _kept_values(plan, consts, carried)
        invariant = _invariant_equations(plan, consts)
        edits = within(request.edits, plan)

        def body(carry, slices):
            from_carry, total = carry
            xs, saved, from_outputs, own = slices
            here = dataclasses.replace(request, edits=dict(zip(edits, own, strict=True)))
            again = unpacked(plan, saved, kept)
            again.update(zip(plan.graph.inputs[:consts], fixed, strict=True))
            again.update(zip(plan.graph.inputs[consts + carried :], xs, strict=True))
            for equation in invariant:
                out = evaluate(equation, again.read_all(equation.inputs))
                again.update(zip(equation.outputs, out, strict=True))
            seeds = [*from_carry, *from_outputs]
            leaving, record = backward(plan, again, seeds, here)
            to_consts = [add(a, b) for a, b in zip(total, leaving[:consts], strict=True)]
            to_carry, to_xs = leaving[consts : consts + carried], leaving[consts + carried :]
            return (to_carry, to_consts), (to_xs, record)

        slices = (per_step, tape, arriving[carried:], list(edits.values()))
        first = jax.tree.map(_compat.entry_type, slices)
        carry = (list(arriving[:carried]), [None] * consts)
        # What forms of relevance are carried is known only after a step: repeat until it settles.
        while True:
            (after, _) = jax.eval_shape(body, carry, first)
            forms = jax.tree.map(lambda a, b: _union((a, b)), carry, after, is_leaf=_is_relevance)
            wider = jax.tree.map(_in_form, carry, forms, is_leaf=_is_relevance)
            if jax.tree.structure(wider) == jax.tree.structure(carry):
                break
            carry = wider

        def filled(carry, slices):
            after, out = body(carry, slices)
            return jax.tree.map(_in_form, after, forms, is_leaf=_is_relevance), out

        (to_carry, to_consts), (to_xs, record) = lax.scan(
            filled,
            carry,
            slices,
            length=params["length"],
            reverse=not params["reverse"],
            unroll=params["unroll"],
        )
        accounts = jax.tree.map(lambda a: jnp.sum(a, axis=0), record.accounts)
        return [*to_consts, *to_carry, *to_xs], Record(accounts, record.inside)


@dataclasses.dataclass(frozen=True)
class While(Nested):
    """`while_loop`: how often it runs is known only afterwards, so there is no way back."""

    differentiable: ClassVar[bool] = False

    def structure(self, operation, active):
        return "while"

    def plan(self, operation, masks, planner):
        del operation, masks, planner
        return ()

    def forward(self, step, values, replay):
        condition, body = step.bodies
        first, second = (step.operation.last.params[f"{n}_nconsts"] for n in ("cond", "body"))
        for_condition, for_body = values[:first], values[first : first + second]
        final = lax.while_loop(
            lambda carry: forward(condition, [*for_condition, *carry], replay)[0][0],
            lambda carry: forward(body, [*for_body, *carry], replay)[0],
            list(values[first + second :]),
        )
        return final, ()


def _kept_values(plan: Plan, consts: int, carried: int) -> list[Value]:
    """The values of a step of a loop that the way back cannot get more cheaply."""
    known = {*plan.graph.inputs[:consts], *plan.graph.inputs[consts + carried :]}
    for equation in _invariant_equations(plan, consts):
        known.update(equation.outputs)
    return mentioned(plan, known)


def _invariant_equations(plan: Plan, consts: int):
    """Equations of a loop body that give the same in each step: evaluated again, not stacked."""
    same: set[Any] = {*plan.graph.constants, *plan.graph.inputs[:consts]}
    used = {a for step in plan.steps for a in step.operation.inputs} | set(plan.watched)
    found = []
    for equation in plan.graph.evaluated:
        values = [atom for atom in equation.inputs if isinstance(atom, Value)]
        again = equation.outputs and not (equation.has_effects or unrepeatable(equation))
        if again and all(value in same for value in values):
            same.update(equation.outputs)
            found.append(equation)
    # Keep only what leads to an operand of a step.
    needed = []
    for equation in reversed(found):
        if any(out in used for out in equation.outputs):
            used.update(equation.inputs)
            needed.append(equation)
    return list(reversed(needed))


def _is_relevance(x: Any) -> bool:
    return x is None or isinstance(x, Relevance)


def _union(relevances) -> Relevance | None:
    """The forms that appear in any of several relevances of one value, as shapes."""
    out: Relevance | None = None
    for r in relevances:
        if r is None:
            continue
        share = r.share if r.share is not None else (out.share if out else None)
        multiplier = r.multiplier if r.multiplier is not None else (out.multiplier if out else None)
        out = Relevance(share, multiplier)
    return out


def _in_form(relevance: Relevance | None, form: Relevance | None) -> Relevance | None:
    """Relevance with explicit zeros in the forms that it lacks."""
    if form is None:
        return None
    relevance = relevance or Relevance()

    def filled(part, like):
        if like is None:
            return part
        return _compat.zeros(like) if part is None else part.astype(like.dtype)

    return Relevance(
        filled(relevance.share, form.share), filled(relevance.multiplier, form.multiplier)
    )


def _zeros(tree: Any) -> Any:
    return jax.tree.map(_compat.zeros, tree)
