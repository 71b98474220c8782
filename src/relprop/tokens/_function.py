"""A language model from one function of token ids, split where it looks their embeddings up."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int

from relprop._core.graph import Equation, Graph
from relprop._errors import InputError
from relprop.tokens._lookup import Lookup, body_of, find
from relprop.tokens._model import LanguageModel
from relprop.tokens._staged import Other, Trace, evaluated, needed, trace
from relprop.tokens._text import load_tokenizer

_LARGE = 2**20  # bytes of arrays that a function closes over


def from_function(
    logits: Callable[[Any, Any], Any],
    params: Any,
    tokenizer: Any = None,
    *,
    embedding: str | None = None,
    pad_id: int | None = None,
    labels: Sequence[str] | None = None,
    bounds: Sequence[int] = (),
) -> LanguageModel:
    r"""A function of token ids as a `LanguageModel`, whichever library it is from.

    The lookup of the embeddings is found in what the function computes: rows of a table, or a
    product of one-hot vectors with it, by the ids as they are. Relevance is that of its results.
    What is done to them after - scaling, positions, norms - is part of the model, and so is the
    table where it is used again, as in a tied head. Nothing is run but the function itself.

    Args:
        logits: ``logits(params, ids)``: from ids ``[batch, tokens]`` to the logits
            ``[batch, tokens, vocabulary]``, or to scores ``[batch, classes]``. It is not told of
            padding at the end, which causal models need not know of; others are run at the length
            of each text.
        params: a tree of arrays; what is no array in it (functions, sizes) is handed on. Weights
            that the function closes over instead would be compiled into each program.
        tokenizer: a tokenizer of transformers, or the folder of one; for text as strings.
        embedding: where several tables are looked up, the path of the one that counts, such as
            ``"params/embed/*"``; it may be a pattern.
        pad_id: what padding is filled with; by default that of the tokenizer.
        labels: of a classifier, the names of its classes.
        bounds: as for `LanguageModel`: how many positions there are, if that is limited.

    Returns:
        The model. It is the function again, but for the lookup.

    Raises:
        InputError: there is no lookup, or there are several that differ. It names what was found,
            with tables and lines of source.

    >>> import jax.numpy as jnp
    >>> from relprop import tokens
    >>> params = {"table": jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])}
    >>> def logits(params, ids):
    ...     x = params["table"][ids]
    ...     return jnp.cumsum(x, axis=1) @ params["table"].T
    >>> model = tokens.from_function(logits, params)
    >>> tokens.explain(model, [0, 1, 2], tokens.NextToken(1)).relevance.tolist()
    [0.0, 4.0, 2.0]
    """
    tokenizer = load_tokenizer(tokenizer)
    split, arrays = _Split.of(logits, params, embedding)
    del params  # What of it is an array is in `arrays`, and may be given back before the model is.
    pad = getattr(tokenizer, "pad_token_id", None) if pad_id is None else pad_id
    return LanguageModel(
        embed=split.embed,
        logits=split.rest,
        params=arrays,
        tokenizer=tokenizer,
        pad_id=pad,
        vocabulary=split.rows(arrays, min((16, *bounds))),
        labels=None if labels is None else tuple(labels),
        bounds=tuple(bounds),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Split:
    """A function of parameters and ids, taken apart at the lookup of embeddings.

    Attributes:
        logits: the function.
        tree: of the parameters.
        others: the leaves of these that are no arrays; None for those that are.
        embedding: which table it is, as the user says.
    """

    logits: Callable[[Any, Any], Any]
    tree: Any
    others: tuple[Any, ...]
    embedding: str | None

    @classmethod
    def of(cls, logits: Any, params: Any, embedding: str | None) -> tuple[_Split, Any]:
        """The same, and the parameters without what is no array."""
        leaves, tree = jtu.tree_flatten(params)
        arrays = [x if isinstance(x, (jax.Array, np.ndarray)) else None for x in leaves]
        others = tuple(x if a is None else None for x, a in zip(leaves, arrays, strict=True))
        return cls(logits, tree, others, embedding), tree.unflatten(arrays)

    def _whole(self, arrays: Any) -> Any:
        """The parameters, with what is no array."""
        found = self.tree.flatten_up_to(arrays)
        return self.tree.unflatten(
            [other if a is None else a for a, other in zip(found, self.others, strict=True)]
        )

    def _traced(self, arrays: Any, ids: Any) -> tuple[Trace, list[Lookup]]:
        # Paths of parameters begin with the name of the argument.
        def function(params: Any, ids: Any) -> Any:
            return self.logits(self._whole(params), ids)

        traced = trace(function, (arrays, ids), ())
        if len(traced.out_shapes) != 1:
            raise InputError(
                "`logits(params, ids)` must return one array [batch, tokens, vocabulary] or "
                f"[batch, classes]; it returned {len(traced.out_shapes)} arrays. Choose one in a "
                "function around it."
            )
        _warn_of_constants(traced.graph)
        return traced, find(traced.graph, traced.graph.inputs[-1], self.embedding)

    def embed(self, arrays: Any, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """The embeddings that are looked up."""
        traced, lookups = self._traced(arrays, ids)
        found = _looked_up(traced.graph, traced.arrays, lookups[0].equation)
        return found.reshape(*ids.shape, found.shape[-1])

    def rest(
        self, arrays: Any, embeds: Float[Array, "b t d"], ids: Int[Array, "b t"], mask: Any
    ) -> Float[Array, "..."]:
        """The logits, from embeddings in place of those that are looked up."""
        traced, lookups = self._traced(arrays, ids)
        given = {x.equation: embeds.reshape(x.shape) for x in lookups}
        (found,) = _with_embeddings(traced.graph, traced.arrays, given)
        return found

    def rows(self, arrays: Any, length: int) -> int | None:
        """How many tokens have an embedding; None where the function takes no such length."""
        found: list[int] = []

        def rows(arrays: Any, ids: Any) -> Any:
            found.append(self._traced(arrays, ids)[1][0].rows)
            return ids

        try:
            jax.eval_shape(rows, arrays, jax.ShapeDtypeStruct((1, length), jnp.int32))
        except InputError:
            raise
        except Exception:  # a function of texts of another length, which will be traced for those
            return None
        return found[0]


def _looked_up(graph: Graph, arrays: Sequence[Any], lookup: Equation) -> Any:
    """What an operation gives, which may lie in a body."""
    if lookup in graph.equations:
        (found,) = evaluated(graph, arrays, lookup.outputs, {}, needed(graph, lookup.outputs))
        return found
    for call in graph.equations:
        body = body_of(call)
        if body is not None and _holds(body, lookup):
            operands = evaluated(graph, arrays, call.inputs, {}, needed(graph, call.inputs))
            return _looked_up(body, operands, lookup)
    raise AssertionError("the lookup is not in the graph")


def _with_embeddings(graph: Graph, arrays: Sequence[Any], given: dict[Equation, Any]) -> list[Any]:
    """The outputs of a graph with embeddings in place of what looks them up."""
    others: dict[Equation, Other] = {}
    for equation in graph.equations:
        body = body_of(equation)
        if equation in given:
            others[equation] = lambda values, x=given[equation]: [x]
        elif body is not None and any(_holds(body, lookup) for lookup in given):
            others[equation] = lambda values, body=body: _with_embeddings(body, values, given)
    return evaluated(graph, arrays, graph.outputs, others)


def _holds(graph: Graph, lookup: Equation) -> bool:
    bodies = filter(None, map(body_of, graph.equations))
    return lookup in graph.equations or any(_holds(body, lookup) for body in bodies)


def _warn_of_constants(graph: Graph) -> None:
    size = sum(
        jnp.size(x) * jnp.dtype(jnp.result_type(x)).itemsize for x in graph.constants.values()
    )
    if size > _LARGE:
        warnings.warn(
            f"`logits` closes over {size / 2**20:.1f} MiB of arrays, which become part of each "
            "compiled program: that takes their memory again, and time. Hand weights over as "
            "`params`.",
            UserWarning,
            stacklevel=2,
        )
