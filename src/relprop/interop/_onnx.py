"""ONNX models, by functions of JAX for their operators."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._errors import ForwardError, InputError
from relprop.interop import _onnx_layers as _onnx_layers  # They enter their operators.
from relprop.interop import _onnx_recurrent as _onnx_recurrent
from relprop.interop._onnx_operators import OPERATORS, SETTINGS

if TYPE_CHECKING:
    import onnx  # pyright: ignore[reportMissingImports]

#: Differences from onnxruntime that are allowed: half the digits of float32.
_ALLOWED = float(np.sqrt(np.finfo(np.float32).eps))


def from_onnx(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    operators: Mapping[str, Callable[..., Any]] | None = None,
    check: bool = True,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    r"""An ONNX model as a JAX function and its parameters.

    The nodes of the graph run one after another, each as a function of JAX arrays, in the JAX scope
    of its name. What a node computes from numbers alone (shapes, axes, conditions of branches) is
    computed by the reference implementation in the package onnx, in NumPy, so that it is known
    while JAX traces: the function can be jitted and explained at any one size.

    Args:
        model: the path of a file, its bytes, or a model that the package onnx has loaded.
        operators: functions for operators, by their types, instead of those that are known or for
            those that are not. Each takes the inputs of a node, None for one that is left out, and
            its attributes by their names, and returns its output or a tuple of them.
        check: at the first call of `fn` with numbers, onnxruntime runs the model as well, once, if
            it is installed, and the results are compared, to half the digits of float32.

    Returns:
        ``(fn, params)``. `params` maps the names of the weights, floating-point tensors of more
        than one entry, to JAX arrays. ``fn(params, *inputs, **inputs)`` takes the inputs of the
        graph in their order or by their names, and returns its output, or a tuple where it has
        several. An input that is a NumPy array or number of integers or truth values stays as it
        is, so that shapes and branches may depend on it.

    Raises:
        InputError: operators that are not known (all are listed), a graph with values that are no
            tensors; by `fn`, where the wrong inputs are given, or where a shape or a branch
            depends on what is traced.
        ForwardError: by `fn`, at its first call with numbers: onnxruntime computes something else.
        ImportError: the package onnx is not installed.

    >>> import numpy, onnx, relprop  # doctest: +SKIP
    >>> fn, params = relprop.interop.from_onnx("model.onnx")  # doctest: +SKIP
    >>> fn(params, numpy.ones((1, 3), "float32")).shape  # doctest: +SKIP
    (1, 2)

    Source: the operators of ONNX, https://onnx.ai/onnx/operators.
    """
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_onnx needs the package onnx: pip install relprop[onnx]") from error
    proto = _loaded(model)
    if proto.functions:
        import onnx.inliner  # pyright: ignore[reportMissingImports]

        proto = onnx.inliner.inline_local_functions(proto)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
    graph = Graph.of(proto.graph, opset)
    table = {**OPERATORS, **(operators or {})}
    _check_operators(graph, table)
    graph, weights = graph.parted()
    params = {name: jnp.asarray(array) for name, array in weights.items()}
    unchecked = check

    def fn(params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        missing = sorted(set(weights) - set(params))
        if missing:
            raise InputError(f"`params` lacks {', '.join(map(repr, missing[:5]))} of the model.")
        given = graph.bound(args, kwargs)
        own = {name: jnp.asarray(params[name]) for name in weights}
        values = {name: _input(value) for name, value in given.items()}
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            outputs = graph.run(table, own, values)
        arrays = tuple(jnp.asarray(out) for out in outputs)
        nonlocal unchecked
        same = all(params[name] is own for name, own in first.items())
        if unchecked and same and not any(map(_compat.is_traced, (*values.values(), *arrays))):
            unchecked = False
            _compare(proto, given, arrays)
        return arrays[0] if len(arrays) == 1 else arrays

    first = dict(params)
    return fn, params


def _loaded(model: Any) -> Any:
    import onnx  # pyright: ignore[reportMissingImports]

    if isinstance(model, bytes):
        return onnx.load_from_string(model)
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model)
        if not path.is_file():
            raise InputError(f"There is no file {str(path)!r}.")
        return onnx.load(str(path))
    if isinstance(model, onnx.ModelProto):
        return model
    raise InputError(
        f"from_onnx takes a path, bytes or an onnx.ModelProto, got {type(model).__name__}."
    )


def _input(value: Any) -> Any:
    """Whole numbers of NumPy are known; what else there is are arrays of JAX."""
    if isinstance(value, (bool, int, np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind in "iub":
            return array
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation of a graph.

    Attributes:
        proto: as the package onnx has it.
        attributes: by their names; graphs among them as `Graph`.
        opset: the version of its operator set.
    """

    proto: Any
    attributes: Mapping[str, Any]
    opset: int

    @property
    def kind(self) -> str:
        """The type of the operator, with its domain if that is not the one of ONNX."""
        domain = self.proto.domain
        return f"{domain}.{self.proto.op_type}" if domain not in ("", "ai.onnx") else self.name

    @property
    def name(self) -> str:
        return self.proto.op_type

    @property
    def scope(self) -> str:
        """Its name as a path; exporters write those of modules with slashes or dots."""
        given = self.proto.name or (self.proto.output[0] if self.proto.output else self.name)
        return re.sub(r"[^\w/.#-]", "_", given).strip("/") or self.name

    def graphs(self) -> Iterator[Graph]:
        yield from (a for a in self.attributes.values() if isinstance(a, Graph))

    def __call__(self, table: Mapping[str, Callable[..., Any]], inputs: Sequence[Any]) -> Any:
        """Its outputs, a tuple."""
        known = [isinstance(x, (np.ndarray, np.generic)) or x is None for x in inputs]
        if all(known) and self.kind not in ("Shape", "Size"):
            return self._folded(inputs)
        function = table[self.kind]
        attributes = dict(self.attributes)
        if "opset" in inspect.signature(function).parameters:
            attributes["opset"] = self.opset
        with jax.named_scope(self.scope):
            out = function(*inputs, **attributes)
        return out if isinstance(out, tuple) else (out,)

    def _folded(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """What it computes of numbers, by the reference implementation of ONNX."""
        import onnx  # pyright: ignore[reportMissingImports]
        from onnx.reference import ReferenceEvaluator  # pyright: ignore[reportMissingImports]

        named = zip(self.proto.input, inputs, strict=True)
        feeds = {name: np.asarray(x) for name, x in named if x is not None}
        kind = onnx.helper.np_dtype_to_tensor_dtype
        typed = [
            onnx.helper.make_tensor_value_info(name, kind(x.dtype), x.shape)
            for name, x in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.proto.output if name]
        graph = onnx.helper.make_graph([self.proto], "folded", typed, outputs)
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        found = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))
        return tuple(np.asarray(x) for x in found.run(None, feeds))


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A graph: nodes in order of evaluation.

    Attributes:
        inputs: the names of what it is given.
        outputs: the names of what it returns.
        constants: its tensors, by their names.
        nodes: what it computes.
        weights: the names of those tensors that are weights, and what they are called outside.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    nodes: tuple[Node, ...]
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, graph: Any, opset: int) -> Graph:
        """From what the package onnx has read."""
        from onnx import numpy_helper  # pyright: ignore[reportMissingImports]

        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        nodes = []
        for proto in graph.node:
            attributes = {a.name: _attribute(a, opset) for a in proto.attribute}
            if proto.op_type == "Constant" and not proto.domain:
                (value,) = attributes.values()
                constants[proto.output[0]] = np.asarray(_number(value))
            else:
                nodes.append(Node(proto, attributes, opset))
        inputs = tuple(i.name for i in graph.input if i.name not in constants)
        return cls(inputs, tuple(o.name for o in graph.output), constants, tuple(nodes))

    def walk(self) -> Iterator[Node]:
        """All nodes, those of inner graphs among them."""
        for node in self.nodes:
            yield node
            for inner in node.graphs():
                yield from inner.walk()

    def parted(self) -> tuple[Graph, dict[str, np.ndarray]]:
        """The graph without its weights, which are tensors of floating point that are no settings.

        Their names are unique, though those of two branches need not be.
        """
        settings = {
            node.proto.input[i]
            for node in self.walk()
            for i in SETTINGS.get(node.kind, ())
            if i < len(node.proto.input)
        }
        found: dict[str, np.ndarray] = {}
        return self._without(settings, "", found), found

    def _without(self, settings: Set[str], scope: str, found: dict[str, np.ndarray]) -> Graph:
        weights = {}
        for name, array in self.constants.items():
            if array.dtype.kind == "f" and array.size > 1 and name not in settings:
                weights[name] = f"{scope}/{name}" if name in found else name
                found[weights[name]] = array
        kept = {name: array for name, array in self.constants.items() if name not in weights}

        def inner(node: Node) -> Mapping[str, Any]:
            return {
                key: value._without(settings, f"{scope}/{node.scope}/{key}".strip("/"), found)
                if isinstance(value, Graph)
                else value
                for key, value in node.attributes.items()
            }

        nodes = tuple(dataclasses.replace(n, attributes=inner(n)) for n in self.nodes)
        return dataclasses.replace(self, constants=kept, nodes=nodes, weights=weights)

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs by their names.

        Raises:
            InputError: too few, too many, or others.
        """
        given = dict(zip(self.inputs, args, strict=False))
        wrong = [name for name in kwargs if name not in self.inputs or name in given]
        given.update(kwargs)
        if wrong or len(args) > len(self.inputs) or set(given) != set(self.inputs):
            raise InputError(
                f"The model takes the inputs {', '.join(map(repr, self.inputs))}; it was given "
                f"{len(args)} by their order and {sorted(kwargs)} by their names."
            )
        return given

    def run(
        self, table: Mapping[str, Any], params: Mapping[str, Any], values: Mapping[str, Any]
    ) -> list[Any]:
        """Its outputs.

        Args:
            table: functions of operators, by their types.
            params: weights, of inner graphs too.
            values: all that is known around it, and its inputs.
        """
        own = {name: params[key] for name, key in self.weights.items()}
        known = collections.ChainMap({**self.constants, **own}, dict(values))
        for node in self.nodes:
            inputs = [known[name] if name else None for name in node.proto.input]
            if node.kind == "If":
                outputs = _branch(node, inputs[0]).run(table, params, known)
            else:
                outputs = node(table, inputs)
            known.update(
                (name, out) for name, out in zip(node.proto.output, outputs, strict=False) if name
            )
        return [known[name] for name in self.outputs]


def _branch(node: Node, condition: Any) -> Graph:
    if not isinstance(condition, (np.ndarray, np.generic)):
        raise InputError(
            f"The branch {node.scope!r} of the graph depends on what is computed. Give the input "
            "that it depends on as a NumPy array or a Python number."
        )
    return node.attributes["then_branch" if bool(np.all(condition)) else "else_branch"]


def _attribute(attribute: Any, opset: int) -> Any:
    import onnx  # pyright: ignore[reportMissingImports]

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        return Graph.of(value, opset)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


def _number(value: Any) -> Any:
    """A constant that is written as a number or list, in the precision that ONNX gives it."""
    if isinstance(value, np.ndarray):
        return value
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _check_operators(graph: Graph, table: Mapping[str, Any]) -> None:
    """Refuses graphs with operators that nobody has said the function of."""
    inner = {"If", "Constant"}
    unknown: dict[str, list[str]] = {}
    for node in graph.walk():
        if node.kind not in table and node.kind not in inner and not _only_numbers(node.kind):
            unknown.setdefault(node.kind, []).append(node.scope)
    if unknown:
        lines = [
            f"  {kind}: {len(names)}, the first is {names[0]!r}"
            for kind, names in sorted(unknown.items())
        ]
        raise InputError(
            f"{len(unknown)} operator(s) of the model have no form in JAX here:\n"
            + "\n".join(lines)
            + "\nGive `from_onnx` functions for them, "
            f"operators={{{next(iter(sorted(unknown)))!r}: function}}, or export the model "
            "without them (onnxsim takes shapes and constants out, `torch.onnx.export` loops)."
        )


def _only_numbers(kind: str) -> bool:
    """Whether an operator is one of shapes, which the reference computes wherever it can stand."""
    return kind in ("ConstantOfShape", "Range", "EyeLike", "NonZero")


def _compare(proto: Any, given: Mapping[str, Any], found: Sequence[Any]) -> None:
    """Compares with onnxruntime, if it is installed.

    Raises:
        ForwardError: they differ.
    """
    with contextlib.suppress(ImportError):
        import onnxruntime  # pyright: ignore[reportMissingImports]

        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        kinds = {i.name: i.type for i in session.get_inputs()}
        feeds = {name: _fed(value, kinds[name]) for name, value in given.items()}
        for one, other in zip(found, session.run(None, feeds), strict=True):
            amount = _difference(np.asarray(one), np.asarray(other))
            if amount > _ALLOWED:
                raise ForwardError(
                    "The model computes something else in JAX than in onnxruntime: "
                    f"{amount:.2g} of the largest entry, where {_ALLOWED:.1g} is allowed. "
                    "from_onnx(..., check=False) goes on."
                )


def _fed(value: Any, kind: str) -> np.ndarray:
    names = {"float": "float32", "double": "float64"}
    inner = re.sub(r"tensor\((\w+)\)", r"\1", kind)
    return np.asarray(value).astype(names.get(inner, inner))


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind != "f" or not expected.size:
        return 0.0
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(found - expected))
    largest = np.max(np.abs(expected), where=np.isfinite(expected), initial=0.0)
    # What is next to nothing, as the probabilities of a saturated model, has no digits to compare.
    return float(np.max(apart) / max(largest, 1e-3))
