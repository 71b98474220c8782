"""What single primitives do to axes: one function for each, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from relprop._core.graph import Equation
from relprop.anatomy.axes import Axes, Dim, Shape


def kept(
    axes: Axes, shape: Shape, sizes: Sequence[int], equation: Equation, mixed: Iterable[int] = ()
) -> Shape:
    """The axes whose size stays, but for some that are mixed all the same."""
    mixed = tuple(mixed)
    return tuple(
        dim if axes.size(dim) == n and i not in mixed else axes.mixed(n, dim, equation)
        for i, (dim, n) in enumerate(zip(shape, sizes, strict=True))
    )


def _reshape(axes, equation, operands, numbers):
    del numbers
    return axes.regroup(operands[0], equation.outputs[0].shape)


def _transpose(axes, equation, operands, numbers):
    del axes, numbers
    return tuple(operands[0][i] for i in equation.params["permutation"])


def _squeeze(axes, equation, operands, numbers):
    del axes, numbers
    gone = equation.params["dimensions"]
    return tuple(dim for i, dim in enumerate(operands[0]) if i not in gone)


def _reduce(axes, equation, operands, numbers):
    del axes, numbers
    gone = equation.params["axes"]
    return tuple(dim for i, dim in enumerate(operands[0]) if i not in gone)


def _broadcast(axes, equation, operands, numbers):
    del numbers
    (out,) = equation.outputs
    placed = dict(zip(equation.params["broadcast_dimensions"], operands[0] or (), strict=False))
    return tuple(
        placed[i] if i in placed and axes.size(placed[i]) == n else axes.new(n)
        for i, n in enumerate(out.shape)
    )


def _tile(axes, equation, operands, numbers):
    """Copies after one another; of a single entry it is as a broadcast."""
    del numbers
    (out,) = equation.outputs
    whole = ((),) * (len(out.shape) - len(operands[0])) + tuple(operands[0])
    return tuple(
        dim if axes.size(dim) == n else axes.mixed(n, dim, equation) if dim else axes.new(n)
        for dim, n in zip(whole, out.shape, strict=True)
    )


def _concatenate(axes, equation, operands, numbers):
    del numbers
    along = equation.params["dimension"]
    known = [shape for shape in operands if shape is not None]
    result = list(known[0])
    for other in known[1:]:
        for i, (a, b) in enumerate(zip(result, other, strict=True)):
            if i != along and axes.find(a) != axes.find(b):
                if axes.related(a, b):
                    result[i] = axes.mixed(axes.size(a), (*a, *b), equation)
                else:
                    axes.unite(a, b)
    result[along] = axes.concatenated(
        [shape and shape[along] for shape in operands],
        [atom.shape[along] for atom in equation.inputs],
    )
    return tuple(result)


def _stack(axes, equation, operands, numbers):
    del numbers
    along = equation.params["axis"]
    known = [shape for shape in operands if shape is not None]
    result = list(known[0])
    for other in known[1:]:
        for i, (a, b) in enumerate(zip(result, other, strict=True)):
            if axes.find(a) != axes.find(b):
                if axes.related(a, b):
                    result[i] = axes.mixed(axes.size(a), (*a, *b), equation)
                else:
                    axes.unite(a, b)
    return (*result[:along], axes.new(len(operands)), *result[along:])


def _split(axes, equation, operands):
    along, sizes = equation.params["axis"], equation.params["sizes"]
    starts = np.cumsum([0, *sizes])
    return [
        tuple(
            axes.pick(dim, np.arange(start, start + n)) if i == along else dim
            for i, dim in enumerate(operands[0])
        )
        for start, n in zip(starts, sizes, strict=False)
    ]


def _slice(axes, equation, operands, numbers):
    del numbers
    params = equation.params
    strides = params["strides"] or (1,) * len(operands[0])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return tuple(
        axes.pick(dim, np.arange(*of)) for dim, of in zip(operands[0], ranges, strict=True)
    )


def _dynamic_slice(axes, equation, operands, numbers):
    starts = [numbers(atom) for atom in equation.inputs[1:]]
    result = []
    for dim, n, size, start in zip(
        operands[0], equation.inputs[0].shape, equation.outputs[0].shape, starts, strict=True
    ):
        if size == n:
            result.append(dim)
        elif start is None:
            result.append(axes.mixed(size, dim, equation))
        else:
            first = min(max(int(start), 0), n - size)
            result.append(axes.pick(dim, np.arange(first, first + size)))
    return tuple(result)


def _dynamic_update_slice(axes, equation, operands, numbers):
    """A part overwritten: what was there and what comes, one after the other."""
    whole, update = equation.inputs[:2]
    old, new = operands[:2]
    starts = [numbers(atom) for atom in equation.inputs[2:]]
    result = []
    for i, (n, size, start) in enumerate(zip(whole.shape, update.shape, starts, strict=True)):
        a, b = (shape and shape[i] for shape in (old, new))
        if n == size:
            if a and b and axes.find(a) != axes.find(b):
                if axes.related(a, b):
                    b = axes.mixed(n, (*a, *b), equation)
                else:
                    axes.unite(a, b)
            result.append(b if b is not None else a)
        elif start is None:
            result.append(axes.mixed(n, (*(a or ()), *(b or ())), equation))
        else:
            first = min(max(int(start), 0), n - size)
            before, after = np.arange(first), np.arange(first + size, n)
            parts = [
                (a and axes.pick(a, before), len(before)),
                (b, size),
                (a and axes.pick(a, after), len(after)),
            ]
            dims, sizes = zip(*(part for part in parts if part[1]), strict=True)
            result.append(axes.concatenated(dims, sizes))
    return tuple(result)


def _pad(axes, equation, operands, numbers):
    del numbers
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    result = []
    for dim, n, (low, high, inner) in zip(
        operands[0], equation.inputs[0].shape, equation.params["padding_config"], strict=True
    ):
        if not (low or high or inner):
            result.append(dim)
            continue
        if inner or not dim:
            result.append(axes.mixed(int((n - 1) * (inner + 1) + 1 + low + high), dim, equation))
            continue
        kept = axes.pick(dim, np.arange(max(0, -low), n - max(0, -high)))
        parts = [(None, max(low, 0)), (kept, axes.size(kept)), (None, max(high, 0))]
        dims, sizes = zip(*((d, int(m)) for d, m in parts if m), strict=True)
        result.append(axes.concatenated(dims, sizes) if len(dims) > 1 else kept)
    return tuple(result)


def product(axes: Axes, equation: Equation, operands: Sequence[Shape | None]) -> Shape:
    """The axes of a product of matrices; those that it sums over are gone."""
    (contracting, batch) = equation.params["dimension_numbers"]
    sides = [
        [operand[i] if operand is not None else axes.new(n) for i, n in enumerate(atom.shape)]
        for operand, atom in zip(operands, equation.inputs, strict=True)
    ]
    result = []
    for i, j in zip(*batch, strict=True):
        a, b = axes.find(sides[0][i]), axes.find(sides[1][j])
        if a and b and a != b and axes.related(a, b):
            result.append(axes.mixed(axes.size(a), (*a, *b), equation))
            continue
        axes.unite(a, b)
        result.append(sides[0 if operands[0] is not None else 1][(i, j)[operands[0] is None]])
    if all(operand is not None for operand in operands):
        for i, j in zip(*contracting, strict=True):
            a, b = axes.find(sides[0][i]), axes.find(sides[1][j])
            if not axes.related(a, b):
                axes.unite(a, b)
    return (
        *result,
        *(
            dim
            for side, dims in enumerate(sides)
            for i, dim in enumerate(dims)
            if i not in contracting[side] and i not in batch[side]
        ),
    )


def _product(axes, equation, operands, numbers):
    del numbers
    return product(axes, equation, operands)


def _convolution(axes, equation, operands, numbers):
    del numbers
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    params, kernel = equation.params, equation.inputs[1]
    layout = params["dimension_numbers"]
    result = list(axes.of(out.shape))
    result[layout.out_spec[0]] = operands[0][layout.lhs_spec[0]]
    dims = zip(layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:], strict=True)
    for i, window, j in dims:
        (result[j],) = kept(
            axes, (operands[0][i],), (out.shape[j],), equation, [0] * (kernel.shape[window] > 1)
        )
    return tuple(result)


def _window(axes, equation, operands, numbers):
    del numbers
    out, params = equation.outputs[0], equation.params
    windows = params["window_dimensions"]
    wide = [i for i, n in enumerate(windows) if n > 1]
    return kept(axes, operands[0], out.shape, equation, wide)


def _reverse(axes, equation, operands, numbers):
    del numbers
    turned = equation.params["dimensions"]
    return tuple(
        axes.pick(dim, np.arange(axes.size(dim))[::-1]) if i in turned else dim
        for i, dim in enumerate(operands[0])
    )


def _cumulative(axes, equation, operands, numbers):
    del numbers
    out = equation.outputs[0]
    return kept(axes, operands[0], out.shape, equation, [equation.params["axis"]])


def _fourier(axes, equation, operands, numbers):
    del numbers
    out, rank = equation.outputs[0], len(operands[0])
    over = range(rank - len(equation.params["fft_lengths"]), rank)
    return kept(axes, operands[0], out.shape, equation, over)


def _sort(axes, equation, operands):
    """Which token comes where depends on the values."""
    along = equation.params["dimension"]
    return [
        kept(axes, shape, out.shape, equation, [along]) if shape else axes.of(out.shape)
        for shape, out in zip(operands, equation.outputs, strict=True)
    ]


def _largest(axes, equation, operands):
    last = len(operands[0]) - 1
    return [kept(axes, operands[0], out.shape, equation, [last]) for out in equation.outputs]


def _alongside(axes, equation, operands):
    """Operands handed on as they are."""
    return [
        shape if shape is not None else axes.of(out.shape)
        for shape, out in zip(operands, equation.outputs, strict=True)
    ]


def _gather(axes, equation, operands, numbers):
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    layout = equation.params["dimension_numbers"]
    gone = {*layout.collapsed_slice_dims, *layout.operand_batching_dims}
    rest = [dim for i, dim in enumerate(operands[0]) if i not in gone]
    chosen = [axis for i in gone for axis in operands[0][i]]
    indices = numbers(equation.inputs[1])
    others = [i for i in range(len(out.shape)) if i not in layout.offset_dims]
    result: list[Dim] = [()] * len(out.shape)
    simple = len(gone) == len(layout.start_index_map) == 1 and not layout.operand_batching_dims
    if indices is not None and simple and len(others) == 1:
        (dim,) = (operands[0][i] for i in gone)
        where = np.clip(indices.reshape(-1), 0, axes.size(dim) - 1)
        result[others[0]] = axes.pick(dim, where)
    else:
        batched = dict(
            zip(layout.start_indices_batching_dims, layout.operand_batching_dims, strict=True)
        )
        for number, i in enumerate(others):
            result[i] = (
                operands[0][batched[number]]
                if number in batched
                else axes.mixed(out.shape[i], chosen, equation)
            )
    sizes = [n for i, n in enumerate(equation.params["slice_sizes"]) if i not in gone]
    kept = [i for i in range(len(operands[0])) if i not in gone]
    for i, dim, n, of in zip(layout.offset_dims, rest, sizes, kept, strict=True):
        if axes.size(dim) == n:
            result[i] = dim
        elif indices is not None and indices.size == 1 and layout.start_index_map == (of,):
            first = min(max(int(indices.reshape(())), 0), axes.size(dim) - n)
            result[i] = axes.pick(dim, np.arange(first, first + n))
        else:
            result[i] = axes.mixed(n, dim, equation)
    return tuple(result)


def _scatter(axes, equation, operands, numbers):
    """Where something that depends on what is explained is put between others, all may be mixed."""
    del numbers
    (out,) = equation.outputs
    old, _, new = operands[:3]
    if new is None:
        return old if old is not None else axes.of(out.shape)
    layout = equation.params["dimension_numbers"]
    fixed = {*layout.inserted_window_dims, *layout.operand_batching_dims}
    window = [i for i in range(len(out.shape)) if i not in fixed]
    update = dict(zip(window, layout.update_window_dims, strict=True))
    sizes = equation.inputs[2].shape
    kept = [j for i, j in update.items() if sizes[j] == out.shape[i]]
    moved = [axis for j, dim in enumerate(new) if j not in kept for axis in dim]
    result = []
    for i, n in enumerate(out.shape):
        a = old[i] if old is not None else ()
        b = new[update[i]] if i in update else ()
        whole = i in update and update[i] in kept
        if whole and (not a or axes.find(a) == axes.find(b)):
            result.append(b)
        elif whole and not axes.related(a, b):
            axes.unite(a, b)
            result.append(a)
        else:
            result.append(axes.mixed(n, (*a, *(b if whole else moved)), equation))
    return tuple(result)


RULES: dict[str, Callable[..., Shape]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "cumlogsumexp": _cumulative,
    "cummax": _cumulative,
    "cummin": _cumulative,
    "cumprod": _cumulative,
    "cumsum": _cumulative,
    "dot_general": _product,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "fft": _fourier,
    "gather": _gather,
    "pad": _pad,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_prod": _reduce,
    "reduce_sum": _reduce,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "reshape": _reshape,
    "rev": _reverse,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "scatter-max": _scatter,
    "scatter-min": _scatter,
    "scatter-mul": _scatter,
    "scatter-sub": _scatter,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
SEVERAL: dict[str, Callable[..., list[Shape]]] = {
    "approx_top_k": _largest,
    "optimization_barrier": _alongside,
    "sort": _sort,
    "split": _split,
    "top_k": _largest,
}
# What sums over axes, or leaves out all entries but one.
LOSING = (
    "broadcast_in_dim conv_general_dilated dot_general gather reduce_max reduce_min reduce_prod "
    "reduce_sum squeeze"
).split()
# Entry by entry, though relevance is not passed as by a function of entries.
ENTRYWISE = (
    "add add_any add_jaxvals sub mul div neg real imag conj complex stop_gradient sign floor ceil "
    "round copy copy_p name sharding_constraint reshard device_put mesh_cast pvary pbroadcast "
    "psum psum_invariant pmax pmin checkpoint_name bitcast_convert_type random_gamma_grad"
).split()
