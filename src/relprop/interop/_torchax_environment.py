"""What torchax 0.0.13 lacks, in an environment of our own: its tables stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import torch  # pyright: ignore[reportMissingImports]
import torch.utils._pytree as pytree  # pyright: ignore[reportMissingImports]

from relprop import _compat
from relprop.interop._torchax_names import restore_names

restore_names()  # Before torchax is imported.

import torchax.tensor  # noqa: E402  # pyright: ignore[reportMissingImports]
from torch._decomp import decomposition_table  # noqa: E402  # pyright: ignore[reportMissingImports]
from torchax.ops.op_base import InplaceOp  # noqa: E402  # pyright: ignore[reportMissingImports]
from torchax.ops.ops_registry import Operator  # noqa: E402  # pyright: ignore[reportMissingImports]
from torchax.tensor import OperatorNotFound  # noqa: E402  # pyright: ignore[reportMissingImports]
from torchax.view import View  # noqa: E402  # pyright: ignore[reportMissingImports]

from relprop.interop._attention import attention_in_chunks  # noqa: E402
from relprop.interop._torch_lowerings import LOWERINGS  # noqa: E402
from relprop.interop._torch_views import Tensor, is_view, views_of  # noqa: E402

#: From so many pairs of a query and a key on, attention has no array of them all.
LONG = 2048 * 2048

#: Made to be written to, often without a device.
_BLANKS = (torch.zeros, torch.ones, torch.empty, torch.full)


class Environment(torchax.tensor.Environment):
    """An environment of torchax with more operators, and with constants of torch itself."""

    def __init__(self) -> None:
        super().__init__()
        for operator, function in LOWERINGS.items():
            self._register(operator, function)
        sdpa = torch.nn.functional.scaled_dot_product_attention
        given = self._ops[sdpa].func
        for operator in (sdpa, torch.ops.aten.scaled_dot_product_attention):
            self.override_op_definition(operator, _with_dead_rows(_in_chunks(given, self), self))
        self.override_op_definition(torch.ops.aten.copy_, self._copy, is_view_op=True)

    def _copy(self, place: Any, value: Any, non_blocking: bool = False) -> Any:
        """As torchax's own, but a value of fewer entries is broadcast, and not what is left."""
        known = isinstance(value, (torchax.tensor.Tensor, View))
        _write(place, value.jax() if known else self.t2j_copy(value))
        return place

    def _register(self, operator: Any, function: Callable[..., Any]) -> None:
        def lifted(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self.t2j_iso((args, kwargs))
            return self.j2t_iso(function(*args, **kwargs))

        self.override_op_definition(operator, lifted)
        # torchax looks for an overload before the operator that it is one of.
        for name in getattr(operator, "overloads", list)():
            self._ops.pop(getattr(operator, name), None)

    def _get_op_or_decomp(self, func: Any) -> Any:
        """As torchax's own, and what torch itself takes an operator apart into."""
        if func not in self._ops and (outs := _outs(func)):
            # torchax would take the lowering without ``out``, which leaves that as it was.
            return Operator(func, _into(func, outs), False, False, False, is_view_op=True)
        try:
            return super()._get_op_or_decomp(func)
        except OperatorNotFound:
            if not isinstance(func, torch._ops.OpOverload):
                raise
            if (plain := _out_of_place(func)) is not None:
                return Operator(func, InplaceOp(plain), False, False, False, is_view_op=True)
            parts = decomposition_table.get(func)
            if parts is None and func._can_decompose():
                parts = func.decompose
            if parts is None:
                raise
            return Operator(func, parts, False, False, False, False)

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torchax's own, but tensors that the code of a module makes on the CPU are constants.

        torch refuses to compute with tensors of two devices, and torchax too.
        """
        kwargs = kwargs or {}
        if _is_known(func, args, kwargs):
            # Sizes, positions and masks that depend on nothing stay known while JAX traces.
            with jax.ensure_compile_time_eval():
                return self._dispatched(func, types, args, kwargs)
        return self._dispatched(func, types, args, kwargs)

    def _dispatched(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in _BLANKS and kwargs.get("device") is None and _is_real(func, args, kwargs):
            kwargs = {**kwargs, "device": "jax"}
        given = pytree.tree_leaves((args, kwargs))
        if not any(isinstance(leaf, (torchax.tensor.Tensor, View)) for leaf in given):
            return super().dispatch(func, types, args, kwargs)
        changed = _changed(func, args)
        if changed is not None:
            raise NotImplementedError(
                f"{_name(func)} changes a tensor of shape {tuple(changed.shape)} in place by what "
                "depends on the arguments, and the tensor was made for the CPU. Make it with "
                "`device=x.device`, x being such an argument."
            )
        args, kwargs = self._constants((args, kwargs))
        try:
            if args and isinstance(args[0], View) and self._loses_writes(func):
                copied = args[0].torch()
                super().dispatch(func, types, (copied, *args[1:]), kwargs)
                args[0].update(copied)
                return args[0]
            result = super().dispatch(func, types, args, kwargs)
            if is_view(func):
                views_of(func, args, kwargs, result)
            return result
        except OperatorNotFound:
            # torch itself knows what it is made of.
            if isinstance(func, torch._ops.OpOverload) or not callable(func):
                raise
            return func(*args, **kwargs)

    def _loses_writes(self, func: Any) -> bool:
        """Whether torchax would write to a copy of what a tensor is indexed by."""
        written = isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable
        return written and not self._get_op_or_decomp(func).is_view_op

    def j2t_iso(self, jaxarray: Any) -> Any:
        """As torchax's own, with tensors that have views."""
        return pytree.tree_map_only(jax.Array, lambda x: Tensor(x, self), jaxarray)

    def t2j_iso(self, torchtensors: Any) -> Any:
        """As torchax's own, for ordinary tensors too. Those of one number stay numbers."""
        return super().t2j_iso(self._constants(torchtensors))

    def _constants(self, tree: Any) -> Any:
        def constant(leaf: Any) -> Any:
            return self.j2t_iso(self.t2j_copy(leaf)) if _is_ordinary(leaf) and leaf.ndim else leaf

        with jax.ensure_compile_time_eval():
            return pytree.tree_map(constant, tree)


def _whole(dtype: Any) -> bool:
    """Whether a type, as torch or as Python names it, is one of whole numbers or truth values."""
    if isinstance(dtype, torch.dtype):
        return not (dtype.is_floating_point or dtype.is_complex)
    return dtype in (int, bool)


def _is_known(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether whole numbers and truth values, and nothing that is traced, are all that goes in."""
    leaves = map(_source, pytree.tree_leaves((args, kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors:
        whole = _whole(kwargs.get("dtype"))
        return whole or (func is torch.arange and all(isinstance(a, int) for a in args))
    return all(_is_whole(t) for t in tensors)


def _source(leaf: Any) -> Any:
    """What a view is one of; anything else itself."""
    while isinstance(leaf, View):
        leaf = leaf.parent
    return leaf


def _is_whole(tensor: Any) -> bool:
    if tensor.is_floating_point() or tensor.is_complex():
        return False
    array = getattr(tensor, "_elem", None)
    return array is None or not _compat.is_traced(array)


def _out_of_place(func: Any) -> Any:
    """Of an operator that changes its first argument the one that does not, if there is one."""
    name = func.overloadpacket.__name__
    if not func._schema.is_mutable or not name.endswith("_") or name.startswith("_"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, func._overloadname, None)


def _outs(func: Any) -> list[str]:
    """The names of the arguments that an operator writes its results to."""
    if not isinstance(func, torch._ops.OpOverload):
        return []
    keywords = ((a.name, a.alias_info) for a in func._schema.arguments if a.kwarg_only)
    return [name for name, alias in keywords if alias is not None and alias.is_write]


def _into(func: Any, outs: list[str]) -> Callable[..., Any]:
    """The operator that makes its results, followed by writing them to where they are to be."""
    packet = func.overloadpacket
    overloads = [getattr(packet, name) for name in packet.overloads()]
    wanted = [a.name for a in func._schema.arguments if a.name not in outs]
    plain = next((o for o in overloads if [a.name for a in o._schema.arguments] == wanted), None)
    if plain is None:
        raise OperatorNotFound(f"Operator with name {func.name()} has no lowering")

    def run(*args: Any, **kwargs: Any) -> Any:
        places = [kwargs.pop(out) for out in outs]
        results = plain(*args, **kwargs)
        results = results if isinstance(results, (tuple, list)) else (results,)
        for place, result in zip(places, results, strict=True):
            _write(place, result.jax())
        return places[0] if len(places) == 1 else tuple(places)

    return run


def _write(place: Any, array: jax.Array) -> None:
    """Writes numbers to a tensor; those that have no place there make it one of another shape."""
    array = array.astype(place.jax().dtype)
    with contextlib.suppress(ValueError):
        array = jax.numpy.broadcast_to(array, place.shape)
    if isinstance(place, View):
        place.update(array)
    else:
        place._elem = array


def _is_ordinary(leaf: Any) -> bool:
    return type(leaf) in (torch.Tensor, torch.nn.Parameter)


def _is_real(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a tensor with nothing in it yet will hold real numbers."""
    dtype = kwargs.get("dtype")
    if dtype is None and func is torch.full:
        return isinstance(kwargs.get("fill_value", args[-1] if args else None), float)
    return dtype in (None, float) or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)


def _changed(func: Any, args: Any) -> torch.Tensor | None:
    """An ordinary tensor that an operator would write to."""
    if isinstance(func, torch._ops.OpOverload):
        written = func._schema.is_mutable
    else:
        name = _name(func)
        written = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    return args[0] if written and args and _is_ordinary(args[0]) else None


def _name(func: Any) -> str:
    return func.name() if isinstance(func, torch._ops.OpOverload) else func.__name__


def _in_chunks(attention: Callable[..., Any], environment: Environment) -> Callable[..., Any]:
    """Attention whose memory grows with the length of the text, and not with its square."""

    def attended(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Any:
        if query.shape[-2] * key.shape[-2] < LONG or dropout_p:
            return attention(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)
        arrays = environment.t2j_iso((query, key, value, attn_mask))
        query, key, value, mask = arrays
        if kwargs.get("enable_gqa"):
            groups = query.shape[-3] // key.shape[-3]
            key, value = (jax.numpy.repeat(x, groups, axis=-3) for x in (key, value))
        scale = kwargs.get("scale")
        return environment.j2t_iso(
            attention_in_chunks(query, key, value, mask, is_causal=is_causal, scale=scale)
        )

    return attended


def _with_dead_rows(attention: Callable[..., Any], environment: Environment) -> Callable[..., Any]:
    """Attention whose rows are zero where a mask hides everything, as torch has it.

    torchax has no numbers there, which spread to all tokens of the next layer.
    """

    def attended(
        query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        kwargs.pop("env", None)
        if attn_mask is None:
            return attention(query, key, value, None, *args, **kwargs)
        (mask,) = environment.t2j_iso((attn_mask,))
        seen = mask if mask.dtype == bool else mask != -jax.numpy.inf
        dead = jax.numpy.logical_not(seen.any(-1, keepdims=True))
        mask = mask | dead if mask.dtype == bool else jax.numpy.where(dead, 0, mask)
        mask, dead = environment.j2t_iso((mask, dead))
        out = attention(query, key, value, mask, *args, **kwargs)
        return torch.where(dead, torch.zeros_like(out), out)

    return attended
