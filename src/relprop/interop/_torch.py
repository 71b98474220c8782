"""PyTorch modules through torchax."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._errors import InputError
from relprop.interop._torch_check import as_tensor, check_forward, is_concrete, plain
from relprop.interop._torch_scopes import module_scopes

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def from_torch(
    module: torch.nn.Module, *, check: bool = True
) -> tuple[Callable[..., Any], dict[str, Any]]:
    r"""A PyTorch module as a JAX function and its parameters.

    torchax runs the module's own code with JAX underneath; neither the module nor its class is
    changed. What a submodule computes is in the JAX scope of its path, such as
    ``model/layers/0/self_attn/q_proj``, followed by torch's names of the operations.

    Args:
        module: any module that torchax can run, in evaluation mode.
        check: at the first call of `fn` with numbers - one that is neither traced nor compiled -
            the module is run in PyTorch as well, once, and what it gives is compared: to half the
            digits of the coarsest dtype in use, products in full precision. What is random in
            evaluation mode is found, too.

    Returns:
        ``(fn, params)``. `params` maps the names of all parameters and buffers, those of
        `module.state_dict()` among them, to JAX arrays; tensors that are tied are there once.
        ``fn(params, *args, **kwargs)`` returns what the module returns, with arrays for tensors
        and a dict for the output classes of transformers, as far as it holds tensors. Its
        arguments are arrays of JAX, NumPy or torch, and whatever else the module takes.

    Raises:
        InputError: the module or a part of it is in training mode, where dropout is random; or a
            parameter has a dtype or a form that can't be explained. All reasons are listed. `fn`
            raises it if the module has been put into training mode since.
        ForwardError: by `fn`, at its first call with numbers: JAX computes something else than
            PyTorch. It names the first submodule that differs.
        ImportError: torch or torchax is not installed.

    >>> import jax, torch, relprop  # doctest: +SKIP
    >>> fn, params = relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())  # doctest: +SKIP
    >>> fn(params, jax.numpy.ones((1, 3))).shape  # doctest: +SKIP
    (1, 2)
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_torch needs PyTorch: pip install relprop[torch]") from error
    problems = list(_problems(module))
    if problems:
        found = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(f"{type(module).__name__} cannot be explained as it is:\n{found}")
    environment = _environment()
    params = environment.t2j_copy(dict(_tensors_of(module)))
    given_out = dict(params)
    unchecked = check

    def run(module: torch.nn.Module, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        given = environment.j2t_iso(
            jax.tree.map(_array, environment.t2j_copy((dict(tensors), args, kwargs)))
        )
        # PyTorch broadcasts arrays of different rank and mixes their dtypes, and so do its models.
        with (
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
            module_scopes(module),
            environment,
        ):
            return environment.t2j_iso(plain(torch.func.functional_call(module, *given)))

    def fn(params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        missing = sorted(set(names) - set(params))
        if missing:
            raise InputError(f"`params` lacks {_listed(missing)} of {type(module).__name__}.")
        training = list(_training(module))
        if training:
            raise InputError(f"{type(module).__name__} has been changed since: {training[0]}")
        own = {name: params[name] for name in names}
        outputs = run(module, own, *args, **kwargs)
        nonlocal unchecked, given_out
        if unchecked and is_concrete(own, args, kwargs, outputs):
            others = {name: own[name] for name in names if own[name] is not given_out[name]}
            place = next((t.device for t in module.parameters()), torch.device("cpu"))
            given = jax.tree.map(functools.partial(as_tensor, device=place), (others, args, kwargs))
            check_forward(module, *given, found=outputs, run=run_whole)
            unchecked, given_out = False, {}
        return outputs

    def run_whole(module: torch.nn.Module, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        """With all tensors that a module needs, of which some are given."""
        return run(module, {**dict(_tensors_of(module)), **tensors}, *args, **kwargs)

    names = tuple(params)
    return fn, params


def _environment() -> Any:
    """What torchax runs in, of our own: no setting or lowering of ours is seen by others."""
    from relprop.interop._torchax_names import restore_names

    try:
        restore_names()
        from relprop.interop._torchax_environment import Environment
    except ImportError as error:
        raise ImportError("from_torch needs torchax: pip install relprop[torch]") from error
    return Environment()


def _tensors_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors that a module holds, tied ones once: its code must find no other kind."""
    import torch  # pyright: ignore[reportMissingImports]

    yield from itertools.chain(module.named_parameters(), module.named_buffers())
    for path, submodule in module.named_modules():
        for name, value in vars(submodule).items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{name}".removeprefix("."), value


def _problems(module: torch.nn.Module) -> Iterator[str]:
    """Why a module can't be explained, and what to do about each reason."""
    yield from _training(module)
    packed = [path for path, m in module.named_modules() if "nn.quantized" in type(m).__module__]
    if packed:
        yield (
            f"quantised layers: {_listed(packed)}. Their weights are packed in a form that PyTorch "
            "alone can read. Load the model without quantisation; fake quantisation, and whole "
            "numbers with scales in buffers, can be explained."
        )
    strange = [n for n, t in _tensors_of(module) if t.is_quantized]
    if strange:
        yield (
            f"quantised tensors: {_listed(strange)}. JAX has no such arrays: keep what "
            "`dequantize()` gives."
        )
    for kind, is_so, advice in (
        ("complex", _is_complex, "Relevance is defined for real numbers; split them into parts."),
        ("quantised", _is_quantised, "Load the model in float32 or bfloat16."),
        (
            "float64",
            _is_rounded,
            "JAX would round them: call `module.float()`, or allow double precision with "
            '`jax.config.update("jax_enable_x64", True)`.',
        ),
        ("missing", _is_missing, "They are on the meta device and have no values; load them."),
    ):
        names = [name for name, parameter in module.named_parameters() if is_so(parameter)]
        if names:
            yield f"{kind} parameters: {_listed(names)}. {advice}"


def _training(module: torch.nn.Module) -> Iterator[str]:
    training = [path or "the module itself" for path, m in module.named_modules() if m.training]
    if training:
        yield (
            f"in training mode, where dropout and batch norm depend on chance and on the batch: "
            f"{_listed(training)}. Call `module.eval()` first."
        )


def _is_complex(parameter: torch.Tensor) -> bool:
    return parameter.is_complex()


def _is_quantised(parameter: torch.Tensor) -> bool:
    return not (parameter.is_floating_point() or parameter.is_complex())


def _is_rounded(parameter: torch.Tensor) -> bool:
    kept = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    return str(parameter.dtype) == "torch.float64" and not kept


def _is_missing(parameter: torch.Tensor) -> bool:
    return parameter.is_meta


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf
