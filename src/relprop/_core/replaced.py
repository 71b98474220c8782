"""A graph evaluated with other values at some places, and with those of some places kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from relprop import _compat
from relprop._core import registry
from relprop._core.control import Branch, Remat, Scan, While
from relprop._core.graph import Environment, Equation, Graph, Value
from relprop._core.sharded import Sharded
from relprop._errors import InputError

# The turns of the loops around a value, the outermost first.
Turns = tuple[Any, ...]
Replace = Callable[[Any, Turns], Any]
Kept = dict[str, Any]
# A body: of its operands, and of the turn if it is that of a loop.
Run = Callable[..., tuple[list[Any], Kept]]


@dataclasses.dataclass(frozen=True, eq=False)
class Replacing:
    """What is done to values on the way, and which of them are returned beside the outputs.

    Attributes:
        replace: what takes the place of a value, by the value and the turns of the loops around.
        kept: values to return, with names for them; in a loop with one entry per turn, zeros in a
            branch that was not taken.
        bodies: graphs to evaluate in place of the bodies of equations, by their first result.
    """

    replace: Mapping[Value, Replace]
    kept: Mapping[Value, str] = dataclasses.field(default_factory=dict)
    bodies: Mapping[Value, Sequence[Graph]] = dataclasses.field(default_factory=dict)

    def evaluate(
        self, graph: Graph, inputs: Sequence[Any], turns: Turns = ()
    ) -> tuple[list[Any], Kept]:
        """The outputs of a graph, and the values that are kept."""
        known, kept = Environment(graph.constants), Kept()
        for value, array in zip(graph.inputs, inputs, strict=True):
            known[value] = self._passed(value, array, turns, kept)
        for equation in graph.equations:
            values = known.read_all(equation.inputs)
            bodies = self._bodies(equation)
            # Who traces the result finds the scopes and the lines of the function.
            with _compat.at_source(equation.traced), _scope(equation, graph):
                if any(self._reaches(body) for body in bodies):
                    runs = [self._run(body, turns) for body in bodies]
                    outputs, inside = _inside(equation, values, runs)
                    kept |= inside
                else:
                    outputs = equation.evaluate(values)
            for value, array in zip(equation.outputs, outputs, strict=True):
                known[value] = self._passed(value, array, turns, kept)
        return known.read_all(graph.outputs), kept

    def _passed(self, value: Value, array: Any, turns: Turns, kept: Kept) -> Any:
        if value in self.replace:
            array = self.replace[value](array, turns)
        if value in self.kept:
            kept[self.kept[value]] = array
        return array

    def _bodies(self, equation: Equation) -> Sequence[Graph]:
        if not equation.bodies or not equation.outputs:
            return ()
        return self.bodies.get(equation.outputs[0], equation.bodies)

    def _reaches(self, graph: Graph) -> bool:
        """Whether something in a body is replaced or kept."""
        if any(value in self.replace or value in self.kept for value in graph.values()):
            return True
        return any(self._reaches(body) for e in graph.equations for body in self._bodies(e))

    def _run(self, body: Graph, turns: Turns) -> Run:
        def run(operands: Sequence[Any], turn: Any = None) -> tuple[list[Any], Kept]:
            return self.evaluate(body, operands, turns if turn is None else (*turns, turn))

        return run


def _scope(equation: Equation, graph: Graph) -> contextlib.AbstractContextManager[Any]:
    """The named scopes of an equation, those left out that are around the graph."""
    own = equation.scope.removeprefix(graph.scope).strip("/")
    return jax.named_scope(own) if own else contextlib.nullcontext()


def _inside(
    equation: Equation, values: Sequence[Any], runs: Sequence[Run]
) -> tuple[list[Any], Kept]:
    """An equation with bodies, by other functions for these."""
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Scan):
        return _scan(equation, values, runs[0])
    if isinstance(kind, While):
        return _while(equation, values, *runs)
    if isinstance(kind, Branch):
        return _branch(values, runs)
    if isinstance(kind, Sharded):
        return _sharded(equation, values, runs[0])
    if isinstance(kind, Remat):
        params = equation.params
        prevent, policy = params.get("prevent_cse", True), params.get("policy")
        return jax.checkpoint(runs[0], prevent_cse=prevent, policy=policy)(list(values))
    # A call with a derivative of its own: that is one of what was there before, and not of this.
    return runs[0](values)


def _scan(equation: Equation, values: Sequence[Any], run: Run) -> tuple[list[Any], Kept]:
    params = equation.params
    consts, carried = _compat.scan_sizes(params)
    fixed, first = list(values[:consts]), list(values[consts : consts + carried])

    def body(carry, slices):
        turn, xs = slices
        outputs, kept = run([*fixed, *carry, *xs], turn)
        return outputs[:carried], (outputs[carried:], kept)

    turns = jnp.arange(params["length"])
    slices = (turns, list(values[consts + carried :]))
    how = {name: params[name] for name in ("length", "reverse", "unroll")}
    final, (stacked, kept) = lax.scan(body, first, slices, **how)
    return [*final, *stacked], kept


def _while(
    equation: Equation, values: Sequence[Any], condition: Run, body: Run
) -> tuple[list[Any], Kept]:
    params = equation.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    for_condition, for_body = list(values[:first]), list(values[first : first + second])

    def goes_on(state):
        turn, carry = state
        return _without_kept(condition([*for_condition, *carry], turn))[0]

    def step(state):
        turn, carry = state
        return turn + 1, _without_kept(body([*for_body, *carry], turn))

    start = (jnp.zeros((), jnp.int32), list(values[first + second :]))
    return lax.while_loop(goes_on, step, start)[1], {}


def _without_kept(result: tuple[list[Any], Kept]) -> list[Any]:
    outputs, kept = result
    if kept:
        raise InputError(
            f"{len(kept)} value(s) are to be returned from inside of a `while_loop`, of which it "
            "is not known how often it runs. Use `lax.scan`, or `fori_loop` with bounds that are "
            "Python numbers."
        )
    return outputs


def _branch(values: Sequence[Any], runs: Sequence[Run]) -> tuple[list[Any], Kept]:
    index, *operands = values
    shapes: Kept = {}
    for run in runs:
        shapes |= jax.eval_shape(run, operands)[1]

    def filled(run: Run) -> Callable[..., Any]:
        def taken(*operands):
            outputs, kept = run(list(operands))
            return outputs, [kept[n] if n in kept else _compat.zeros(s) for n, s in shapes.items()]

        return taken

    outputs, kept = lax.switch(index, [filled(run) for run in runs], *operands)
    return outputs, dict(zip(shapes, kept, strict=True))


def _sharded(equation: Equation, values: Sequence[Any], run: Run) -> tuple[list[Any], Kept]:
    params = equation.params

    def on_device(*operands):
        outputs, kept = run(list(operands))
        if kept:
            raise InputError(
                f"{len(kept)} value(s) are to be returned from inside of a `shard_map`, where each "
                "device has values of its own. Name a place outside of it."
            )
        return outputs

    spread = jax.shard_map(
        on_device,
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )
    return spread(*values), {}
