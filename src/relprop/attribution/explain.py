"""The transform: from a function with attention in it to one that says which tokens count."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop import presets
from relprop._errors import InputError, unknown_name
from relprop._transform import inspect, value_and_relevance
from relprop.anatomy.streams import TokenFlow
from relprop.attribution.bimodal import Relevancies
from relprop.attribution.full import Entries, relevance_of_tokens
from relprop.attribution.maps import Layer, chosen, layers_of, listed, unseen
from relprop.attribution.methods import (
    FULL,
    GENERIC,
    UNIMODAL,
    WITH_IDENTITY,
    methods,
    methods_by_rules,
    weighted,
)
from relprop.attribution.query import answered, positions_of
from relprop.composites import Composite, composite_of
from relprop.places import AttentionMaps, Start
from relprop.rules import Gradient
from relprop.structures import structures

Tokens = Float[Array, "n t"] | dict[str, Float[Array, "n t"]]
Joint = Float[Array, "n t t"] | dict[str, Float[Array, "n s t"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Token relevance with all that it was computed from.

    Attributes:
        tokens: how much each token counts for the query; of several streams, a dict of such.
        joint: the same for every token that the query might have been; None for full LRP.
        attention: the attention maps that count, in order of evaluation.
        relevance: their relevance by the rules; empty for methods that take none.
        gradient: their gradient.
        score: the value of the function.
        given: of full LRP, whose tokens are shares of it, the relevance that the score was given:
            its value, or 1; None for all others, which say how tokens compare and no more.

    >>> import jax, jax.numpy as jnp, relprop
    >>> def score(x):
    ...     return jnp.sum(jax.nn.softmax(x @ x.T, axis=-1) @ x) + 1.0
    >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> explain = transformer_attribution(
    ...     score, method="full_lrp", rules=relprop.presets.cp_lrp(), details=True
    ... )
    >>> explain(x).line()
    'tokens +3.251 absorbed +1 = score 4.251'
    """

    tokens: Tokens
    joint: Joint | None
    attention: list[Float[Array, "n heads q k"]]
    relevance: list[Float[Array, "n heads q k"]]
    gradient: list[Float[Array, "n heads q k"]]
    score: Float[Array, "..."] | None = None
    given: Float[Array, "..."] | None = None

    @property
    def explained(self) -> Float[Array, "..."] | None:
        """The relevance of all tokens, summed; None where they are no shares of the score."""
        if self.given is None:
            return None
        samples = jnp.shape(self.given)  # after `jax.vmap`
        sums = [jnp.sum(x.reshape(*samples, -1), -1) for x in jax.tree.leaves(self.tokens)]
        return functools.reduce(jnp.add, sums)

    @property
    def absorbed(self) -> Float[Array, "..."] | None:
        """The rest of what was given: what biases, stabilisers and rules have kept."""
        explained = self.explained
        return None if explained is None or self.given is None else self.given - explained

    def line(self) -> str:
        """The line in which the parts of the score add up, where they do.

        Raises:
            InputError: there is no one score, as after `jax.vmap`.
        """
        if self.score is None or jnp.ndim(self.score):
            raise InputError("There is no one score: `jax.tree.map(lambda x: x[0], ...)` has one.")
        if self.given is None or self.explained is None:
            return f"score {float(self.score):.4g}, of which the tokens are no shares"
        explained, given = float(self.explained), float(self.given)
        line = f"tokens {explained:+.4g} absorbed {given - explained:+.4g} = "
        is_score = given == float(self.score)
        return line + (
            f"score {given:.4g}" if is_score else f"1, of a score {float(self.score):.4g}"
        )


