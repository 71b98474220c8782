"""What `jax.checkpoint` keeps off the tape, evaluated a second time when the way back reads it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax

from relprop import _compat
from relprop._core.compared import is_compared, paired, paired_trees, reference_of, value_of
from relprop._core.cpu import after
from relprop._core.forward import evaluate
from relprop._core.graph import Atom, Recall, Value
from relprop._core.plan import Plan
from relprop._core.tape import Tape


def recallable(plan: Plan, tape: Tape) -> Tape:
    """The tape for one way back: what is computed again belongs to that alone."""
    return tape.copy() if plan.graph.recalls else tape


def recall(
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
    if not plan.graph.recalls:
        return
    for atom in atoms:
        group = plan.graph.recalls.get(atom) if isinstance(atom, Value) else None
        if group is None or (atom in tape and not inside):
            continue
        recall(plan, tape, group.reads, awaited)
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
            evaluate(plan, group.equations, again, replay=True)
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
        evaluate(plan, group.equations, run, replay=True)
        runs.append(run)
    ours, theirs = runs
    tape.update((value, paired(ours[value], theirs[value])) for value in theirs)
    tape.inner.update(
        (step, paired_trees(ours.inner[step], theirs.inner[step])) for step in theirs.inner
    )
