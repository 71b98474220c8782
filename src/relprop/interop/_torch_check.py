"""Whether a PyTorch module computes as a JAX function what it computes in PyTorch."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._errors import ForwardError
from relprop.interop._torch_state import forgetful

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]

#: A module and its arguments, to what it computes in JAX.
Run = Callable[..., Any]


def is_concrete(*trees: Any) -> bool:
    """Whether there are numbers: nothing is being traced."""
    return not any(_compat.is_traced(leaf) for leaf in jax.tree.leaves(trees))


def as_tensor(leaf: Any, device: Any) -> Any:
    """An array of any library as a tensor, real numbers in the precision that JAX gives them."""
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(leaf, jax.Array):
        half = leaf.dtype == jnp.bfloat16
        tensor = torch.from_numpy(np.array(leaf.astype(jnp.float32) if half else leaf))
        tensor = tensor.bfloat16() if half else tensor
        # JAX makes whole numbers of 64 bits to ones of 32, which PyTorch often refuses.
        tensor = tensor.long() if tensor.dtype == torch.int32 and _is_single() else tensor
    elif isinstance(leaf, (np.ndarray, np.generic)):
        tensor = torch.from_numpy(np.array(leaf))
    elif isinstance(leaf, torch.Tensor):
        tensor = leaf.detach()
    else:
        return leaf
    tensor = tensor.float() if tensor.dtype == torch.float64 and _is_single() else tensor
    return tensor.to(device)


def _is_single() -> bool:
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float32


def check_forward(
    module: torch.nn.Module,
    tensors: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    found: Any,
    run: Run,
) -> None:
    """Compares what was found with what PyTorch computes of the same.

    What two runs of PyTorch differ by is allowed, too, and so is what lower precision of products
    on an accelerator makes; then all is run again. Where it differs, each submodule is run by
    itself on what it got, and the innermost that differs is named.

    Args:
        module: the module, in evaluation mode.
        tensors: parameters and buffers that are not its own, by their names.
        args: its arguments, as tensors.
        kwargs: its keywords, likewise.
        found: the outputs in JAX, as `run` gives them.
        run: computes a module in JAX.

    Raises:
        ForwardError: the outputs differ.
    """
    import torch  # pyright: ignore[reportMissingImports]

    def expected() -> Any:
        copied, keywords = copy.deepcopy((args, dict(kwargs)))
        with torch.no_grad(), forgetful(module):
            return torch.func.functional_call(module, dict(tensors), copied, keywords)

    try:
        first = expected()
    except Exception as error:
        warnings.warn(
            f"relprop.interop.from_torch: {type(module).__name__} could not be compared with "
            f"PyTorch, which raised {type(error).__name__}: {error} `check=False` leaves the "
            "comparison out.",
            stacklevel=4,
        )
        return
    allowed = tolerance(module, args, found)
    if difference(found, first) <= allowed:
        return
    with jax.default_matmul_precision("highest"):
        found = run(module, tensors, *args, **kwargs)
        amount = difference(found, first)
        if amount <= allowed:
            return
        chance = difference(expected(), first)
        if chance > allowed:
            raise ForwardError(
                f"{type(module).__name__} computes something else each time that it is run in "
                f"PyTorch ({chance:.2g} of the largest entry apart), in evaluation mode too, so "
                "that it is no function to explain. Give it what it draws by chance as an "
                "argument. from_torch(..., check=False) takes it as it is, "
                "with the same numbers at every call."
            )
        place = next(_differing(module, tensors, args, kwargs, run, allowed), None)
    raise ForwardError(_message(module, amount, allowed, place))


def tolerance(module: torch.nn.Module, args: Any, found: Any) -> float:
    """What outputs may differ by: half the digits of the coarsest numbers in use."""
    leaves = [*module.parameters(), *module.buffers(), *_leaves((args, found))]
    names = {str(leaf.dtype).removeprefix("torch.") for leaf in leaves if hasattr(leaf, "dtype")}
    real = [name for name in names if name in ("float64", "float32", "bfloat16", "float16")]
    return float(np.sqrt(max((float(jnp.finfo(name).eps) for name in real), default=1e-7)))


def difference(found: Any, expected: Any) -> float:
    """The largest difference of real outputs in units of the largest entry; inf for other shapes.

    Whole numbers are not compared: rounding can decide which of two equal entries is the largest.
    """
    pairs = _leaves(plain(found)), _leaves(plain(expected))
    if [x.shape for x in pairs[0]] != [x.shape for x in pairs[1]]:
        return float("inf")
    worst = 0.0
    for one, other in zip(*pairs, strict=True):
        a, b = _numbers(one), _numbers(other)
        if a is None or b is None or not a.size:
            continue
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(a - b))
        largest = np.max(np.abs(b), where=np.isfinite(b), initial=0.0)
        amount = np.max(apart) / (largest or 1.0)
        worst = max(worst, float(amount) if np.isfinite(amount) else float("inf"))
    return worst


def plain(output: Any) -> Any:
    """The tensors or arrays of an output; caches and other objects in it are left out."""
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return output
    if isinstance(output, Mapping):
        parts = {key: plain(value) for key, value in output.items()}
        return {key: value for key, value in parts.items() if value is not None}
    if isinstance(output, (tuple, list)):
        parts = [plain(value) for value in output]
        return tuple(value for value in parts if value is not None)
    return None


def _leaves(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape")]


def _numbers(leaf: Any) -> np.ndarray | None:
    """As NumPy has them, or None for whole numbers."""
    if hasattr(leaf, "detach"):  # of PyTorch
        if leaf.is_complex():
            return leaf.detach().resolve_conj().cpu().numpy()
        return leaf.detach().double().cpu().numpy() if leaf.is_floating_point() else None
    kind = leaf.dtype
    if jnp.issubdtype(kind, jnp.complexfloating):
        return np.asarray(leaf)
    return np.asarray(leaf, np.float64) if jnp.issubdtype(kind, jnp.floating) else None


def _differing(
    module: torch.nn.Module,
    tensors: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    run: Run,
    allowed: float,
) -> Iterator[tuple[str, torch.nn.Module, float]]:
    """The submodules that differ from PyTorch on the same arguments, those inside first.

    One at a time, as PyTorch gets to their ends: what one of them was given is kept no longer.
    """
    import torch  # pyright: ignore[reportMissingImports]

    given: list[Any] = []
    different: list[tuple[str, torch.nn.Module, float]] = []
    busy = False

    def enter(submodule: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if busy or different:
            return
        try:
            given.append(copy.deepcopy((args, kwargs)))
        except Exception:  # What cannot be copied may be changed by the submodule.
            given.append(None)

    def leave(path: str) -> Callable[..., None]:
        def hook(submodule: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal busy
            if busy or different:
                return
            taken, busy = given.pop(), True
            try:
                if taken is not None:
                    found = run(submodule, dict(_own(submodule)), *taken[0], **taken[1])
                    amount = difference(found, output)
                    if amount > allowed:
                        different.append((path, submodule, amount))
            except Exception:
                pass  # It cannot be run by itself; what it consists of and is part of may be.
            finally:
                busy = False

        return hook

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for path, submodule in module.named_modules():
            before = submodule.register_forward_pre_hook(enter, with_kwargs=True)
            after = submodule.register_forward_hook(leave(path), with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        copied, keywords = copy.deepcopy((args, dict(kwargs)))
        torch.func.functional_call(module, dict(tensors), copied, keywords)
    yield from different


def _own(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Its tensors as they are at the time."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _message(
    module: torch.nn.Module,
    amount: float,
    allowed: float,
    place: tuple[str, torch.nn.Module, float] | None,
) -> str:
    def apart(amount: float) -> str:
        if amount == float("inf"):
            return "other shapes, or numbers that are not finite"
        return f"{amount:.2g} of the largest entry"

    lines = [
        f"{type(module).__name__} computes something else in JAX than in PyTorch, so that its "
        f"relevance would be that of another function: {apart(amount)}, where {allowed:.1g} is "
        "allowed.",
    ]
    if place is None:
        lines.append("  No submodule differs when it is run by itself.")
    elif place[0]:
        path, submodule, own = place
        lines.append(f"  The first submodule that differs: {path!r}, {_shown(submodule)}")
        lines.append(f"  by itself: {apart(own)}.")
    else:
        lines.append("  Its submodules agree: what differs is in its own forward method.")
    lines.append(
        "torchax has no or another lowering of an operation in it, or it writes to a view of a "
        "tensor. Write that operation in another way, or replace the submodule by one that "
        "agrees; tell the maintainers of relprop, too. from_torch(..., check=False) goes on."
    )
    return "\n".join(lines)


def _shown(module: torch.nn.Module) -> str:
    text = " ".join(str(module).split())
    return text if len(text) <= 100 else f"{type(module).__name__}(...)"
