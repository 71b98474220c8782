"""Who explains: each contestant prepares a function that gives the relevance of a case's input.

Peers are used by their public functions alone. What is absent raises ImportError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.cases import CLASS, HIGH, LOW, Case
from benchmarks.peers.imports import AttentionFunctions, importable_lxt

TORCH, JAX = "gradient, PyTorch", "gradient, JAX"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An explanation that is ready to run.

    Attributes:
        run: explains and gives what has been computed, as an array.
        flops: as this side counts.
    """

    run: Callable[[], np.ndarray]
    flops: float


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to explain.

    Attributes:
        name: the method and who computes it.
        prepare: of a case and what `option` says.
        kinds: which cases it can explain.
        base: the gradient on the same side.
        twin: the contestant of JAX that computes the same.
        option: the composite, or whatever `prepare` understands.
    """

    name: str
    prepare: Callable[[Case, Any], Prepared]
    kinds: tuple[str, ...]
    base: str
    twin: str | None = None
    option: Any = None


def torch_gradient(case: Case, _) -> Prepared:
    import torch  # pyright: ignore[reportMissingImports]

    module, x = _frozen(case)

    def run():
        (gradient,) = torch.autograd.grad(case.score(module, x).sum(), x)
        return gradient.numpy()

    return _counted(run)


def zennit_composite(case: Case, name: str) -> Prepared:
    """zennit's composites, seeded with the score itself."""
    import torch  # pyright: ignore[reportMissingImports]
    from zennit import attribution, composites  # pyright: ignore[reportMissingImports]

    module, x = _frozen(case)
    if name == "EpsilonGammaBox":
        limits = {"low": torch.full_like(x, LOW), "high": torch.full_like(x, HIGH)}
        composite = composites.EpsilonGammaBox(**limits)
    else:
        composite = getattr(composites, name)()

    def seed(output):
        one = torch.zeros_like(output)
        return one.index_fill_(1, torch.tensor([CLASS]), 1.0) * output.detach()

    def run():
        with attribution.Gradient(module, composite) as attributor:
            return attributor(x, seed)[1].detach().numpy()

    return _counted(run)


def captum_method(case: Case, name: str) -> Prepared:
    from captum import attr  # pyright: ignore[reportMissingImports]

    module, x = _frozen(case)
    if case.kind == "image":
        method, options = getattr(attr, name)(module), {"target": CLASS}
    else:
        method, options = getattr(attr, name)(lambda x: case.score(module, x)), {}
    return _counted(lambda: method.attribute(x, **options).detach().numpy())


def lxt_attn_lrp(case: Case, _) -> Prepared:
    import torch  # pyright: ignore[reportMissingImports]

    module, x = _frozen(case)
    with importable_lxt():
        from lxt.efficient import monkey_patch  # pyright: ignore[reportMissingImports]

    code = sys.modules[type(module).__module__]
    monkey_patch(code)
    code.ALL_ATTENTION_FUNCTIONS = AttentionFunctions(code.ALL_ATTENTION_FUNCTIONS)
    module, x = _frozen(case)

    def run():
        (gradient,) = torch.autograd.grad(case.score(module, x).sum(), x)
        return (gradient * x).detach().numpy()

    return _counted(run)


def jax_gradient(case: Case, _) -> Prepared:
    import jax

    return _compiled(case, jax.value_and_grad)


def relprop_composite(case: Case, name: str) -> Prepared:
    import relprop
    from relprop.rules import Epsilon

    rules = {
        "attn_lrp": relprop.presets.attn_lrp,
        "epsilon": lambda: Epsilon(1e-9),
        "epsilon_gamma_box": lambda: relprop.presets.epsilon_gamma_box(LOW, HIGH),
        "epsilon_plus": relprop.presets.epsilon_plus,
        "gradient_times_input": relprop.presets.gradient_times_input,
    }[name]()
    return _compiled(case, lambda f: relprop.value_and_relevance(f, rules))


BOTH = ("image", "text")
CONTESTANTS = (
    Contestant(TORCH, torch_gradient, BOTH, TORCH, twin=JAX),
    Contestant(JAX, jax_gradient, BOTH, JAX),
    *(
        Contestant(f"{peer}, zennit", zennit_composite, ("image",), TORCH, f"{own}, relprop", peer)
        for peer, own in (
            ("EpsilonPlus", "epsilon_plus"),
            ("EpsilonGammaBox", "epsilon_gamma_box"),
        )
    ),
    Contestant("LRP, Captum", captum_method, ("image",), TORCH, "epsilon, relprop", "LRP"),
    Contestant("AttnLRP, LXT", lxt_attn_lrp, ("text",), TORCH, "attn_lrp, relprop"),
    Contestant(
        "InputXGradient, Captum", captum_method, BOTH, TORCH, "gradient_times_input, relprop",
        "InputXGradient",
    ),
    *(
        Contestant(f"{name}, relprop", relprop_composite, kinds, JAX, None, name)
        for name, kinds in (
            ("epsilon_plus", ("image",)),
            ("epsilon_gamma_box", ("image",)),
            ("epsilon", ("image",)),
            ("attn_lrp", ("text",)),
            ("gradient_times_input", BOTH),
        )
    ),
)  # fmt: skip


def _frozen(case: Case) -> tuple[Any, Any]:
    """Module and input; the parameters want no gradient, as nobody explains them."""
    module, x = case.build()
    return module.requires_grad_(False), x.requires_grad_()


def _counted(run: Callable[[], np.ndarray]) -> Prepared:
    from torch.utils.flop_counter import (  # pyright: ignore[reportMissingImports]
        FlopCounterMode,
    )

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        run()
    return Prepared(run, float(counter.get_total_flops()))


def _compiled(case: Case, explained: Callable[..., Any]) -> Prepared:
    import jax
    import jax.numpy as jnp

    from relprop.interop import from_torch

    module, x = case.build()
    fn, params = from_torch(module)

    def score(x, params):
        if case.kind == "image":
            return fn(params, x)[:, CLASS].sum()
        return fn(params, inputs_embeds=x, use_cache=False)["logits"][:, -1, CLASS].sum()

    x = jnp.asarray(x.numpy())
    with jax.numpy_rank_promotion("allow"):
        compiled = jax.jit(explained(score)).lower(x, params).compile()
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    return Prepared(lambda: np.asarray(compiled(x, params)[1]), float(flops))


class _NoModules(contextlib.nullcontext):
    """In place of hooks on modules, which autograd.grad does not allow for the input itself."""

    parents = frozenset({"Global"})