def transformer_attribution(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    method: str = "transformer_attribution",
    rules: Any = None,
    query: int | str | Sequence[int] | None = None,
    stream: str | None = None,
    parameters: str | Sequence[str] = (),
    start_layer: int = 0,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    own: bool = True,
    details: bool = False,
) -> Callable[..., Any]:
    r"""A function that computes how much each token counts for a score, through all layers.

    With attention maps A, their relevance R and their gradient, per layer and over its heads

    .. math:: \bar A = I + \mathbb{E}_h[(\nabla A \odot R)^+], \qquad
              C = \bar A^{(L)} \cdots \bar A^{(s)},

    of which the row of the query is the result. ``method="generic"`` has attention in the place of
    R, and is the one for several streams of tokens that look at each other: the two modalities of
    co-attention, encoder and decoder. Which tokens each attention looks from and at is found by
    following them through the function.

    Args:
        f: a function with attention in it that returns the score of one sample, as for
            `relprop.relevance`; for a batch use `jax.vmap`. A sum of scores mixes its samples,
            unless the rules are such that treat them apart, which those of the default are not.
        argnums: the argument that the attention depends on, images or embeddings; all such
            arguments, where there are several streams.
        method: one of `methods()`: ``"transformer_attribution"``; ``"generic"``; ``"rollout"``, of
            attention alone; ``"attention"``, ``"gradcam"`` and ``"partial_lrp"``, which look at the
            last layer only; ``"full_lrp"``, the relevance of the tokens themselves, for which
            there is no query.
        rules: rules of the relevance, for `methods_by_rules()` only; `relprop.presets.chefer` by
            default.
        query: the token whose row is taken: that of the class token, or of the position of which
            the score is; several positions, of whose rows the mean is taken, as for the class token
            and the distillation token of a DeiT; ``"mean"`` for models that average over tokens. By
            default the first one, 0.
        stream: the stream that the query is one of; by default the one that the score is read from.
        parameters: paths, or globs, of parameters that tokens start from, as the object queries of
            a DETR; the parameters are another argument of f.
        start_layer: the first layer that counts, s. Layers are counted in order of evaluation,
            over all streams.
        layers: the layers that count, by number; all of them by default.
        heads: the heads that count; all of them by default.
        own: whether the 1 counts that the query has of itself, the identity above. Without it, its
            token gets what attention brings, as the others do: of a language model that is asked at
            its last token, evidence is not hidden behind that one then.
        details: whether the result is an `Attribution` with the maps.

    Returns:
        A function with the arguments of f. Its result is an array of tokens, ``(t,)``, or
        ``(n, t)`` where the maps are of n > 1 samples. The query itself is one of the tokens. Of
        several streams it is a dict of such arrays, by the names of the arguments (or parameters)
        that the tokens come from. NaN where a query turns out to be none while the function is
        traced (by `jax.jit` or `jax.vmap`), which is an error otherwise.

    Raises:
        InputError: there is no attention; its maps are of windows, or of chunks of the keys; tokens
            are joined, taken apart or mixed by anything but attention (a convolution, a recurrence,
            a shift, a mean that is added), the error says by what; there are several streams and
            the method is for one; the score is read from several of them, or not from the query;
            tokens come from constants; a layer, head or query is not there; or an argument is given
            that the method has no use for.
        UnknownNameError: there is no such method or stream.
        NothingMatchedError: there are no such parameters.

    >>> import jax, jax.numpy as jnp
    >>> w = jax.random.normal(jax.random.key(0), (3, 4, 4))
    >>> def score(text, image):
    ...     attention = jax.nn.softmax(text @ w[0] @ (image @ w[1]).T, axis=-1)
    ...     return (text + attention @ (image @ w[2]))[0, 1]
    >>> explain = transformer_attribution(score, argnums=(0, 1), method="generic")
    >>> {name: r.shape for name, r in explain(jnp.eye(4), jnp.ones((6, 4))).items()}
    {'image': (6,), 'text': (4,)}

    Source: Chefer et al. 2021 (CVPR), section 3.3, eq. 13 and 14; ``"generic"``: Chefer et al.
    2021 (ICCV), eq. 5 to 11; ``"rollout"``: Abnar and Zuidema 2020; ``"partial_lrp"``: Voita et
    al. 2019.
    """
    _check_options(method, rules, (query, stream), (start_layer, layers, heads), own)
    asking = 0 if query is None else query
    starts = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    places = tuple(map(Start, starts))
    composite = composite_of(presets.chefer() if rules is None else rules)

    @functools.wraps(f)
    def tokens_of(*args: Any, **kwargs: Any) -> Any:
        scores = []

        def inside(rules: Composite, place: Any) -> Any:
            explain = value_and_relevance(f, rules, argnums, places=(place, *places))
            value, (_, found) = explain(*args, **kwargs)
            scores.append(value)
            return found

        flow = inspect(f, presets.gradient(), argnums, places=places)(*args, **kwargs).flow
        _check(flow)
        if method == FULL:
            tokens = relevance_of_tokens(flow, inside(composite, Entries()))
            score = scores[0]
            given = score if composite.seed == "score" else jnp.ones_like(score)
            found = Attribution(_single(tokens), None, [], [], [], score, given)
            return _result(found, details)
        _check_streams(flow, method)
        every = _layers(flow, composite, method in methods_by_rules(), inside)
        counting = chosen(every, start_layer, layers, heads)
        asked = _asked(flow, stream)
        joint = _joint(method, flow, asked, counting)
        asked_for = positions_of(asking, next(iter(joint.values())).shape[1])
        counted = joint if own else _without_own(joint, flow.streams[asked].name)
        tokens = {name: jnp.mean(rows[:, asked_for], axis=1) for name, rows in counted.items()}
        if asking != "mean":
            tokens = answered(tokens, joint, flow, asked, every, asked_for)
        found = Attribution(
            _single(tokens),
            _single(joint),
            [layer.attention for layer in counting.values()],
            [layer.relevance for layer in counting.values() if layer.relevance is not None],
            [layer.gradient for layer in counting.values()],
            scores[0],
        )
        return _result(found, details)

    return tokens_of


