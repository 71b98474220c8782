"""DeepLIFT: contributions to the difference from a reference, by rules of the transform."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, PyTree

from relprop._arguments import argument_numbers
from relprop._core.compared import amount_of, paired, value_of
from relprop._core.forward import forward
from relprop._errors import InputError
from relprop._run import Run, closed
from relprop.baselines._problem import reference_of, total
from relprop.composites import Composite
from relprop.places.kinds import places_of
from relprop.rules import MeanGradient, Rescale, RescaleMaximum, RescaleSoftmax, RevealCancel


def rescale() -> Composite:
    """DeepLIFT with the Rescale rule, as in Captum.

    Layers, sums and averages are linear; what is a function of each entry is rescaled; products
    and quotients, for which DeepLIFT names no rule, have their mean gradient, and so has what has
    no rule in `relprop.DEFAULTS`. All of this is complete but for the softmax, normalised as in
    Captum; ``Composite().at(structure="softmax").use(MeanGradient()).then(rescale())`` is complete.

    Source: Shrikumar et al. 2017, sections 3.5.1 and 3.5.2.
    """
    composite = Composite(name="deeplift_rescale", references=("shrikumar2017",))
    composite = composite.at(structure=("activation", "normaliser"), optional=True).use(Rescale())
    composite = composite.at(structure="maximum", optional=True).use(RescaleMaximum())
    composite = composite.at(structure="softmax", optional=True).use(RescaleSoftmax())
    others = ("product", "gate", "quotient", "logsumexp")
    return composite.at(structure=others, optional=True).use(MeanGradient())


def reveal_cancel() -> Composite:
    """DeepLIFT with the RevealCancel rule where a layer with weights comes before an activation.

    Elsewhere it is `rescale`.

    Source: Shrikumar et al. 2017, section 3.5.3.
    """
    first = Composite(name="deeplift_reveal_cancel", references=("shrikumar2017",))
    first = first.at(structure="neuron", optional=True).use(RevealCancel())
    return dataclasses.replace(first.then(rescale()), name=first.name)


def deeplift(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    baseline: PyTree[Float[ArrayLike, "..."]] | None = None,
    rules: Composite | None = None,
    at: Any = (),
    multiply_by_inputs: bool = True,
    return_delta: bool = False,
) -> Callable[..., Any]:
    r"""Contributions to the difference of the score from that of a baseline, from one pass.

    .. math:: C_i = (x_i - x'_i)\, m_i, \qquad \sum_i C_i = f(x) - f(x')

    with multipliers m that go from the score to the inputs by rules. The function may consist of
    whatever `relprop.relevance` takes: scans, branches, checkpoints, any framework's layers. Where
    input and baseline take different branches, that of the input is explained.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        baseline: as for `integrated_gradients`.
        rules: which operation gets which rule: `rescale`, the default, or `reveal_cancel`.
        at: places inside, as for `relprop.relevance`. Then the result is a dict of
            `relprop.places.Inside`, whose relevance are the contributions of these values.
        multiply_by_inputs: whether to multiply by :math:`x - x'`; without, the multipliers. Places
            always have contributions.
        return_delta: whether the result is a pair of the attribution and of what it lacks to be
            complete, :math:`\sum_i C_i - (f(x) - f(x'))`; not for places.

    Returns:
        As `gradient`, in the units of the score.

    Raises:
        InputError, RuleError, MissingRuleError, NothingMatchedError: as `relprop.relevance`, or the
            baseline does not fit, or something is wanted of places that they do not have.

    >>> import jax, jax.numpy as jnp
    >>> f = lambda x: jax.nn.relu(x[0] + x[1] - 2)
    >>> deeplift(f)(jnp.array([3.0, 1.0])).tolist()  # f(x) - f(0) is 2
    [1.5, 0.5]

    Source: Shrikumar et al. 2017, section 3.
    """
    rules = rescale() if rules is None else rules
    wanted = places_of(at)
    if wanted and (return_delta or not multiply_by_inputs):
        raise InputError(
            "Places have contributions, which need not add up to the difference of the scores: "
            "`return_delta` and `multiply_by_inputs=False` are of arguments, without `at`."
        )

    @functools.wraps(f)
    def deeplift_of(*args: Any, **kwargs: Any) -> Any:
        run = Run.start(
            closed(f, kwargs), args, argnums, rules, MeanGradient(), has_aux, places=wanted
        )
        outputs, tape = forward(run.plan, _compared(run, args, argnums, baseline))
        leaving, record = run.backward(tape, run.seed(value_of(outputs[0])))
        found = run.unflatten(run.totals(leaving, tape, multiply_by_inputs), argnums)
        result = record.places if wanted else found
        if return_delta:
            change = amount_of(outputs[0])
            result = (result, total(found) - change)
        if not has_aux:
            return result
        value = run.trace.returned([*map(value_of, outputs)])
        return result, value[1]

    return deeplift_of


def _compared(
    run: Run, args: Sequence[Any], argnums: int | Sequence[int], baseline: Any
) -> list[Any]:
    """The inputs of the function, the explained ones with their references."""
    numbers = argument_numbers(argnums, len(args))
    several = isinstance(argnums, Sequence)
    explained = tuple(args[n] for n in numbers) if several else args[numbers[0]]
    others = jax.tree.leaves(reference_of(baseline, jax.tree.map(jnp.asarray, explained)))
    arrays = list(run.trace.arrays)
    positions = [i for group in run.trace.explained for i in group]
    for i, other in zip(positions, others, strict=True):
        arrays[i] = paired(arrays[i], other)
    return arrays
