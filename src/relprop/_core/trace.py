"""A Python function of pytrees becomes a graph."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from relprop import _compat
from relprop._arguments import explained_outputs
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Graph, Literal, Value
from relprop._core.operation import Propagator
from relprop._core.region import region_of
from relprop._errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """A function traced on given arguments.

    Attributes:
        graph: its equations; the inputs are the array leaves of the arguments, in tree order.
        arrays: the values of those leaves.
        names: what the user calls them, as ``argument/key``.
        explained: which of the leaves are to be explained, per entry of `argnums`.
        in_trees: tree structure of each explained argument.
        out_tree: tree structure of what the function returned.
        out_shapes: those leaves of it that are arrays, as `jax.ShapeDtypeStruct`.
        kept: the other leaves, by their position.
    """

    graph: Graph
    arrays: tuple[Any, ...]
    names: tuple[str, ...]
    explained: tuple[tuple[int, ...], ...]
    in_trees: tuple[Any, ...]
    out_tree: Any
    out_shapes: tuple[Any, ...]
    kept: Mapping[int, Any] = dataclasses.field(default_factory=dict)

    def returned(self, arrays: Sequence[Any]) -> Any:
        """What the function returns, given the values of the outputs of the graph."""
        supply = iter(arrays)
        count = self.out_tree.num_leaves
        leaves = [self.kept[i] if i in self.kept else next(supply) for i in range(count)]
        return jtu.tree_unflatten(self.out_tree, leaves)

    @property
    def explained_values(self) -> set[Value]:
        return {self.graph.inputs[i] for group in self.explained for i in group}


def trace(
    function: Callable[..., Any],
    args: Sequence[Any],
    argnums: Sequence[int],
    has_aux: bool = False,
    integers: bool = False,
) -> Trace:
    """Traces `function(*args)`; array leaves become inputs, everything else stays as it is.

    Of the explained arguments only real numbers are accepted, or with `integers` any arrays.

    As with `jax.grad`, Python numbers are arrays in the explained arguments and themselves in
    the others, so that a function may branch on them; and in what is returned beside the explained
    outputs, anything that is no array stays what it is.
    """
    given = _Arguments.of(function, args, argnums, integers)
    out_tree = None
    kept: dict[int, Any] = {}

    def flattened(*leaves: Any) -> list[Any]:
        nonlocal out_tree, kept
        out = function(*given.rebuilt(leaves))
        paths, out_tree = jtu.tree_flatten_with_path(out)
        count = explained_outputs(out_tree, has_aux)
        for path, leaf in paths[:count]:
            _check_output(leaf, _path(path))
        outputs = [leaf for _, leaf in paths]
        kept = {i: x for i, x in enumerate(outputs) if i >= count and not _is_output(x)}
        return [leaf for i, leaf in enumerate(outputs) if i not in kept]

    jaxpr, shapes = _compat.make_jaxpr(flattened, *given.arrays)
    marked = {i for group in given.explained.values() for i in group}
    # What is computed from an explained argument is no parameter.
    origins = [
        Origin("" if i in marked else label, touched=i in marked)
        for i, label in enumerate(given.labels)
    ]
    return Trace(
        graph=graph_of(jaxpr, origins),
        arrays=tuple(given.arrays),
        names=tuple(given.labels),
        explained=tuple(tuple(group) for group in given.explained.values()),
        in_trees=tuple(given.flat[number][1] for number in given.explained),
        out_tree=out_tree,
        out_shapes=tuple(shapes),
        kept=kept,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Arguments:
    """The arguments of a function, with those leaves told apart that are traced.

    Attributes:
        flat: per argument its leaves with their paths, and its tree.
        explained: per explained argument, which of the arrays are its leaves.
        arrays: the leaves that are traced.
        labels: what they are called.
        sources: for each of them the number of the argument, and of its leaf.
    """

    flat: list[tuple[Any, Any]]
    explained: dict[int, list[int]]
    arrays: list[Any] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    sources: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        args: Sequence[Any],
        argnums: Sequence[int],
        integers: bool,
    ) -> _Arguments:
        names = _argument_names(function, len(args))
        flat = [jtu.tree_flatten_with_path(arg) for arg in args]
        given = cls(flat, {number: [] for number in argnums})
        for number, (leaves, _) in enumerate(flat):
            for position, (path, leaf) in enumerate(leaves):
                label = "/".join(part for part in (names[number], _path(path)) if part)
                if number in given.explained:
                    leaf = leaf if integers and _is_array(leaf) else _explainable(leaf, label)
                    given.explained[number].append(len(given.arrays))
                elif not _is_array(leaf) or _is_numpy_mask(leaf):
                    continue
                given.sources.append((number, position))
                ready = isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))
                given.arrays.append(leaf if ready else jnp.asarray(leaf))
                given.labels.append(label)
        for number, group in given.explained.items():
            if not group:
                raise InputError(
                    f"Argument {number} ({names[number]!r}) is to be explained but holds no "
                    f"array: its tree is {flat[number][1]}. Choose another one with `argnums`."
                )
        return given

    def rebuilt(self, leaves: Sequence[Any]) -> list[Any]:
        """The arguments with other arrays for those that are traced."""
        new = [[leaf for _, leaf in pairs] for pairs, _ in self.flat]
        for (number, position), leaf in zip(self.sources, leaves, strict=True):
            new[number][position] = leaf
        trees = (tree for _, tree in self.flat)
        return [jtu.tree_unflatten(tree, own) for tree, own in zip(trees, new, strict=True)]


_NUMBERS = (float, int, complex)


class Origin(NamedTuple):
    """What is known of a value before the graph that it is an input of."""

    path: str = ""
    distance: int = 0
    touched: bool = False

    @classmethod
    def of(cls, atom: Atom) -> Origin:
        return cls() if isinstance(atom, Literal) else cls(atom.path, atom.distance, atom.touched)


def graph_of(
    jaxpr: Any, origins: Sequence[Origin] = (), scope: str = "", callers: tuple[Any, ...] = ()
) -> Graph:
    """Converts a jaxpr, with all that it calls, into a graph."""
    jaxpr, consts = _compat.open_jaxpr(jaxpr)
    origins = origins or [Origin()] * len(jaxpr.invars)
    names: dict[Any, Any] = {
        var: _value(var, origin) for var, origin in zip(jaxpr.invars, origins, strict=True)
    }
    constants: dict[Value, Any] = {}
    equations: list[Equation] = []
    outputs = _inline(jaxpr, consts, names, (scope, callers), constants, equations)
    return Graph(
        inputs=tuple(names[var] for var in jaxpr.invars),
        constants=constants,
        equations=tuple(equations),
        outputs=tuple(outputs),
        inner=bool(callers),
        scope=scope,
    )


def _inline(
    jaxpr: Any,
    consts: Sequence[Any],
    names: dict[Any, Atom],
    context: tuple[str, tuple[Any, ...]],
    constants: dict[Value, Any],
    equations: list[Equation],
) -> list[Atom]:
    """Appends the equations of a jaxpr whose inputs are already named; returns its outputs."""
    # Constants live at every level: a jitted closure keeps its own in the inner jaxpr.
    for var, array in zip(jaxpr.constvars, consts, strict=True):
        names[var] = value = _value(var)
        constants[value] = array

    def atom(var: Any) -> Atom:
        return Literal(var.val) if isinstance(var, _compat.Literal) else names[var]

    scope, callers = context
    for eqn in jaxpr.eqns:
        inputs = [atom(var) for var in eqn.invars]
        inner_scope = "/".join(part for part in (scope, _compat.scope_of(eqn)) if part)
        kind = registry.lookup(eqn.primitive)
        region = region_of(eqn) if kind.inline else ""
        if kind.inline and not region:
            body, inner_consts = _compat.open_jaxpr(_bodies(eqn, kind)[0])
            inside = (inner_scope, (eqn, *callers))
            split_in, split_out = _compat.call_shardings(eqn)
            inputs = _split(inputs, split_in, inside, equations)
            inner = dict(zip(body.invars, inputs, strict=True))
            outs = _inline(body, inner_consts, inner, inside, constants, equations)
            outs = _split(outs, split_out, inside, equations)
            names.update(zip(eqn.outvars, outs, strict=True))
            continue
        shape, dtype = _type(eqn.outvars[0]) if eqn.outvars else ((), None)
        same = kind.repeats(inputs, dtype)
        if same is not None and (same.shape, same.dtype) == (shape, dtype):
            names[eqn.outvars[0]] = same
            continue
        outs = [_value(var, _origin(inputs, var, kind.structural)) for var in eqn.outvars]
        names.update(zip(eqn.outvars, outs, strict=True))
        bodies = []
        for body in _bodies(eqn, kind):
            arity = len(_compat.open_jaxpr(body)[0].invars)
            # Operands of a body are the last ones of its equation: a branch index comes first.
            origins = [Origin.of(operand) for operand in inputs[len(inputs) - arity :]]
            if any(origin.touched for origin in origins):
                # What a loop carries is touched after its first round.
                carried = _compat.carried_operands(eqn)
                origins = [
                    Origin(touched=True) if i in carried else o for i, o in enumerate(origins)
                ]
            bodies.append(graph_of(body, origins, inner_scope, (eqn, *callers)))
        equations.append(
            Equation(eqn, tuple(inputs), tuple(outs), inner_scope, tuple(bodies), callers, region)
        )
    return [atom(var) for var in jaxpr.outvars]


def _split(
    atoms: Sequence[Atom],
    shardings: Sequence[Any],
    context: tuple[str, tuple[Any, ...]],
    equations: list[Equation],
) -> list[Atom]:
    """The operands or results of an inlined call, split over devices as the call asks for."""
    scope, callers = context
    found = []
    for atom, sharding in zip(atoms, shardings, strict=True):
        if sharding is not None and isinstance(atom, Value):
            eqn = _compat.constraint(atom.shape, atom.dtype, sharding)
            moved = Value(atom.shape, atom.dtype, *Origin.of(atom))
            equations.append(Equation(eqn, (atom,), (moved,), scope, (), callers))
            atom = moved
        found.append(atom)
    return found


def _origin(inputs: Sequence[Atom], var: Any, structural: bool) -> Origin:
    """What a result was computed from.

    `kernel` transposed, masked, quantised or normalised is still `kernel`, so that a rule can be
    given to its layer by that path. Of several parameters it is the one of the shape of the
    result, and of those the one that less has been done to.
    """
    shape, dtype = _type(var)
    # A weight chosen by an index that was computed from the input is a weight all the same.
    if any(a.touched and a.inexact for a in inputs):
        return Origin(touched=True)
    named = [a for a in inputs if a.inexact and a.path]
    if not named or not jnp.issubdtype(dtype, jnp.inexact):
        return Origin()
    nearest = min(named, key=lambda a: (a.shape != shape, a.distance))  # type: ignore[union-attr]
    return Origin(nearest.path, nearest.distance + (not structural))  # type: ignore[union-attr]


def _bodies(eqn: Any, kind: Propagator) -> list[Any]:
    found: list[Any] = []
    for key in kind.bodies:
        held = eqn.params.get(key, ())
        found.extend(held if isinstance(held, (tuple, list)) else (held,))
    return found


def _type(var: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(getattr(var.aval, "shape", ())), getattr(var.aval, "dtype", None)


def _value(var: Any, origin: Origin = Origin()) -> Value:  # noqa: B008 - a frozen value
    return Value(*_type(var), *origin)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _is_numpy_mask(leaf: Any) -> bool:
    # NumPy masks and indices select with a shape that must be known while tracing.
    return isinstance(leaf, np.ndarray) and not jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_output(leaf: Any) -> bool:
    """Whether it may be computed from the arguments; what is no array of JAX is not."""
    return isinstance(leaf, jax.Array) or hasattr(leaf, "__jax_array__")


def _check_output(leaf: Any, label: str) -> None:
    if not (_is_output(leaf) or _is_array(leaf) or isinstance(leaf, _NUMBERS)):
        raise InputError(
            f"Only arrays can be explained, but the function returned a {type(leaf).__name__}"
            f"{f' as {label!r}' if label else ''}. Return it beside them, with has_aux=True."
        )


def _explainable(leaf: Any, label: str) -> Any:
    if not (_is_array(leaf) or isinstance(leaf, _NUMBERS)):
        raise InputError(
            f"Only arrays can be explained, but {label!r} is a {type(leaf).__name__}. "
            "Explain another argument with `argnums`, or split the tree into arrays and the rest."
        )
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise InputError(
            f"Relevance is defined for real numbers, but {label!r} is complex: dtype {dtype}, shape"
            f" {np.shape(leaf)}. Explain its real and imaginary part: arguments of their own, from "
            "which the function makes it by `lax.complex`."
        )
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"Relevance is defined for real numbers, but {label!r} has dtype {dtype} and shape "
            f"{np.shape(leaf)}. Token ids and other integers: look up their embeddings first and "
            "explain those. Pixel values: convert them with `x.astype(jnp.float32)`."
        )
    return leaf


def _argument_names(function: Callable[..., Any], count: int) -> list[str]:
    fallback = [f"args[{i}]" for i in range(count)]
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return fallback
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional]
    return (names + fallback[len(names) :])[:count]


def _path(path: tuple[Any, ...]) -> str:
    return jtu.keystr(path, simple=True, separator="/")
