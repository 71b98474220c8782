"""Attention: a product of values with a map that was made from queries and keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from relprop._core.graph import Value
from relprop._core.plan import Plan, Step
from relprop.anatomy.blocks import Attention, place
from relprop.anatomy.decays import decayed
from relprop.anatomy.maps import mixed_scores, multiplies, sums_over_tokens, use_of
from relprop.anatomy.neighbours import among_neighbours
from relprop.anatomy.pooling import pooled
from relprop.anatomy.routing import CHOICES, gate_of
from relprop.anatomy.wiring import LINEAR_LINKS, Link, Wiring, in_all_bodies, passes

# Between a map and the product that uses it: dropout, conversions, scaling of heads.
_AFTER_MAP = passes("structural", "scale", "offset")
# Between the product of queries and keys and the map: scale, mask, position bias, soft cap.
# Between a projection and its use: splitting into heads, norms, rotation, feature maps.
_BETWEEN = passes(*LINEAR_LINKS, "sum", "activation")
_IN_STATES = (*LINEAR_LINKS, "sum", "product", "gate")


def attentions(wiring: Wiring) -> Iterator[Attention]:
    """Each map that mixes values: a softmax, or another function of a product."""
    seen: set[Value] = set()
    decays = decayed(wiring)
    for step in wiring.steps:
        if step.structure == "softmax" and not step.off_path:
            block = _summed_or_mixed(wiring, step)
            if block is not None and block.value not in seen:
                seen.add(block.value)
                yield block
        if step.primitive != "dot_general":
            continue
        for operand in wiring.active(step):
            link = next(wiring.back(operand, _AFTER_MAP), None)
            if link is None or link.step.operation.outputs[0] in seen:
                continue
            scores = _scores(wiring, link.step)
            others = [a for a in wiring.active(step) if a is not operand]
            if not _is_map(wiring, link.step, scores, bool(others)) or _chooses(link, scores):
                continue
            if scores is None and gate_of(wiring, step, operand):
                continue
            if _is_linear(wiring, link.step) and decays & _near(wiring, step, link.step):
                continue  # What decays is a state: two products of a state space.
            seen.add(link.step.operation.outputs[0])
            block = _attention(wiring, link.step, scores, others[0] if others else None)
            yield dataclasses.replace(block, applied=operand, mixed=step.operation.outputs[0])


def _summed_or_mixed(wiring: Wiring, softmax: Step) -> Attention | None:
    """Attention whose map is subtracted from another one, or whose heads are mixed."""
    scores = _scores(wiring, softmax)
    use = use_of(wiring, softmax) if scores is not None else None
    if use is None:
        return None
    values = next(a for a in wiring.active(use.product) if a is not use.operand)
    block = _attention(wiring, softmax, scores, values)
    return dataclasses.replace(block, applied=use.operand, mixed=use.product.operation.outputs[0])


def layers_of_attention(wiring: Wiring) -> Iterator[Attention]:
    """The same, and linear attention in chunks once: all products of the same three projections."""
    seen: set[frozenset[Value]] = set()
    for block in attentions(wiring):
        values = [*block.compared, *([] if block.carried is None else [block.carried])]
        links = [_projection(wiring, value) for value in values]
        layers = frozenset(v for link in links if link for v in link.step.operation.outputs)
        if block.normaliser == "linear" and all(links):
            if layers in seen:
                continue
            seen.add(layers)
        yield block
    yield from pooled(wiring)
    yield from among_neighbours(wiring)


def all_attention(plan: Plan) -> Iterator[Attention]:
    """The attention of a plan and of all bodies in it, in order of evaluation."""
    return in_all_bodies(plan, attentions)


def _is_map(wiring: Wiring, normaliser: Step, scores: Link | None, varies: bool) -> bool:
    """Whether what a product is taken with is an attention map; `varies`: the values do, too."""
    if normaliser.structure == "softmax":
        return varies or scores is not None
    if _is_linear(wiring, normaliser):
        return varies
    return varies and normaliser.structure == "activation" and scores is not None


def _scores(wiring: Wiring, normaliser: Step) -> Link | None:
    """The product of queries and keys that a map was made from, and what lies between."""
    if _is_linear(wiring, normaliser):
        return Link(normaliser, 1, ())  # The product is the map.
    for operand in wiring.active(normaliser):
        for link in wiring.back(operand, _BETWEEN):
            if multiplies(wiring, link.step):
                return link
    return mixed_scores(wiring, normaliser) if normaliser.structure == "softmax" else None


_is_linear = multiplies  # Linear attention: a product of queries and keys as it is.


def _chooses(link: Link, scores: Link | None) -> bool:
    """Whether some entries of a softmax were chosen: weights of experts, and no map.

    Those of a layer's results may have been chosen inside of the softmax, which is one of these
    alone; products of queries and keys that are chosen so are those of sparse attention.
    """
    steps = [*link.passed, *([] if scores else [link.step])]
    names = (e.name for step in steps for e in step.operation.equations)
    return any(name in CHOICES for name in names)


def _near(wiring: Wiring, *products: Step) -> set[Value]:
    """What the factors of products were computed from since the last layers."""
    queue = [a for step in products for a in wiring.active(step)]
    found: set[Value] = set()
    while queue:
        value = queue.pop()
        step = wiring.maker(value)
        if value not in found and step is not None and step.structure in _IN_STATES:
            queue.extend(wiring.active(step))
        found.add(value)
    return found


def _attention(
    wiring: Wiring, normaliser: Step, scores: Link | None, values: Value | None
) -> Attention:
    (out,) = normaliser.operation.outputs
    kind, heads, key_heads, query, key = "attention", 0, 0, None, None
    between: tuple[Step, ...] = ()
    operands: list[Value] = []
    if scores is not None:
        between = scores.passed
        operands = wiring.active(scores.step)
        depth = _contracted(scores.step, operands[0], 0)
        # Queries are what the second to last axis of the map is of.
        if _is_transposed(scores.step, operands, out):
            operands.reverse()
        query, key = (_projection(wiring, a) for a in operands)
        linear = scores.step is normaliser
        if query and not linear and sums_over_tokens(wiring, query.step, scores.step):
            kind, heads = "channel attention", _maps_per_sample(wiring, query, scores.step, depth)
            key_heads = heads
        else:
            heads, key_heads = (
                _heads(wiring, link, math.prod(a.shape) // max(depth, 1))
                for link, a in zip((query, key), operands, strict=True)
            )
            if query and key:
                source = [_input(wiring, link.step) for link in (query, key)]
                kind = "self-attention" if source[0] is source[1] else "cross-attention"
    elif normaliser.structure == "softmax" and _by_fourier(wiring, normaliser):
        kind = "auto-correlation"
    value = _projection(wiring, values) if values is not None else None
    return Attention(
        kind=kind,
        **place(normaliser),  # type: ignore[arg-type]
        shape=out.shape,
        heads=heads,
        key_heads=key_heads,
        query=query.step.path if query else "",
        key=key.step.path if key else "",
        values=value.step.path if value else "",
        mask=_mask((*between, normaliser)),
        normaliser=_name(normaliser),
        compared=tuple(operands),
        carried=values,
    )


def _by_fourier(wiring: Wiring, softmax: Step) -> bool:
    """Whether scores are correlations at some delays, which are products of Fourier transforms."""
    links = wiring.back(wiring.active(softmax)[0], _BETWEEN)
    return any(step.primitive == "fft" for link in links for step in link.passed)


def _name(normaliser: Step) -> str:
    if normaliser.structure == "softmax":
        return "softmax"
    return "linear" if normaliser.primitive == "dot_general" else normaliser.primitive


def _projection(wiring: Wiring, value: Value) -> Link | None:
    links = wiring.back(value, _BETWEEN)
    return next((link for link in links if link.step.structure == "dense"), None)


def _input(wiring: Wiring, dense: Step) -> Value:
    return wiring.origin(wiring.active(dense)[0], "structural")


def _heads(wiring: Wiring, link: Link | None, vectors: int) -> int:
    """How many vectors there are per token, not counting copies."""
    if link is None:
        return 0
    heads, rest = divmod(vectors, max(_tokens(wiring, link), 1))
    return 0 if rest else heads


def _tokens(wiring: Wiring, link: Link) -> int:
    """How many tokens a projection is of, with their copies."""
    (value,) = wiring.active(link.step)
    position = link.step.operation.inputs.index(value)
    tokens = math.prod(value.shape) // max(_contracted(link.step, value, position), 1)
    return tokens * link.copies


def _maps_per_sample(wiring: Wiring, query: Link, product: Step, tokens: int) -> int:
    """How many maps of channels there are for the tokens of one sample."""
    (_, (batch, _)) = product.operation.equations[0].params["dimension_numbers"]
    shape = product.operation.equations[0].inputs[0].shape
    maps = math.prod(shape[axis] for axis in batch)  # type: ignore[union-attr]
    heads, rest = divmod(maps * tokens, max(_tokens(wiring, query), 1))
    return 0 if rest else heads


def _contracted(step: Step, value: Value, position: int) -> int:
    """The size of the axes that a product sums over."""
    equation = step.operation.equations[0]
    (contracting, _) = equation.params["dimension_numbers"]
    return math.prod(value.shape[axis] for axis in contracting[position])


def _is_transposed(step: Step, operands: list[Value], out: Value) -> bool:
    """Whether the second operand of a product makes the second to last axis of the map."""
    lengths = [_free(step, value, i) for i, value in enumerate(operands)]
    last = [length[-1] if length else 0 for length in lengths]
    return len(out.shape) > 1 and last[0] != last[1] and last[0] == out.shape[-1]


def _free(step: Step, value: Value, position: int) -> list[int]:
    contracting, batch = step.operation.equations[0].params["dimension_numbers"]
    used = {*contracting[position], *batch[position]}
    return [n for axis, n in enumerate(value.shape) if axis not in used]


def _mask(steps: tuple[Step, ...]) -> str:
    equations = [e.name for step in steps for e in step.operation.equations]
    if "select_n" in equations:
        return "selected"
    return "added" if any(step.structure == "offset" for step in steps) else ""