def _without_own(
    joint: Mapping[str, Float[Array, "n s t"]], stream: str
) -> dict[str, Float[Array, "n s t"]]:
    """Without the 1 that each token of the stream that is asked has of itself."""
    rows = joint[stream]
    return {**joint, stream: rows - jnp.eye(rows.shape[1], dtype=rows.dtype)[None]}


def _check_options(method: str, rules: Any, asked: tuple[Any, Any], chosen: Any, own: bool) -> None:
    """Refuses arguments that a method has no use for: rules; a query; layers, heads; its own."""
    if method not in methods():
        raise unknown_name("method", method, methods())
    if rules is not None and method not in methods_by_rules():
        raise InputError(
            f"`rules` are of no use to {method!r}, which goes by attention and gradients. Leave "
            f"them out, or use one of {', '.join(map(repr, methods_by_rules()))}."
        )
    if not own and method not in WITH_IDENTITY:
        raise InputError(
            f"`own=False` leaves out the 1 that {' and '.join(map(repr, WITH_IDENTITY))} count "
            f"beforehand; {method!r} has none."
        )
    if method == FULL and asked != (None, None):
        raise InputError(
            f"{FULL!r} has no query: it gives the relevance of all tokens. Leave `query` and "
            "`stream` out."
        )
    if method == FULL and chosen != (0, None, None):
        raise InputError(f"Layers and heads cannot be chosen for {FULL!r}: it looks at no map.")


def _layers(
    flow: Any, composite: Composite, with_rules: bool, inside: Callable[[Composite, Any], Any]
) -> Any:
    """Attention maps with their gradients and, if asked for, their relevance.

    Two pull-backs of one function; compiled, it is evaluated once.
    """
    by_rules = inside(composite, AttentionMaps()) if with_rules else None
    plain = inside(_gradient_beside(composite), AttentionMaps())
    if unseen(flow, plain):  # They are inside of functions that have derivatives of their own.
        plain = inside(_gradient_inside(composite), AttentionMaps())
    return layers_of(flow, plain, by_rules)


def _gradient_beside(composite: Composite) -> Composite:
    """The gradient, through the same regions as a whole: then the two passes forward are one."""
    gradient = Composite()
    for entry in composite.entries:
        if entry.where.region is not None:
            gradient = gradient.at(region=entry.where.region, optional=True).use(Gradient())
    return gradient.then(presets.gradient())


def _gradient_inside(composite: Composite) -> Composite:
    """The same, but by what is inside of functions that have a derivative of their own."""
    gradient = dataclasses.replace(_gradient_beside(composite), canonizers=())
    regions = tuple(entry for entry in gradient.entries if entry.where.region is not None)
    known = structures().items()
    plain = tuple(name for name, entry in known if not (entry.encloses or entry.whole))
    gradient = dataclasses.replace(gradient, entries=regions)
    return gradient.at(structure=plain, optional=True).use(Gradient())


def _joint(
    method: str, flow: TokenFlow, asked: int, layers: Mapping[int, Layer]
) -> dict[str, Float[Array, "n s t"]]:
    """How much the tokens of each stream count for those of one."""
    if method in UNIMODAL:
        (name,) = (stream.name for stream in flow.streams)
        return {name: UNIMODAL[method].joint(list(layers.values()))}
    maps = {number: weighted(layer) for number, layer in layers.items()}
    # Of a stream that the score is not read from, all that there is.
    applications = flow.last if asked in flow.read else frozenset(flow.applications)
    rows = Relevancies(flow, maps).of(asked, applications)
    return {flow.streams[n].name: r for n, r in rows.items() if not flow.streams[n].constant}


