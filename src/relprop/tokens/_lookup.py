"""Where a function of token ids looks their embeddings up, read from what it computes."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Sequence

import jax.numpy as jnp

from relprop._core import registry
from relprop._core.control import Call, Remat
from relprop._core.graph import Atom, Equation, Graph, Literal, Value, computed_from
from relprop._errors import InputError

#: What hands ids on as they are, or with those out of range brought into it.
_MOVES = frozenset(
    "convert_element_type reshape broadcast_in_dim squeeze copy clamp max min "
    "optimization_barrier sharding_constraint reduce_precision name".split()
)


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """An operation that takes the embeddings of the ids from a table.

    Attributes:
        equation: it, in the graph or in one of its bodies.
        table: the parameter that it takes from, by its path; empty if it is not a parameter.
        rows: how many embeddings are in it.
        kind: how it does that, in words.
    """

    equation: Equation
    table: str
    rows: int
    kind: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.equation.outputs[0].shape

    def __str__(self) -> str:
        table = repr(self.table) if self.table else "a table that is no parameter"
        (out,) = self.equation.outputs
        return f"{self.kind} {table}, {out!r}, at {self.equation.source}"


def find(graph: Graph, ids: Value, embedding: str | None) -> list[Lookup]:
    """The lookups of the token embeddings: one, or several that give the same.

    Args:
        graph: of the function.
        ids: those of its inputs ``[batch, tokens]``.
        embedding: a pattern for the path of the table.

    Raises:
        InputError: there is none, or there are several that differ; it says what was found.
    """
    found = list(_lookups(graph, {ids}))
    fitting = [x for x in found if _per_token(x.shape, ids.shape)]
    wanted = [x for x in fitting if embedding is None or fnmatch.fnmatchcase(x.table, embedding)]
    same = {(x.table, x.shape, x.equation.outputs[0].dtype) for x in wanted}
    if len(same) == 1 and (wanted[0].table or len(wanted) == 1):
        return wanted
    if wanted:
        raise InputError(
            "Embeddings are looked up by the ids in several tables:\n"
            + "\n".join(f"  {lookup}" for lookup in wanted)
            + "\nSay which of them counts, by `embedding` and the path of its table (others stay "
            "constants), or split the function yourself with `LanguageModel`."
        )
    raise InputError(_nothing(graph, ids, found, embedding))


def _nothing(graph: Graph, ids: Value, found: list[Lookup], embedding: str | None) -> str:
    """Why there is no lookup, as far as can be seen."""
    if found:
        what = "The ids look up, but not one embedding for each [batch, tokens]"
        if any(_per_token(x.shape, ids.shape) for x in found):
            what = f"No table that the ids look up has a path like {embedding!r}"
        listed = found
    else:
        readers = [e for e in graph.equations if ids in e.inputs]
        what = "The ids look up nothing: " + (
            "they are read by" if readers else "the function does not read them"
        )
        listed = [f"{e.name} at {e.source}" for e in readers]
    return (
        f"{what}{':' if listed else '.'}\n"
        + "".join(f"  {each}\n" for each in listed)
        + "An embedding is taken from a table by the ids as they are, by a gather or by a product "
        "with their one-hot vectors, outside of loops. Split the function yourself with "
        "`LanguageModel`."
    )


def _per_token(shape: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether there is one row of features for each token, in their order."""

    def sizes(shape: Sequence[int]) -> list[int]:
        return [n for n in shape if n != 1]

    batch, length = ids
    rows = sizes(shape[:-1])
    return len(shape) > 1 and rows in (sizes((batch, length)), sizes((batch * length,)))


def _lookups(graph: Graph, ids: set[Atom]) -> Iterator[Lookup]:
    """What takes rows of a table by the ids, in a graph and in what it calls."""
    ids = set(ids)
    one_hot: set[Atom] = set()
    computed = computed_from(graph.equations, ids)
    for equation in graph.equations:
        operands = equation.inputs
        body = body_of(equation)
        if body is not None:
            inside: set[Atom] = {v for v, a in zip(body.inputs, operands, strict=True) if a in ids}
            if inside:
                yield from _lookups(body, inside)
            continue
        if len(equation.outputs) != 1:
            continue
        (out,) = equation.outputs
        if _is_move(equation, ids):
            (ids if not out.inexact else one_hot).add(out)
        elif equation.name == "eq" and _matches_ids(equation, ids, computed):
            one_hot.add(out)
        elif equation.name in _MOVES and operands[0] in one_hot:
            one_hot.add(out)
        elif equation.name == "dot_general" and any(a in one_hot for a in operands):
            tables = [a for a in operands if a not in one_hot]
            if len(tables) == 1 and tables[0] not in computed:
                yield Lookup(equation, *_table(equation, tables[0]), "a product of one-hots with")
        elif equation.name == "gather" and operands[1] in ids and operands[0] not in computed:
            if out.inexact:
                yield Lookup(equation, *_table(equation, operands[0]), "rows of")


def _table(equation: Equation, table: Atom) -> tuple[str, int]:
    """The path of a table and how many rows it has."""
    if equation.name == "gather":
        axis = equation.params["dimension_numbers"].start_index_map[0]
    else:
        contracting, _ = equation.params["dimension_numbers"]
        (axis, *_) = contracting[equation.inputs.index(table)]
    return table.path, table.shape[axis]


def body_of(equation: Equation) -> Graph | None:
    """The body of an equation that is a mere call: a checkpoint, a function with a derivative."""
    if type(registry.lookup(equation.primitive)) not in (Call, Remat):
        return None
    (body,) = equation.bodies
    return body if len(body.inputs) == len(equation.inputs) else None


def _is_move(equation: Equation, ids: set[Atom]) -> bool:
    """Whether it hands the ids on; negative ones may count from the end."""
    out, operands = equation.outputs[0], equation.inputs
    if jnp.issubdtype(out.dtype, jnp.bool_) or out.inexact:
        return False
    if equation.name == "select_n":
        return any(atom in ids for atom in operands[1:])
    if equation.name == "concatenate":  # of an index of rows with one of columns
        axis = equation.params["dimension"]
        own = [atom for atom in operands if atom in ids]
        return axis == len(out.shape) - 1 and len(own) == 1 and own[0].shape[axis] == 1
    return equation.name in _MOVES and any(atom in ids for atom in operands)


def _matches_ids(equation: Equation, ids: set[Atom], computed: set[Atom]) -> bool:
    """Whether ids are compared with numbers that do not depend on them, one after the other."""
    left, right = equation.inputs
    known = right if left in ids else left
    return (left in ids) != (right in ids) and known not in computed and _is_row(known)


def _is_row(atom: Atom) -> bool:
    return not isinstance(atom, Literal) and max(atom.shape, default=0) > 1
