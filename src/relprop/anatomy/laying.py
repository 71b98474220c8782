"""The axes of what an equation makes, from those of its operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from relprop._core import registry
from relprop._core.graph import Equation, Value
from relprop.anatomy.axes import Axes, Laid, Numbers, Shape
from relprop.anatomy.axis_rules import ENTRYWISE, LOSING, RULES, SEVERAL


def through(
    axes: Axes, equation: Equation, operands: Sequence[Laid | None], numbers: Numbers
) -> list[Laid]:
    """The axes of the results of an equation.

    Args:
        axes: all axes, of which some may be found to be one.
        equation: the equation.
        operands: the axes of its operands; None for those that are of no interest.
        numbers: what is known of operands that say where others are taken from.
    """
    begun = axes.count
    if equation.name == "unstack":
        return _unstacked(axes, equation, operands[0])
    if equation.name in SEVERAL:
        shapes = SEVERAL[equation.name](axes, equation, [a and a.shape for a in operands])
    elif equation.name in RULES and len(equation.outputs) == 1:
        known = [operand and operand.shape for operand in operands]
        shapes = [RULES[equation.name](axes, equation, known, numbers)]
    elif _is_entrywise(equation):
        return [entrywise(axes, equation, out.shape, operands) for out in equation.outputs]
    else:
        shapes = [_any(axes, equation, out, operands) for out in equation.outputs]
    pooled = {p: by for a in operands if a is not None for p, by in a.pooled.items()}
    if equation.name in LOSING:
        for operand in operands:
            if operand is not None:
                lost = _lost(axes, operand.shape, shapes[0])
                pooled.update((axis, equation) for axis in lost)
    elif equation.name == "reshape":
        dims = operands[0].shape if operands[0] is not None else ()
        single = [axis for dim in dims for axis in dim if axes.size((axis,)) == 1]
        pooled.update((axis, equation) for axis in single)
    if equation.name in ("stack", "concatenate"):
        shapes, pooled = _collected(axes, equation, operands, shapes, pooled)
    axes.made(begun, equation)
    return [settled(axes, Laid(shape, pooled)) for shape in shapes]


def _unstacked(axes: Axes, equation: Equation, whole: Laid | None) -> list[Laid]:
    """Each entry along an axis by itself."""
    along = equation.params["axis"]
    assert whole is not None
    rest = tuple(dim for i, dim in enumerate(whole.shape) if i != along)
    dim = whole.shape[along]
    picks = [axes.pick(dim, np.arange(n, n + 1)) for n in range(len(equation.outputs))]
    return [
        settled(axes, Laid(rest, {**whole.pooled, **dict.fromkeys(pick, equation)}))
        for pick in picks
    ]


def _collected(
    axes: Axes,
    equation: Equation,
    operands: Sequence[Laid | None],
    shapes: list[Shape],
    pooled: Mapping[int, Equation],
) -> tuple[list[Shape], Mapping[int, Equation]]:
    """Entries of one axis that were taken one by one, and put together again."""
    along = equation.params["axis" if equation.name == "stack" else "dimension"]
    single = [
        {axes.base(p): p for p in a.pooled if axes.size((p,)) == 1} if a is not None else {}
        for a in operands
    ]
    stacked = equation.name == "stack" or all(
        a is not None and axes.size(a.shape[along]) == 1 for a in operands
    )
    for base in single[0] if stacked and len(operands) > 1 else ():
        picks = [of.get(base) for of in single]
        # No part may be of a second entry.
        if not all(
            a is not None
            and pick is not None
            and [p for p in a.pooled if axes.depends(base, p)] == [pick]
            for pick, a in zip(picks, operands, strict=True)
        ):
            continue
        numbers = np.concatenate([axes.numbers(pick) for pick in picks if pick is not None])
        if len(set(numbers.tolist())) == len(numbers):
            (shape,) = shapes
            dim = axes.pick((base,), numbers)
            kept = {p: by for p, by in pooled.items() if p not in picks}
            return [(*shape[:along], dim, *shape[along + 1 :])], kept
    return shapes, pooled


def settled(axes: Axes, laid: Laid) -> Laid:
    """With new axes for those along which every entry depends on all of them."""
    if not laid.pooled:
        return laid
    pooled = dict(laid.pooled)
    shape = []
    for dim in laid.shape:
        result = []
        for axis in dim:
            by = [p for p in laid.pooled if axes.depends(axis, p)]
            result.extend(
                axes.mixed(axes.size((axis,)), (axis, *by), laid.pooled[by[0]]) if by else (axis,)
            )
            for p in by:
                pooled.pop(p, None)
        shape.append(tuple(result))
    return Laid(tuple(shape), pooled)


def entrywise(
    axes: Axes, equation: Equation, sizes: Sequence[int], operands: Sequence[Laid | None]
) -> Laid:
    """What is computed entry by entry: axes that meet are one, or mix what comes from one."""
    alike = [
        a
        for a in operands
        if a is not None and tuple(axes.size(dim) for dim in a.shape) == tuple(sizes)
    ]
    pooled = {p: by for a in operands if a is not None for p, by in a.pooled.items()}
    if not alike:
        return settled(axes, Laid(axes.of(sizes), pooled))
    first, *others = alike
    shape, before = list(first.shape), dict(first.pooled)
    for other in others:
        for i, (a, b) in enumerate(zip(shape, other.shape, strict=True)):
            a, b = axes.find(a), axes.find(b)
            if a == b:
                continue
            if not a or not b:
                shape[i] = a or b
                continue
            by = [p for p in before if any(axes.depends(axis, p) for axis in b)]
            by += [p for p in other.pooled if any(axes.depends(axis, p) for axis in a)]
            if by or axes.related(a, b):
                known = {**before, **other.pooled}
                cause = known[by[0]] if by else axes.mixer(b, a) or axes.mixer(a, b) or equation
                shape[i] = axes.mixed(sizes[i], (*a, *b, *by), cause)
                for p in by:
                    pooled.pop(p, None)
            else:
                axes.unite(a, b)
        before.update(other.pooled)
    return settled(axes, Laid(tuple(shape), pooled))


def _is_entrywise(equation: Equation) -> bool:
    kind = registry.lookup(equation.primitive)
    return kind.elementwise or equation.name in ENTRYWISE


def _lost(axes: Axes, before: Shape, after: Shape) -> set[int]:
    """The axes of an operand that a result does not have, nor anything made from them."""
    left = [axis for dim in after for axis in axes.find(dim)]
    lost = []
    for axis in (axis for dim in before for axis in axes.find(dim)):
        if axis in left:
            left.remove(axis)
        else:
            lost.append(axis)
    gone = set()
    for axis in lost:
        base = axes.base(axis)
        heir = next((b for b in left if base in (axes.base(b), *axes.ancestry((b,)))), None)
        if heir is None:
            gone.add(axis)
        elif len(before) == len(after):
            left.remove(heir)
    return gone


def _any(axes: Axes, equation: Equation, out: Value, operands: Sequence[Laid | None]) -> Shape:
    """What nobody has said how it mixes may mix all."""
    every = [axis for a in operands if a is not None for dim in a.shape for axis in dim]
    ranked = [a.shape for a in operands if a is not None and len(a.shape) == len(out.shape)]
    result = []
    for i, n in enumerate(out.shape):
        own = ranked[0][i] if ranked and axes.size(ranked[0][i]) == n else ()
        result.append(axes.mixed(n, (*own, *every), equation))
    return tuple(result)