def _asked(flow: TokenFlow, name: str | None) -> int:
    """The stream that the query is one of."""
    names = [stream.name for stream in flow.streams]
    if name is not None:
        if name not in names:
            raise unknown_name("stream", name, names)
        return names.index(name)
    first, *others = flow.read
    if others:
        read = ", ".join(repr(names[n]) for n in flow.read)
        raise InputError(
            f"The score is read from tokens of several streams, {read}: say with `stream` which of "
            "them the query is one of, and add up the results if need be."
        )
    return first


_INSTEAD = (
    "`relprop.relevance` follows everything: explain the embeddings, and sum the relevance of each."
)


def _mixing(by: Sequence[str]) -> str:
    lines = "".join(f"  {mixer}\n" for mixer in by)
    return f"They are mixed by\n{lines}" if by else ""


def _check(flow: TokenFlow) -> None:
    """Refuses what the formulas make no sense for."""
    applications = list(flow.applications.values())
    if not applications:
        raise InputError(
            "There is no attention on the way from the explained argument to the score: no product "
            "of values with a softmax over tokens (channel attention and attention to a memory mix "
            "none). `relprop.inspect(f, rules)(*args).blocks` lists what is."
        )
    windows = [application for application in applications if application.windows]
    if windows:
        raise InputError(
            "There are attention maps of parts of the tokens, such as windows or keys in chunks, "
            f"which say nothing about the others:\n{listed(windows)}\nWhere it is chunks of keys, "
            "write the attention without them (a framework's plain, 'eager' implementation), or: "
            f"{_INSTEAD}"
        )
    hidden = [application for application in applications if application.obstacle]
    if hidden:
        # A loop may apply one attention several times.
        lines = "\n".join(dict.fromkeys(f"  {one}: {one.obstacle}" for one in hidden))
        raise InputError(
            f"There is attention of which there is no one map to be had:\n{lines}\n"
            "No method that looks at maps can be used, 'generic' neither. Write the attention "
            "without such a loop (softmax(q @ k.T) @ v, with queries in chunks if need be; a "
            "framework's plain, 'eager' implementation), or: " + _INSTEAD
        )
    mixed = [application for application in applications if application.mixed]
    if mixed:
        by = sorted({mixer for application in mixed for mixer in application.mixers})
        raise InputError(
            "The tokens of one attention are not those of another: in between they were joined, "
            "taken apart, averaged or moved, so that maps cannot be multiplied, which have to be "
            f"square and of one size within a stream of tokens:\n{listed(applications)}\n"
            f"In question is what goes into\n{listed(mixed)}\n{_mixing(by)}{_INSTEAD}"
        )
    if flow.mixers:
        raise InputError(
            "Tokens are mixed outside of attention, before the first or after the last, so that "
            f"maps do not tell which of them count:\n{_mixing(flow.mixers)}{_INSTEAD}"
        )
    constant = {n for n, stream in enumerate(flow.streams) if stream.constant}
    within = [
        application
        for application in applications
        if application.queries == application.keys and application.queries in constant
    ]
    if within:
        raise InputError(
            "Tokens that look at others come from constants, and what they see of each other at "
            "first does not depend on what is explained. Explain what they come from as well, by "
            "`argnums` for an argument (the inputs of a decoder) and `parameters` for parameters "
            f"(object queries, latents):\n{listed(within)}"
        )


def _check_streams(flow: TokenFlow, method: str) -> None:
    if method in UNIMODAL and len(flow.streams) > 1:
        crossing = [
            application for application in flow.applications.values() if application.crosses
        ]
        between = "with cross-attention" if crossing else "with no attention"
        raise InputError(
            f"There are several streams of tokens, {', '.join(map(str, flow.streams))}, "
            f"{between} between them:\n{listed(crossing or list(flow.applications.values()))}\n"
            f"{method!r} gives one map of one stream. Use method={GENERIC!r}, or {FULL!r}."
        )


def _single(named: Mapping[str, Array]) -> Any:
    """The array of the only stream, else a dict."""
    return dict(named) if len(named) > 1 else next(iter(named.values()))


def _result(found: Attribution, details: bool) -> Any:
    if details:
        return found
    first = jax.tree.leaves(found.tokens)[0]
    return jax.tree.map(lambda a: a[0], found.tokens) if first.shape[0] == 1 else found.tokens
