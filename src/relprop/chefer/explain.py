"""One run of a model: logits, and relevance and gradient of its attention maps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from relprop._core.record import Inside
from relprop._transform import vrp
from relprop.chefer.layers import Variant
from relprop.chefer.preset import chefer
from relprop.composites import Composite, composite_of
from relprop.rules import Gradient

Batch = Literal["per_sample", "reference"]
# Regions as a whole, as in the preset: then XLA sees that both pull-backs have the same forward
# pass, and computes one.
_GRADIENT = (
    Composite().at(structure="region", optional=True).use(Gradient()).then(composite_of(Gradient()))
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ModelRun:
    """What one pass through a model and back gave.

    Attributes:
        logits: the model's output.
        attention: the attention maps, layer by layer.
        attention_relevance: their relevance.
        attention_gradient: their gradient.
        relevance: of what is explained: images and positions, or embeddings and mask.
        inside: the places that were asked for beside.
    """

    logits: Float[Array, "n classes"]
    attention: list[Float[Array, "n heads t t"]]
    attention_relevance: list[Float[Array, "n heads t t"]]
    attention_gradient: list[Float[Array, "n heads t t"]]
    relevance: tuple[Float[Array, "..."], ...]
    inside: dict[str, Inside]


def explain(
    model: Any,
    inputs: Sequence[Array],
    index: Int[Array, "..."] | None,
    variant: Variant,
    alpha: float,
    batch: Batch,
    places: Sequence[Any] = (),
) -> ModelRun:
    """Relevance and gradient of the attention maps, starting with 1 at a class.

    Two pull-backs of one function: one by the rules of the preset, and one by the gradient rule.

    Args:
        model: one of the models here.
        inputs: its arguments.
        index: the explained class: of each sample, or of all; None explains the likeliest.
        variant: which of the two sets of rules.
        alpha: weight of what speaks for an output.
        batch: ``"per_sample"``, or ``"reference"``: as the reference does it, with sums over the
            whole batch and the classes of all samples in each of them.
        places: where else relevance is wanted.

    Returns:
        Logits, attention maps with their relevance and gradients, and what was asked for.
    """
    run = functools.partial(_run, model, variant=variant, alpha=alpha, places=places)
    return over_samples(run, inputs, index, batch)


def over_samples(
    run: Callable[..., Any], inputs: Sequence[Array], index: Array | None, batch: Batch
) -> Any:
    """A function of a batch and classes, for each sample by itself or for all of them at once."""
    if batch == "reference":
        return run(inputs, index)
    count = inputs[0].shape[0]
    index = None if index is None else jnp.broadcast_to(index, (count,))

    def single(sample: Sequence[Array], index: Array | None) -> Any:
        out = run([x[None] for x in sample], index)
        return jax.tree.map(lambda a: a[0], out)

    return jax.vmap(single)(list(inputs), index)


def gradients(
    model: Any, inputs: Sequence[Array], index: Array | None
) -> tuple[list[Array], list[Array]]:
    """The attention maps and their gradients."""
    if not model.maps:
        return [], []
    primals = model.primals(*inputs)
    logits, pull, maps = _pull_back(model, primals, _GRADIENT, model.maps)
    _, slopes = pull(one_hot(logits, index))
    return maps, [slopes[name].relevance for name in model.maps]


def one_hot(logits: Float[Array, "n c"], index: Array | None) -> Float[Array, "n c"]:
    """1 at a class, the same for all samples; of several classes at each of them."""
    index = jnp.argmax(logits, axis=-1) if index is None else index
    row = jnp.zeros(logits.shape[-1:], logits.dtype).at[index].set(1)
    return jnp.broadcast_to(row[None], logits.shape)


def _run(model, inputs, index, variant, alpha, places) -> ModelRun:
    primals = model.primals(*inputs)
    rules = chefer(variant, alpha)
    logits, back, maps = _pull_back(model, primals, rules, [*model.maps, *places])
    # Without places there are none beside the relevance.
    found = back(one_hot(logits, index))
    relevance, inside = found if model.maps or places else (found, {})
    _, slopes = gradients(model, inputs, index)
    return ModelRun(
        logits=logits,
        attention=maps,
        attention_relevance=[inside.pop(name).relevance for name in model.maps],
        attention_gradient=slopes,
        relevance=relevance[: len(primals)],
        inside=inside,
    )


def _pull_back(model: Any, primals: Sequence[Array], rules: Any, places: Sequence[Any]) -> Any:
    explained = tuple(range(len(primals)))
    return vrp(
        type(model).forward,
        *primals,
        model,
        rules=rules,
        argnums=explained,
        has_aux=True,
        places=places,
    )
