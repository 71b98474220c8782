"""What is computed of a batch: relevance, score and what else is asked for, as named arrays."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from relprop._errors import InputError
from relprop._transform import value_and_relevance
from relprop.composites import Composite, composite_of

#: Lengths that samples are padded to are multiples of this.
_STEP, _RATIO = 16, 1.6


@dataclasses.dataclass(frozen=True)
class Shape:
    """What samples of one program have in common: their structure, shapes and dtypes.

    Attributes:
        tree: the structure of a sample.
        leaves: shape and dtype of each array in it, the first axis of the explained ones padded.
    """

    tree: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in self.leaves) or "empty"


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is asked of each sample.

    Attributes:
        score: of one sample, of parameters and one sample; with a `mask` argument, samples are
            padded along their first axis.
        methods: name -> rules.
        params: of the score; None if it takes none.
        has_aux: whether the score returns a pair of itself and anything else.
        settings: further keywords of `relprop.relevance`.
        embed: what is made of a sample before the score, with numbers that can be explained.
        keep: what is kept of its relevance; all if there is none.
        lengths: that samples are padded to, ascending.
        check: raises what is wrong with a sample, by what its score has returned besides.
    """

    score: Callable[..., Any]
    methods: Mapping[str, Composite]
    params: Any
    has_aux: bool
    settings: Mapping[str, Any]
    embed: Callable[..., Any] | None = None
    keep: Callable[[Any], Any] | None = None
    lengths: Sequence[int] | None = None
    check: Callable[[Any], None] | None = None

    @functools.cached_property
    def pads(self) -> bool:
        """Whether the score can tell padding."""
        try:
            return "mask" in inspect.signature(self.score).parameters
        except (TypeError, ValueError):
            return False

    def shape(self, sample: Any) -> Shape:
        """What a sample shares a program by.

        Raises:
            InputError: it is made of something else than numbers, or none of them is explained.
        """
        if type(sample) is np.ndarray:  # most are one array, and of few shapes
            known = sample.shape, sample.dtype
            if known not in self._known:
                self._known[known] = self._shape(sample)
            return self._known[known]
        return self._shape(sample)

    @functools.cached_property
    def _known(self) -> dict[Any, Shape]:
        return {}

    def _shape(self, sample: Any) -> Shape:
        leaves, tree = jax.tree.flatten(sample)
        arrays = [np.asarray(leaf) for leaf in leaves]
        wrong = [a.dtype.name for a in arrays if not _is_number(a.dtype)]
        if wrong:
            raise InputError(f"is made of {', '.join(wrong)}, and not of numbers")
        if self.embed is None and not any(map(_explained, arrays)):
            kinds = ", ".join(str(a.dtype) for a in arrays) or "nothing"
            raise InputError(
                f"has no floating point numbers to be explained, but {kinds}: explain embeddings "
                "of ids, and images as floats"
            )
        shapes = [(self._padded(a), jax.dtypes.canonicalize_dtype(a.dtype).name) for a in arrays]
        return Shape(tree, tuple(shapes))

    def _padded(self, array: np.ndarray) -> tuple[int, ...]:
        if not self.pads or not array.ndim:
            return array.shape
        known = _lengths() if self.lengths is None else self.lengths
        length = next((n for n in known if n >= array.shape[0]), None)
        if length is None:
            raise InputError(f"is {array.shape[0]} long, and the longest are {[*known][-1]}")
        return (length, *array.shape[1:])


class Program:
    """The explanation of a batch of samples of one shape, compiled when it is first called.

    Args:
        task: what is asked.
        shape: of the samples.
        size: how many a batch has.
    """

    def __init__(self, task: Task, shape: Shape, size: int):
        self.task, self.shape, self.size = task, shape, size
        self._sharding = _over_devices(size)
        leaves = [
            jax.ShapeDtypeStruct((size, *dims), dtype, sharding=self._sharding)
            for dims, dtype in shape.leaves
        ]
        lengths = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=self._sharding)
        params = jax.tree.map(jnp.asarray, task.params)
        if self._sharding is not None:
            params = jax.device_put(params, NamedSharding(self._sharding.mesh, PartitionSpec()))
        self._params = params
        self._lowered = jax.jit(self._batch).lower(params, leaves, lengths)
        self._compiled: Any = None

    @property
    def outputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Name -> shape and dtype for a whole batch, in the order of the result."""
        out = self._lowered.out_info
        return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in out.items()}

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the whole computation: score, constants in it, rules, versions."""
        return hashlib.sha256(self._lowered.as_text().encode()).hexdigest()

    def __call__(self, samples: Sequence[Any]) -> dict[str, jax.Array]:
        """What was asked of the samples, where None stands for one that is not there.

        Returns at once, before it is computed.
        """
        if self._compiled is None:
            self._compiled = self._lowered.compile()
        filler = next(sample for sample in samples if sample is not None)
        rows = [filler if sample is None else sample for sample in samples]
        rows += [filler] * (self.size - len(rows))
        flat = [(row,) if type(row) is np.ndarray else jax.tree.leaves(row) for row in rows]
        columns = [
            _stacked([row[i] for row in flat], dims, dtype)
            for i, (dims, dtype) in enumerate(self.shape.leaves)
        ]
        lengths = np.zeros(self.size)
        if self.task.pads:
            lengths = np.array([max((*np.shape(x), 0)[0] for x in row) for row in flat])
        args = (columns, lengths.astype(np.int32))
        return self._compiled(self._params, *jax.device_put(args, self._sharding))

    def _batch(self, params: Any, leaves: list[Any], lengths: Any) -> dict[str, Any]:
        found = jax.vmap(self._sample, in_axes=(None, 0, 0))(params, leaves, lengths)
        return dict(sorted(found.items()))

    def _sample(self, params: Any, leaves: list[Any], length: Any) -> dict[str, Any]:
        task, out = self.task, {}
        first = () if task.params is None else (params,)
        keywords: dict[str, Any] = {}
        if task.pads:
            keywords["mask"] = jnp.arange(leaves[0].shape[0]) < length
            out["length"] = length
        sample = self.shape.tree.unflatten(leaves)
        if task.embed is not None:
            sample = task.embed(*first, sample)
        leaves, tree = jax.tree.flatten(sample)
        given = {i: x for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)}

        # Ids, labels and the like belong to the sample, but have no relevance.
        def score(explained: dict[int, Any], params: Any) -> Any:
            parts = [explained.get(i, x) for i, x in enumerate(leaves)]
            first = () if task.params is None else (params,)
            return task.score(*first, tree.unflatten(parts), **keywords)

        for method, rules in task.methods.items():
            explain = value_and_relevance(score, rules, has_aux=task.has_aux, **task.settings)
            value, found = explain(given, params)
            value, aux = value if task.has_aux else (value, None)
            found, inside = found if task.settings["places"] else (found, {})
            relevance = tree.unflatten([found.get(i) for i in range(len(leaves))])
            own = _outputs(value, relevance, inside, aux, task.keep)
            out |= {f"{method}/{name}": _single(x) for name, x in own.items()}
        return out


def _outputs(
    value: Any,
    relevance: Any,
    inside: Mapping[str, Any],
    aux: Any,
    keep: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """All that is kept of a sample, by name."""
    relevance = jax.tree.map(_single, relevance)
    sums = [jnp.sum(x) for x in jax.tree.leaves(relevance)]
    strength = functools.reduce(jnp.add, [jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(relevance)])
    kept = relevance if keep is None else keep(relevance)
    out = {
        "score": value,
        "explained": functools.reduce(jnp.add, sums),
        "finite": jnp.isfinite(_single(value)) & jnp.isfinite(strength),
    }
    for path, x in jax.tree_util.tree_leaves_with_path(kept):
        out[f"relevance{_path(path)}"] = jnp.asarray(x)
    out |= {f"places/{quote(name, safe='')}": x.relevance for name, x in inside.items()}
    for path, x in jax.tree_util.tree_leaves_with_path(aux):
        out[f"aux{_path(path)}"] = jnp.asarray(x)
    return out


def methods_of(rules: Any) -> dict[str, Composite]:
    """Name -> composite, from a rule, a composite or a mapping of names to those.

    Raises:
        InputError: a name cannot be one of a group of arrays.
        RuleError: something is no rule.
    """
    if not isinstance(rules, Mapping):
        composite = composite_of(rules)
        return {quote(composite.name or "relevance", safe=" ()=,+-."): composite}
    for name in rules:
        if not isinstance(name, str) or not name or quote(name, safe=" ()=,+-") != name:
            raise InputError(
                f"A method must be named by letters, digits, spaces and signs, got {name!r}."
            )
    if not rules:
        raise InputError("`rules` names no method.")
    return {name: composite_of(each) for name, each in rules.items()}


def _over_devices(size: int) -> NamedSharding | None:
    """Batches in parts over the devices of this process, where they are several."""
    devices = jax.local_devices()
    if len(devices) == 1 or size % len(devices):
        return None
    # Auto: where an explicit axis goes in a gather, such as that of embeddings, nobody has said.
    mesh = jax.make_mesh((len(devices),), ("batch",), (AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec("batch"))


def _is_number(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc" or jnp.issubdtype(dtype, jnp.number)


def _explained(array: np.ndarray) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


def _lengths() -> Iterator[int]:
    """16, 32, 64, 112, 192, 320, 512, ...: few lengths that stand for all."""
    length = _STEP
    while True:
        yield length
        length = -(-int(length * _RATIO) // _STEP) * _STEP


def _stacked(arrays: list[Any], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Arrays as the program takes them, with padding at the end of their first axis."""
    arrays = [np.asarray(array) for array in arrays]
    if any(array.shape != shape for array in arrays):
        arrays = [np.pad(x, [(0, shape[0] - x.shape[0]), *[(0, 0)] * (x.ndim - 1)]) for x in arrays]
    return np.stack(arrays).astype(dtype, copy=False)


def _single(x: Any) -> Any:
    """Half precision as float32, which Zarr's readers all know."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def _path(path: tuple[Any, ...]) -> str:
    """Where an array is in a sample, as part of a name: "" for one that is all of it."""
    text = jax.tree_util.keystr(path, simple=True, separator=".")
    return f"/{quote(text, safe='.')}" if text else ""
