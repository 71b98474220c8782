"""What torchax 0.0.13 lacks, in an environment of our own: its tables stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch  # pyright: ignore[reportMissingImports]

from relprop.interop._torchax_names import restore_names

restore_names()  # Before torchax is imported.

import torchax.tensor  # noqa: E402  # pyright: ignore[reportMissingImports]


class Environment(torchax.tensor.Environment):
    """An environment of torchax with more operators, and with constants of torch itself."""

    def __init__(self) -> None:
        super().__init__()
        self._register(torch.ops.aten._grouped_mm, grouped_mm)
        self._register(torch.nn.functional.linear, linear)

    def _register(self, operator: Any, function: Callable[..., Any]) -> None:
        def lifted(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self.t2j_iso((args, kwargs))
            return self.j2t_iso(function(*args, **kwargs))

        self.override_op_definition(operator, lifted)

    def t2j_iso(self, torchtensors: Any) -> Any:
        """As torchax's own, but tensors that the code of a module makes on the CPU are constants.

        torchax refuses them, save for single numbers.
        """

        def constant(leaf: Any) -> Any:
            ordinary = type(leaf) in (torch.Tensor, torch.nn.Parameter)
            return self.j2t_iso(self.t2j_copy(leaf)) if ordinary and leaf.numel() != 1 else leaf

        return super().t2j_iso(jax.tree.map(constant, torchtensors))


def grouped_mm(rows: Any, matrices: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None):
    """Rows in groups, each group times its matrix: the experts of Mixtral, Qwen-MoE, DeepSeek.

    torchax has no lowering of ``aten::_grouped_mm``.
    """
    if (rows.ndim, matrices.ndim) != (2, 3) or offs is None or bias is not None or out_dtype:
        raise NotImplementedError(
            "Of torch's grouped matrix products only that of a matrix with a stack of matrices, "
            f"without bias, can run in JAX; got shapes {rows.shape} and {matrices.shape}."
        )
    sizes = jnp.diff(offs, prepend=jnp.zeros(1, offs.dtype))
    return jax.lax.ragged_dot(rows, matrices, sizes)


def linear(input: Any, weight: Any, bias: Any = None):
    """`torch.nn.functional.linear` with torch's own names for its arguments.

    torchax calls one of them ``weights``, so that it fails for timm's EVA, which names it.
    """
    product = jnp.einsum("...a,ba->...b", input, weight)
    return product if bias is None else product + bias
