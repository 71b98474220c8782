"""PyTorch modules through torchax."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._errors import InputError
from relprop.interop._torch_check import as_tensor, check_forward, is_concrete, plain
from relprop.interop._torch_failures import failures_named
from relprop.interop._torch_scopes import module_scopes
from relprop.interop._torch_state import forgetful
from relprop.interop._torch_weights import taken_over

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def from_torch(
    module: torch.nn.Module, *, check: bool = True, release: bool = False
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
        release: JAX takes the weights over, without a copy where it can use the memory that they
            lie in, and the module is left empty, on the meta device. There is no comparison then,
            since PyTorch has nothing left to compute with.

    Returns:
        ``(fn, params)``. `params` maps the names of all parameters and buffers, those of
        `module.state_dict()` among them, to JAX arrays; tensors that are tied are there once.
        Whole numbers and truth values among the buffers are those of the module wherever `params`
        is traced, since its code may read them as sizes.
        ``fn(params, *args, **kwargs)`` returns what the module returns, with arrays for tensors
        and a dict for the output classes of transformers, as far as it holds tensors. Its
        arguments are arrays of JAX, NumPy or torch, and whatever else the module takes.

    Raises:
        InputError: the module or a part of it is in training mode, where dropout is random, or
            compiled by `torch.jit`; or a parameter has a dtype or a form that can't be explained.
            All reasons are listed. `fn` raises it if the module was put into training mode since.
            By `fn` too, where an operator has no lowering, or a shape depends on what is traced.
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
    _check(module)
    environment = _environment()
    if release:
        params = taken_over(module, _tensors_of(module), environment.t2j_copy)
    else:
        params = environment.t2j_copy(dict(_tensors_of(module)))
    unchecked = check and not release
    given_out = dict(params) if unchecked else {}

    def run(module: torch.nn.Module, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        given = environment.j2t_iso(
            jax.tree.map(_array, environment.t2j_copy((dict(tensors), args, kwargs)))
        )
        # PyTorch broadcasts arrays of different rank and mixes their dtypes, and so do its models.
        with (
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
            # A function gives the same each time: what is drawn by chance is drawn from one key.
            environment.override_property(prng=jax.random.key(0)),
            failures_named(module),
            forgetful(module),
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
        own = {name: _constant(params[name], counts.get(name)) for name in names}
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
    counts = {name: array for name, array in params.items() if _is_count(array)}
    return fn, params


def _is_count(array: Any) -> bool:
    """Whether it is of sizes, positions or truth values, and no weights of 8 bits."""
    return array.dtype == bool or (
        jnp.issubdtype(array.dtype, jnp.integer) and array.dtype.itemsize > 1
    )


def _constant(given: Any, own: Any) -> Any:
    """Whole numbers of the module itself instead of traced ones: its code may read them."""
    return own if own is not None and _compat.is_traced(given) else given


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


def _check(module: Any) -> None:
    """Refuses a module for all that stands in the way."""
    problems = list(_problems(module))
    if problems:
        found = "\n".join(f"  {problem}" for problem in problems)
        raise InputError(f"{type(module).__name__} cannot be explained as it is:\n{found}")


def _problems(module: torch.nn.Module) -> Iterator[str]:
    """Why a module can't be explained, and what to do about each reason."""
    import torch  # pyright: ignore[reportMissingImports]

    yield from _training(module)
    compiled = [
        path or "the module itself"
        for path, m in module.named_modules()
        if isinstance(m, torch.jit.ScriptModule)
    ]
    if compiled:
        yield (
            f"compiled by torch.jit: {_listed(compiled[:1])}. What it does cannot be seen from "
            "Python. Build the module from its class and load the weights, "
            "`module.load_state_dict(compiled.state_dict())`; or, where there is no class, export "
            "it with `torch.onnx.export` and give that to `relprop.interop.from_onnx`."
        )
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
    training = {path or "the module itself": m for path, m in module.named_modules() if m.training}
    if any(_differs_in_training(type(m)) for m in training.values()):
        yield (
            f"in training mode, where dropout and batch norm depend on chance and on the batch: "
            f"{_listed(list(training))}. Call `module.eval()` first."
        )


def _differs_in_training(kind: type) -> bool:
    """Whether it makes a difference: of torch's own layers, not where no method asks for it."""
    import torch  # pyright: ignore[reportMissingImports]

    if not kind.__module__.startswith("torch.nn.modules."):
        return True
    own = [c for c in kind.__mro__ if c not in torch.nn.Module.__mro__]
    methods = (m for c in own for m in vars(c).values())
    return any("training" in m.__code__.co_names for m in methods if inspect.isfunction(m))


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
    if not isinstance(leaf, (np.ndarray, np.generic)):
        return leaf
    with jax.ensure_compile_time_eval():  # Its numbers stay known while JAX traces.
        return jnp.asarray(leaf)
