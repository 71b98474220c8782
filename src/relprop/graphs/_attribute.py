"""An attribution graph of one prompt: nodes are chosen, and one pass per node gives its edges."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from relprop import _compat
from relprop._arguments import argument_numbers
from relprop._batches import Batches
from relprop._core.forward import forward
from relprop._core.graph import Value
from relprop._core.recall import recall
from relprop._core.relevance import precise
from relprop._core.tape import Tape
from relprop._core.trace import trace
from relprop._errors import InputError
from relprop._run import Run
from relprop.composites import composite_of
from relprop.graphs._graph import AttributionGraph
from relprop.graphs._node import Node
from relprop.graphs._pass import Arrived, arriving, coefficient, contribution, starting
from relprop.graphs._sources import Source, Text, sources_of, wanted_places
from relprop.places import named
from relprop.recognise.findings import Findings


def attribution_graph(
    f: Callable[..., Any],
    args: Sequence[Any],
    rules: Any,
    argnums: int | Sequence[int] = 0,
    *,
    places: Any,
    position_axis: Mapping[str, int | None] | None = None,
    position: int = -1,
    tokens: Sequence[str] | None = None,
    vocabulary: Callable[[int], str] | Sequence[str] | None = None,
    logits: Sequence[int] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int = 4096,
    batch_size: int | None = 64,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> AttributionGraph:
    r"""Which inputs and features make which features and logits, in one run of a function.

    .. math:: \text{edges}_{ts} = \sum_{i \in s} a_i \; c^{t}_i

    with a the values of node s and c the coefficients of relevance that starts at node t and ends
    at the first nodes it meets. By `relprop.presets.relp`, attention maps and the denominators of
    norms are constants, and the edges into a node are its value less what comes of biases.

    Nodes are the embeddings, one per position, the entries of features that are not 0, what
    `relprop.splice` says is left over by them, one per position, and the most probable logits,
    less the mean of all. One pass over the function gives the edges into one node. The numbers
    must be at hand: this is no function for `jax.jit`.

    Args:
        f: returns the logits of one position, a vector, or one real scalar.
        args: the tuple of its arguments.
        rules: as for `relprop.relevance`.
        argnums: the arguments that embeddings are, as for `relprop.relevance`: arrays of positions
            by width. Each axis but the last tells nodes apart.
        places: where features are, as in `places=`; or a dict from places to the axes that tell
            their nodes apart, None for all. Entries along other axes are one node, as a head at a
            position is by (0, 1) in ``"heads positions depth"``: its edges make up what it has of
            the score, which is the logits weighted by their probabilities.
        position_axis: from names of places, as nodes have them, or globs to the axis of positions;
            None for what is at the position of the logits as a whole. By default it is the only
            axis that tells nodes apart and is as long as the text.
        position: that of the logits.
        tokens: the text of each position. Arguments of the same length share their positions,
            unless there are tokens for all; positions of others are numbered on.
        vocabulary: the text of each logit, or a function from its number to that.
        logits: the numbers of those that are explained; the most probable ones by default.
        max_logits: how many of these at most.
        logit_mass: the probability that they must have together, unless there are too many.
        max_features: of more features those with the most relevance are nodes.
        batch_size: how many passes are made at a time, which bounds memory.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Raises:
        InputError: f returns something else, a place is in a loop or is read by nothing on the way
            to the logits, something is NaN or infinite, no entry of any feature is other than 0, a
            node of several entries has no coefficient by these rules, the axis of positions is not
            known, or numbers of logits, positions, tokens or nodes do not fit.
        NothingMatchedError: a place is not there.
        MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import jax, jax.numpy as jnp, relprop
    >>> E, W = jnp.array([[1.0, -1.0], [0.5, 1.0]]), jnp.array([[2.0, 0.0], [1.0, 1.0]])
    >>> f = lambda x: (relprop.named(x, "x") @ W).sum(0)
    >>> g = relprop.splice(f, "x", lambda v: jax.nn.relu(v @ E), lambda a: a @ E.T / 2)
    >>> graph = attribution_graph(g, (jnp.array([[1.0, 2.0]]),), relprop.presets.relp(),
    ...                           places="x features")
    >>> [node.label for node in graph.nodes]
    ['x features 0', 'x features 1', 'x error', 'x[0]', 'logit 0', 'logit 1']
    >>> graph.edges[0].tolist()  # The first feature is 1 * 1 + .5 * 2, all of the one token.
    [0.0, 0.0, 0.0, 2.0, 0.0, 0.0]

    Source: Ameisen et al. 2025, section 3 (attribution graphs).
    """
    if not isinstance(args, (tuple, list)):
        raise InputError(
            "`args` must be the tuple of the arguments of f, as in (x, params), got "
            f"{type(args).__name__}."
        )
    if any(map(_compat.is_traced, jax.tree.leaves(tuple(args)))):
        raise InputError(
            "Which features are nodes depends on their values, so a graph cannot be made inside of "
            "`jax.jit` or another transformation; it compiles what it computes."
        )
    traced = trace(_with_output_apart(f), args, argument_numbers(argnums, len(args)))
    _check_output(traced.out_shapes)
    wanted, axes = wanted_places(traced, places)
    run = Run.planned(
        traced, composite_of(rules), on_missing, False, False, wanted, on_suspicion, Findings()
    )
    text = Text.of(traced, None if tokens is None else len(tokens))
    texts = _tokens(tokens, text.length)
    at = _position(position, text.length)
    passes = _Passes(run, sources_of(traced, run.plan, wanted, axes, text, position_axis or {}))
    out, values = passes.values()
    chosen = _Logits.of(out, logits, max_logits, logit_mass)
    scored = passes.scored(chosen)
    picked = _picked(passes.sources, values, scored, max_features)
    rows, left_out = passes.edges(chosen, picked, batch_size)
    amounts = _amounts(passes.sources, values, scored)
    nodes = [
        _node(source, int(i), float(all_amounts[i]), at)
        for source, own, all_amounts in zip(passes.sources, picked, amounts, strict=True)
        for i in own
    ]
    layers = sum(source.kind == "feature" for source in passes.sources)
    nodes += chosen.nodes(layers, at, vocabulary)
    targets = [i for i, node in enumerate(nodes) if node.kind in ("feature", "logit")]
    edges = np.zeros((len(nodes), len(nodes)), rows.dtype)
    edges[targets, : rows.shape[1]] = rows
    lost = np.zeros(len(nodes), rows.dtype)
    lost[targets] = left_out
    return AttributionGraph.of(nodes, edges, lost, texts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Logits:
    """The outputs that are explained.

    Attributes:
        numbers: which ones.
        rows: by logit, the coefficients of all outputs: 1 for itself, less those of the mean.
        values: what they are.
        probabilities: theirs among all outputs.
    """

    numbers: list[int]
    rows: Float[np.ndarray, "logits outputs"]
    values: Float[np.ndarray, " logits"]
    probabilities: Float[np.ndarray, " logits"]

    @classmethod
    def of(cls, out: np.ndarray, given: Sequence[int] | None, most: int, mass: float) -> _Logits:
        if most < 1 or not 0 <= mass <= 1:
            raise InputError(
                f"`max_logits` is at least 1 and `logit_mass` from 0 to 1, got {most!r}, {mass!r}."
            )
        flat = out.ravel()
        likely = np.exp(flat - flat.max(), dtype=float)
        likely /= likely.sum()
        if given is None:
            order = np.argsort(-likely, kind="stable")
            enough = int(np.searchsorted(np.cumsum(likely[order]), mass)) + 1
            numbers = order[: max(1, min(most, enough))].tolist()
        else:
            whole = [_whole(n) for n in given]
            numbers = [n for n in whole if n is not None and 0 <= n < flat.size]
            if len(numbers) < len(whole) or not numbers or len({*numbers}) < len(numbers):
                raise InputError(
                    f"`logits` are different numbers from 0 to {flat.size - 1}, got {[*given]}."
                )
        rows = np.eye(flat.size, dtype=flat.dtype)[numbers] if flat.size < 2 else None
        if rows is None:
            rows = np.full((len(numbers), flat.size), -1 / flat.size, flat.dtype)
            rows[range(len(numbers)), numbers] += 1
        rows = rows.reshape(len(numbers), *out.shape)
        values = rows.reshape(len(numbers), -1).astype(float) @ flat.astype(float)
        return cls(numbers, rows, values, likely[numbers])

    def weighted(self, rows: Array) -> Array:
        """The coefficients of the score: the logits weighted by their probabilities."""
        return jnp.tensordot(jnp.asarray(self.probabilities, rows.dtype), rows, 1)

    def nodes(self, layer: int, position: int, vocabulary: Any) -> list[Node]:
        if vocabulary is None:
            texts = [f"logit {n}" for n in self.numbers]
        elif callable(vocabulary):
            texts = [str(vocabulary(n)) for n in self.numbers]
        else:
            short = [n for n in self.numbers if n >= len(vocabulary)]
            if short:
                raise InputError(f"`vocabulary` has {len(vocabulary)} texts, none for {short}.")
            texts = [str(vocabulary[n]) for n in self.numbers]
        each = zip(self.numbers, self.values, texts, self.probabilities, strict=True)
        return [
            Node("logit", "logits", layer, position, n, float(value), text, float(p))
            for n, value, text, p in each
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Passes:
    """Compiled passes over one function."""

    run: Run
    sources: list[Source]

    @property
    def _out(self) -> Value:
        return self.run.plan.graph.outputs[0]  # type: ignore[return-value]

    @property
    def _derivative(self) -> bool:
        return self.run.composite.is_derivative

    def _compiled(self, compute: Callable[..., Any], *more: Any) -> Any:
        """Runs a function of the plan, the tape and more arrays; constants are no literals."""

        def whole(constants: Sequence[Any], inputs: Sequence[Any], *more: Any) -> Any:
            plan = self.run.with_constants(constants).plan
            outputs, tape = forward(plan, inputs)
            recall(plan, tape, self._values, jnp.zeros(()))  # of what checkpoints have dropped
            return compute(plan, outputs[0], tape, *more)

        constants = [*self.run.plan.graph.constants.values()]
        return jax.jit(whole)(constants, self.run.trace.arrays, *more)

    def values(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The outputs, and the values with nodes in them.

        Raises:
            InputError: some are not finite.
        """

        def compute(plan: Any, out: Array, tape: Tape) -> Any:
            return precise(out), [precise(tape[s.value]) for s in self.sources]

        out, values = jax.device_get(self._compiled(compute))
        named = [("the output", out), *zip([s.name for s in self.sources], values, strict=True)]
        wrong = [
            f"{name}: {int((~np.isfinite(a)).sum())} of {a.size}"
            for name, a in named
            if not np.isfinite(a).all()
        ]
        if wrong:
            raise InputError(
                "Numbers are NaN or infinite, so that their edges would be as well: "
                + "; ".join(wrong)
                + ". Of features, look at the weights of encoder and decoder."
            )
        return out, values

    def scored(self, logits: _Logits) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """By source, relevance in the score by entry, and its coefficients.

        Raises:
            InputError: nothing on the way to the logits reads a place.
        """

        def compute(plan: Any, out: Array, tape: Tape, rows: Array) -> Any:
            given = {self._out: starting(logits.weighted(rows), self._derivative)}
            found = arriving(plan, tape, given, self._values, cut=False)
            return [self._parts(source, found, tape) for source in self.sources]

        found = jax.device_get(self._compiled(compute, logits.rows))
        unread = [
            source.name for source, (total, _) in zip(self.sources, found, strict=True)
            if total is None and source.kind == "feature"
        ]  # fmt: skip
        if unread:
            raise InputError(
                f"{len(unread)} place(s) are connected with nothing: {unread}. Nothing on the way "
                "to the logits reads them, or what reads them lets no relevance through."
            )
        without = [
            source.name for source, (_, slope) in zip(self.sources, found, strict=True)
            if source.kind == "feature" and not source.single and slope is None
        ]  # fmt: skip
        if without:
            raise InputError(
                f"{without} have no coefficient by these rules: what reads them hands on shares of "
                "relevance. Let each entry be a node, without axes, or use other rules."
            )
        return found

    @property
    def _values(self) -> list[Value]:
        return [source.value for source in self.sources]

    def _parts(self, source: Source, found: Arrived, tape: Tape) -> Any:
        relevance = found[source.value]
        if relevance is None:
            return None, None
        total = contribution(relevance, precise(tape[source.value]), self._derivative)
        return total, coefficient(relevance, self._derivative)

    def edges(
        self, logits: _Logits, picked: Sequence[np.ndarray], batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What all nodes contribute to each feature and each logit, and what is left out."""
        features = [i for i, source in enumerate(self.sources) if source.kind == "feature"]
        pairs = [(i, number) for i in features for number in picked[i]]
        # By target: its source (-1 of logits), which node of that, and which logit.
        targets = [(i, number, 0) for i, number in pairs]
        targets += [(-1, 0, k) for k in range(len(logits.numbers))]
        points = np.array(targets, np.int32)
        others = [np.ones(source.shape, bool).ravel() for source in self.sources]
        for mask, own in zip(others, picked, strict=True):
            mask[own] = False
        cuts = [
            (own, mask if mask.any() else None) for own, mask in zip(picked, others, strict=True)
        ]

        def compute(
            plan: Any, out: Array, tape: Tape, points: Array, rows: Array, cuts: Any
        ) -> Any:
            slopes = self._slopes(plan, tape, rows, logits)

            def one(point: Array) -> Any:
                which, number, logit = point
                seeds = {self._out: jnp.where(which < 0, rows[logit], jnp.zeros_like(rows[0]))}
                for i, slope in slopes.items():
                    chosen = self.sources[i].selected(jnp.where(which == i, number, -1))
                    seeds[self.sources[i].value] = jnp.where(chosen, slope, jnp.zeros_like(slope))
                given = {v: starting(seed, self._derivative) for v, seed in seeds.items()}
                found = arriving(plan, tape, given, self._values, cut=True)
                parts, left = [], jnp.zeros((), rows.dtype)
                for source, (own, others) in zip(self.sources, cuts, strict=True):
                    total, _ = self._parts(source, found, tape)
                    if total is None:
                        total = jnp.zeros(source.value.shape)
                    amounts = source.summed(total).astype(rows.dtype)
                    parts.append(amounts[own])
                    if others is not None:
                        left += jnp.sum(amounts, where=others)
                return jnp.concatenate(parts), left

            return Batches(batch_size).map(one, points)

        rows, left = jax.device_get(self._compiled(compute, points, logits.rows, cuts))
        if not (np.isfinite(rows).all() and np.isfinite(left).all()):
            raise InputError(
                "Edges are NaN or infinite by these rules, though all values are finite. "
                "`relprop.ledger` says where that begins."
            )
        return rows, left

    def _slopes(self, plan: Any, tape: Tape, rows: Array, logits: _Logits) -> dict[int, Array]:
        """By source of features the seed of a target: 1; of several entries their coefficients."""
        features = [i for i, source in enumerate(self.sources) if source.kind == "feature"]
        found: Arrived = {}
        if not all(self.sources[i].single for i in features):
            given = {self._out: starting(logits.weighted(rows), self._derivative)}
            found = arriving(plan, tape, given, self._values, cut=False)
        slopes = {}
        for i in features:
            value = precise(tape[self.sources[i].value])
            _, slope = (None, None) if self.sources[i].single else self._parts(
                self.sources[i], found, tape
            )  # fmt: skip
            slopes[i] = jnp.ones_like(value) if slope is None else slope
        return slopes


def _with_output_apart(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose output is a value of its own, also where f returns a place."""

    @functools.wraps(f)
    def apart(*args: Any) -> Any:
        # What is no array is left as it is, for it is refused with its type.
        return jax.tree.map(
            lambda v: named(v, "logits") if isinstance(v, jax.Array) else v, f(*args)
        )

    return apart


def _check_output(shapes: Sequence[Any]) -> None:
    fine = len(shapes) == 1 and len(shapes[0].shape) < 2
    if fine and jnp.issubdtype(shapes[0].dtype, jnp.floating) and 0 not in shapes[0].shape:
        return
    found = ", ".join(f"{s.dtype}{list(s.shape)}" for s in shapes) or "nothing"
    raise InputError(
        f"A graph is of the logits of one position, a vector, or of one real scalar, but the "
        f"function returned {found}. Select a position, as in `f(x)[0, -1]`."
    )


def _whole(number: Any) -> int | None:
    """A whole number, also one of NumPy; None of anything else, such as True."""
    try:
        return None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return None


def _position(position: Any, positions: int) -> int:
    number = _whole(position)
    if number is None or not -positions <= number < positions:
        raise InputError(f"`position` is one of the {positions} positions, got {position!r}.")
    return number % positions


def _tokens(tokens: Sequence[str] | None, positions: int) -> list[str]:
    if tokens is None:
        return [f"[{i}]" for i in range(positions)]
    if len(tokens) != positions:
        raise InputError(f"There are {len(tokens)} tokens, but {positions} positions.")
    return [*map(str, tokens)]


def _amounts(
    sources: Sequence[Source], values: Sequence[np.ndarray], scored: Sequence[Any]
) -> list[np.ndarray]:
    """The values of all nodes by source, whether picked or not."""
    found = []
    for source, value, (total, _) in zip(sources, values, scored, strict=True):
        array = value if source.single else total if total is not None else np.zeros_like(value)
        found.append(np.asarray(source.summed(jnp.asarray(array))))
    return found


def _picked(
    sources: Sequence[Source], values: Sequence[np.ndarray], scored: Sequence[Any], most: int
) -> list[np.ndarray]:
    """By source, the numbers of its entries that are nodes."""
    if most < 1:
        raise InputError(f"`max_features` must be at least 1, got {most!r}.")
    picked, strength = [], []
    for source, value, (total, _) in zip(sources, values, scored, strict=True):
        count = int(np.prod(source.shape, dtype=int))
        own = np.flatnonzero(value) if source.kind == "feature" and source.single else None
        picked.append(np.arange(count) if own is None else own)
        if source.kind == "feature":
            strength.append(np.abs(np.asarray(source.summed(jnp.asarray(total))))[picked[-1]])
    amounts = np.concatenate(strength)
    if not amounts.size:
        raise InputError("All features are 0 on these arguments: there is nothing to connect.")
    if amounts.size > most:
        kept = np.zeros(amounts.size, bool)
        kept[np.argsort(-amounts, kind="stable")[:most]] = True
        for i, part in enumerate(np.split(kept, np.cumsum([len(s) for s in strength])[:-1])):
            picked[i] = picked[i][part]
    return picked


def _node(source: Source, i: int, value: float, at: int) -> Node:
    position, index = source.located(i, at)
    name = f"{source.name} {index}" if source.kind == "feature" else source.name
    if source.kind == "embedding":
        name = f"{source.name}[{position - source.start}]"
    return Node(source.kind, source.name, source.layer, position, index, value, name)  # type: ignore[arg-type]
