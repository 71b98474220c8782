"""Tokens followed through a function: what is known of each value in place of the value.

A plan is evaluated with `Known` for arrays. Attention is where it leaves notes (`Seen`): which map
was applied to what, and what looked at what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from relprop import _compat
from relprop._core.graph import Equation, Graph, Literal, Value
from relprop._core.plan import Plan, Step
from relprop.anatomy.attention import all_attention
from relprop.anatomy.axes import Axes, Dim, Laid
from relprop.anatomy.axis_rules import product
from relprop.anatomy.known import Known, Seen, TokenMap, known_of, known_together, placed, values_of
from relprop.anatomy.laying import entrywise, settled, through


class Reader:
    """Evaluates a plan with what is known of its values in place of them."""

    def __init__(self, plan: Plan):
        self.axes = Axes()
        self.blocks = list(all_attention(plan))
        self.seen: list[Seen] = []
        self._number = {block.value: number for number, block in enumerate(self.blocks)}
        self._sources: list[Dim] = []
        self._steps = {e: step for step in plan.walk() for e in step.operation.equations}
        self._making: dict[Value, Equation] = {}
        self._constants: dict[Any, Any] = {}
        self._made: dict[Value, TokenMap] = {}
        self._applied: dict[tuple[Value, tuple[int | None, ...]], int] = {}
        # Of the loops around: those whose steps are parts of one map, and those that carry.
        self._parallel: list[Dim] = []
        self._serial: list[Dim] = []

    def source(self, value: Value) -> Known:
        """An explained input."""
        shape = self.axes.of(value.shape)
        self._sources.extend(shape)
        return Known(shape, origins=frozenset([value]))

    @property
    def sources(self) -> set[int]:
        """The axes of the explained inputs."""
        return {axis for dim in self._sources for axis in self.axes.find(dim)}

    def described(self, equation: Equation) -> str:
        """An operation, in words."""
        step = self._steps.get(equation)
        structure = step.structure if step is not None else None
        also = f" ({structure})" if structure not in (None, equation.name) else ""
        return f"{equation.name}{also} at {equation.source}"

    def numbers(self, atom: Any) -> np.ndarray | None:
        """The value of a constant that says where others are, if it has one yet."""
        if isinstance(atom, Literal):
            return np.asarray(atom.array)
        if atom not in self._constants:
            equation = self._making.get(atom)
            small = equation is not None and not atom.inexact and np.prod(atom.shape) <= 1 << 16
            read = [self.numbers(a) for a in equation.inputs] if equation and small else [None]
            found = None
            if equation is not None and small and all(a is not None for a in read):
                with jax.ensure_compile_time_eval():
                    results = equation.evaluate(read)
                found = results[equation.outputs.index(atom)]
            self._constants[atom] = found
        array = self._constants[atom]
        return None if array is None or _compat.is_traced(array) else np.asarray(array)

    def body(
        self, plan: Plan, known: dict[Value, Known], rounds: tuple[int | None, ...]
    ) -> list[Known | None]:
        """What is known of the outputs of a plan, from what is known of the inputs."""
        return self._read(plan.graph, plan, known, rounds)

    def _read(
        self,
        graph: Graph,
        plan: Plan | None,
        known: dict[Value, Known],
        rounds: tuple[int | None, ...],
    ) -> list[Known | None]:
        """Fills `known`; without a plan where a body is taken as one operation."""
        steps = {step.operation.last: step for step in plan.steps} if plan is not None else {}
        self._constants.update(graph.constants)
        for equation in graph.equations:
            self._making.update((out, equation) for out in equation.outputs)
            operands = known_of(known, equation.inputs)
            if all(operand is None for operand in operands):
                continue
            found = self._results(equation, steps.get(equation), operands, rounds)
            for out, result in zip(equation.outputs, found, strict=True):
                # What counts as a constant mixes nothing.
                if result is None or not out.inexact or (plan and out not in plan.dependent):
                    continue
                if out in self._number:
                    result = self._mapped(out, steps.get(equation), result, known)
                known[out] = result
        return known_of(known, graph.outputs)

    def _results(
        self,
        equation: Equation,
        step: Step | None,
        operands: Sequence[Known | None],
        rounds: tuple[int | None, ...],
    ) -> Sequence[Known | None]:
        if step is not None and step.bodies:
            return self._inside(step, operands, rounds)
        if len(equation.bodies) == 1 and len(equation.bodies[0].inputs) == len(operands):
            (graph,) = equation.bodies
            if len(graph.outputs) == len(equation.outputs) and equation.name != "scan":
                return self._read(graph, None, placed(graph, operands), rounds)
        applied = self._application(equation, operands, rounds)
        if applied is not None:
            return [applied]
        both = known_together(operands)
        found = through(self.axes, equation, operands, self.numbers)
        if equation.name == "dot_general" and None in operands:
            found = [self._by_constants(equation, operands, laid) for laid in found]
        return [both.laid(laid) for laid in found]

    def _by_constants(
        self, equation: Equation, operands: Sequence[Known | None], laid: Laid
    ) -> Laid:
        """A matrix of constants on the axis of tokens makes other tokens of them."""
        (contracting, batch), known = equation.params["dimension_numbers"], operands[0] is None
        operand = operands[known]
        assert operand is not None
        summed = [operand.shape[i] for i in contracting[known]]
        tokens = {a for one in self.seen for dim in (one.looking, one.looked) for a in dim}
        if not summed or not all(dim and self.axes.related(dim, (*tokens,)) for dim in summed):
            return laid
        free = len(operand.shape) - len(contracting[known]) - len(batch[known])
        begin = len(batch[known]) + (0 if known else free)
        end = len(laid.shape) - (free if known else 0)
        made = [axis for dim in summed for axis in dim]
        shape = [
            self.axes.mixed(self.axes.size(dim), made, equation) if begin <= i < end else dim
            for i, dim in enumerate(laid.shape)
        ]
        if not any(shape[begin:end]):
            return laid
        return Laid(tuple(shape), {p: by for p, by in laid.pooled.items() if p not in made})

    def _mapped(
        self, out: Value, step: Step | None, result: Known, known: Mapping[Value, Known]
    ) -> Known:
        """A map of attention: what makes it a softmax mixes no tokens, its application will."""
        block = self.blocks[self._number[out]]
        shape = result.shape
        if step is not None and step.structure == "softmax":
            start = known.get(step.operation.inputs[0])  # type: ignore[arg-type]
            if start is not None and step.operation.inputs[0].shape == out.shape:
                shape = start.shape
        compared = tuple(known[value] for value in block.compared) or (result,)
        tokens, shape = shape, self.axes.told_apart(shape)
        self._made[out] = TokenMap(shape, tokens, compared, result.at)
        axes = [axis for dim in shape for axis in dim]
        pooled = {
            p: by
            for p, by in result.pooled.items()
            if not any(self.axes.depends(axis, p) for axis in axes)
        }
        return dataclasses.replace(result, shape=shape, pooled=pooled, maps=frozenset([out]))

    def _application(
        self,
        equation: Equation,
        operands: Sequence[Known | None],
        rounds: tuple[int | None, ...],
    ) -> Known | None:
        """A product of a map with values: the tokens are those that look, and no others."""
        if equation.name != "dot_general":
            return None
        contracting, batch = equation.params["dimension_numbers"]
        for side, operand in enumerate(operands):
            if operand is None or not operand.maps or not contracting[side]:
                continue
            found = [  # Several where one map was subtracted from another.
                self._applied_map(equation, operands, side, value, where, rounds)
                for value in sorted(operand.maps, key=self._number.__getitem__)
                if (where := self._where(value, operand, contracting[side], batch[side]))
            ]
            if found:
                both = frozenset().union(*(one.applications for one in found))
                return dataclasses.replace(found[0], applications=both)
        return None

    def _applied_map(
        self,
        equation: Equation,
        operands: Sequence[Known | None],
        side: int,
        value: Value,
        where: tuple[int, int | None, int],
        rounds: tuple[int | None, ...],
    ) -> Known:
        """What one map makes of values."""
        made, operand, values = self._made[value], operands[side], operands[1 - side]
        assert operand is not None
        summed, query, key = where
        both = equation.params["dimension_numbers"][0]
        other = both[1 - side][both[side].index(summed)]
        looked = made.tokens[key]
        if values is not None and self._is_explained(values.shape[other]):
            looked = values.shape[other]
        looking = () if query is None else made.tokens[query]
        others = [d for i, d in enumerate(values.shape) if i != other] if values else []
        between = self._is_of_tokens(looked) or self._is_of_tokens(looking)
        if not between and any(map(self._is_of_tokens, others)):
            # Every token mixes what is of itself: experts, or channels.
            (laid,) = through(self.axes, equation, operands, self.numbers)
            return dataclasses.replace(known_together(operands).laid(laid), maps=frozenset())
        shape = product(self.axes, equation, [a and a.shape for a in operands])
        if query is not None:
            own = self.axes.find(made.shape[query])
            shape = tuple(looking if self.axes.find(d) == own else d for d in shape)
        number = self._look(value, operand.shape[summed], looked, (query, key), values, rounds)
        queries = self.seen[number].queries
        at = made.at | (values.at if values is not None else frozenset())
        known = {"applications": queries.applications | {number}, "at": at, "maps": frozenset()}
        return dataclasses.replace(queries, shape=shape, **known)

    def _is_explained(self, dim: Dim) -> bool:
        return bool(self.axes.ancestry(dim) & self.sources)

    def _is_of_tokens(self, dim: Dim) -> bool:
        """Whether it is of what is explained, or of constants that have looked at that before."""
        known = {self.axes.find(of) for one in self.seen for of in (one.looking, one.looked) if of}
        return self._is_explained(dim) or self.axes.find(dim) in known

    def _is_wide(self, dim: Dim) -> bool:
        return self.axes.size(dim) > 1

    def _is_same(self, dim: Dim, other: Dim) -> bool:
        return self.axes.find(dim) == self.axes.find(other)

    def _is_of(self, dim: Dim, other: Dim) -> bool:
        """Whether entries along a dim are of another, all of them or some."""
        dim, other = self.axes.find(dim), self.axes.find(other)
        if dim == other or len(dim) != 1 or len(other) != 1:
            return dim == other
        return self.axes.base(dim[0]) == self.axes.base(other[0])

    def _where(
        self, value: Value, operand: Known, contracted: Sequence[int], batch: Sequence[int]
    ) -> tuple[int, int | None, int] | None:
        """Which axis a product sums over, and which of the map are queries and keys."""
        shape = self._made[value].shape
        wide = [i for i, dim in enumerate(operand.shape) if self._is_wide(dim)]
        places: dict[int, int] = {}
        for same in (self._is_same, self._is_of):
            for i in (i for i in wide if i not in places):
                free = [j for j, dim in enumerate(shape) if self._is_wide(dim)]
                free = [j for j in free if j not in places.values()]
                found = next((j for j in free if same(operand.shape[i], shape[j])), None)
                places.update({} if found is None else {i: found})
        left = [j for j, dim in enumerate(shape) if self._is_wide(dim) and j not in places.values()]
        if len(left) + len(places) == len(wide):
            places.update(zip((i for i in wide if i not in places), left, strict=True))
        narrow = [i for i in range(len(operand.shape)) if i not in wide]
        ones = [j for j, dim in enumerate(shape) if not self._is_wide(dim)]
        if len(narrow) == len(ones):
            places.update(zip(narrow, ones, strict=True))
        # Not the mixing of heads: keys are tokens, or what the last axis of the map is of.
        sums = [
            i
            for i in contracted
            if i in places and (self._is_explained(operand.shape[i]) or places[i] == len(shape) - 1)
        ]
        if not sums:
            return None
        summed = next((i for i in reversed(sums) if self._is_explained(operand.shape[i])), sums[-1])
        free = [
            i
            for i in range(len(operand.shape))
            if i in places and i not in contracted and i not in batch
        ]
        looking = next(
            (i for i in reversed(free) if self._is_explained(operand.shape[i])),
            free[-1] if free else None,
        )
        return summed, None if looking is None else places[looking], places[summed]

    def _look(
        self,
        value: Value,
        applied: Dim,
        looked: Dim,
        axes: tuple[int | None, int],
        values: Known | None,
        rounds: tuple[int | None, ...],
    ) -> int:
        """The number of an application; that of a map that is applied again is the same."""
        if (value, rounds) in self._applied:
            return self._applied[value, rounds]
        made, (query, key) = self._made[value], axes
        find, whole = self.axes.find, made.shape[key]
        looking = () if query is None else made.tokens[query]
        queries, keys = self._compared(made, looking, made.tokens[key])
        seen_at = keys.at | (values.at if values is not None else frozenset())
        columns, obstacle = None, ""
        if find(applied) != find(whole) and self.axes.size(applied) != self.axes.size(whole):
            if (columns := self.axes.within(applied, whole)) is None:
                obstacle = "the map has other keys than the values it is taken with"
        serial = [dim for dim in self._serial if dim in queries.at | seen_at]
        if serial:
            obstacle = "its tokens come in chunks, one per step of a loop that carries on"
        chunks = []
        for i, dim in reversed([*enumerate(self._parallel)]):
            joined = self.axes.joined((*find(dim), *find(looking)))
            whole_again = len(joined) < len(dim) + len(looking)
            alone = query is None and not looking and self._is_explained(dim)
            if dim in queries.at and dim not in seen_at and (whole_again or alone):
                looking = joined
                chunks.append(i)
        rows = self.axes.within(looking or self._one_of(queries, looked), looked)
        if rows is not None and len(rows) == self.axes.size(looked):
            rows = None
        turns = len(self._parallel)
        number = self._applied[value, rounds] = len(self.seen)
        self.seen.append(
            Seen(
                map=self._number[value],
                rounds=rounds,
                shape=(*self._parallel, *made.tokens),
                axes=(None if query is None else query + turns, key + turns),
                queries=queries,
                keys=keys if values is None else known_together([values, keys]),
                looking=looking,
                looked=looked,
                rows=rows,
                chunks=tuple(chunks),
                columns=columns,
                obstacle=obstacle,
            )
        )
        return number

    def _one_of(self, queries: Known, looked: Dim) -> Dim:
        """Which of the tokens that are looked at a single query was made from."""
        of = [p for p in queries.pooled if any(self.axes.depends(a, p) for a in looked)]
        return (of[0],) if len(of) == 1 and self.axes.size((of[0],)) == 1 else ()

    def _compared(self, made: TokenMap, looking: Dim, looked: Dim) -> tuple[Known, Known]:
        """Queries and keys of a map."""
        if len(made.compared) == 2:
            first, second = made.compared
            dims = [{self.axes.find(dim) for dim in side.shape} for side in made.compared]
            looking, looked = self.axes.find(looking), self.axes.find(looked)
            swapped = looking and looking in dims[1] and looking not in dims[0]
            swapped = swapped or (not looking and looked in dims[0] and looked not in dims[1])
            return (second, first) if swapped else (first, second)
        (result,) = made.compared
        # Queries that depend on nothing explained have an axis that comes from nowhere.
        return (result if self._is_explained(looking) else Known(result.shape)), result

    def _inside(
        self, step: Step, operands: Sequence[Known | None], rounds: tuple[int | None, ...]
    ) -> Sequence[Known | None]:
        if step.structure == "scan":
            return self._loop(step, operands, rounds)
        branches = []
        for body in step.bodies:
            given = operands[len(operands) - len(body.graph.inputs) :]
            branches.append(self.body(body, placed(body.graph, given), rounds))
        outs = step.operation.outputs
        pairs = zip(outs, zip(*branches, strict=True), strict=True)
        return [self._either(step, out.shape, found) for out, found in pairs]

    def _loop(
        self, step: Step, operands: Sequence[Known | None], rounds: tuple[int | None, ...]
    ) -> Sequence[Known | None]:
        """A scan: of independent steps as one, else step by step where there is attention in it."""
        (body,) = step.bodies
        params = step.operation.last.params
        consts, carried = _compat.scan_sizes(params)
        fixed, carry = list(operands[:consts]), list(operands[consts : consts + carried])
        stacked = operands[consts + carried :]
        along = self._along(stacked, params["length"])
        marks = frozenset(a.shape[0] for a in stacked if a is not None and a.shape[0])
        slices = [
            a
            and dataclasses.replace(
                a, shape=a.shape[1:], at=a.at | ({a.shape[0]} if a.shape[0] else set())
            )
            for a in stacked
        ]
        attends = any(value in self._number for value in values_of(body))
        if attends and marks:
            found = self._at_once(
                body, [*fixed, *carry, *slices], marks, along, (consts, carried), rounds
            )
            if found is not None:
                ends = [self._stacked(step, a, marks, along) for a in found[carried:]]
                return [*carry, *ends]
        numbers = range(params["length"])
        out: list[Known | None] = [None] * len(body.graph.outputs[carried:])
        shapes = [value.shape for value in body.graph.outputs]
        turns = (reversed(numbers) if params["reverse"] else numbers) if attends else (0, 0)
        # Without attention a second round is there only for what the first one carries.
        for i in turns:
            self._serial.extend(marks)
            found = self.body(
                body,
                placed(body.graph, [*fixed, *carry, *slices]),
                (*rounds, i) if attends else rounds,
            )
            del self._serial[len(self._serial) - len(marks) :]
            after = [self._carried(step, a, marks) for a in found[:carried]]
            if not attends:
                pairs = zip(shapes, carry, after, strict=False)
                after = [self._either(step, shape, pair) for shape, *pair in pairs]
            carry = after
            pairs = zip(shapes[carried:], out, found[carried:], strict=True)
            out = [self._either(step, shape, pair) for shape, *pair in pairs]
        return [*carry, *(self._stacked(step, a, marks, along) for a in out)]

    def _along(self, stacked: Sequence[Known | None], length: int) -> Dim:
        """The axis of the steps of a loop."""
        dims = [a.shape[0] for a in stacked if a is not None and a.shape[0]]
        for dim in dims[1:]:
            if not self.axes.related(dims[0], dim):
                self.axes.unite(dims[0], dim)
        return dims[0] if dims else self.axes.new(length)

    def _at_once(
        self,
        body: Plan,
        given: Sequence[Known | None],
        marks: frozenset[Dim],
        along: Dim,
        sizes: tuple[int, int],
        rounds: tuple[int | None, ...],
    ) -> Sequence[Known | None] | None:
        """All steps of a loop as parts of one, if they have nothing to do with each other."""
        consts, carried = sizes
        begun = len(self.seen)
        self._parallel.append(along)
        found = self.body(body, placed(body.graph, given), (*rounds, None))
        self._parallel.pop()
        made = range(begun, len(self.seen))
        independent = all(
            after is None or (not after.at & marks and not after.applications & set(made))
            for after in found[:carried]
        )
        parts = all(
            marks & (one.queries.at | one.keys.at) and not one.obstacle for one in self.seen[begun:]
        )
        if made and independent and parts:
            return found
        del self.seen[begun:]
        self._applied = {k: n for k, n in self._applied.items() if n < begun}
        return None

    def _carried(self, step: Step, a: Known | None, marks: frozenset[Dim]) -> Known | None:
        """What a loop hands on to its next step has been at all steps so far."""
        if a is None or not a.at & marks:
            return a
        gone = {axis: step.operation.last for dim in a.at & marks for axis in dim}
        passed = dataclasses.replace(a, at=a.at - marks)
        return passed.laid(settled(self.axes, Laid(a.shape, {**a.pooled, **gone})))

    def _stacked(
        self, step: Step, a: Known | None, marks: frozenset[Dim], along: Dim
    ) -> Known | None:
        """What a loop hands out, one after the other."""
        if a is None:
            return None
        others = {
            axis: step.operation.last
            for dim in a.at & marks
            if self.axes.find(dim) != self.axes.find(along)
            for axis in dim
        }
        laid = settled(self.axes, Laid((along, *a.shape), {**a.pooled, **others}))
        return dataclasses.replace(a, at=a.at - marks).laid(laid)

    def _either(
        self, step: Step, shape: Sequence[int], found: Sequence[Known | None]
    ) -> Known | None:
        """What is known of a value that may be one of several."""
        there = [value for value in found if value is not None]
        if not there:
            return None
        if all(value.shape == there[0].shape for value in there):
            laid = settled(self.axes, Laid(there[0].shape, known_together(there).pooled))
        else:
            laid = entrywise(self.axes, step.operation.last, shape, there)
        return known_together(there).laid(laid)
