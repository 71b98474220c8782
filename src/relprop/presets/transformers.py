"""Presets for transformers."""

from __future__ import annotations

from relprop.composites import LAYERS, Composite
from relprop.rules import Constant, Gamma, Rule, SignalTakesAll, Uniform, Zero
from relprop.rules.parameters import Number


def attn_lrp(rule: Rule = Zero()) -> Composite:  # noqa: B008 - rules are frozen values
    """AttnLRP: products are shared in halves, softmax is differentiated, norms are linear.

    Those are the defaults of relprop; what is left to choose is the rule of the linear layers.

    Args:
        rule: rule of all linear layers; `Zero` is that of the efficient form of the authors.

    >>> print(attn_lrp())
    attn_lrp
    operations                                    rule
    --------------------------------------------  -------------------
    dense, convolution                            Zero(bias='absorb')
    linear, sum, average, scale, offset, softmax  Zero(bias='absorb')
    activation                                    Pass()
    maximum, structural                           Route()
    logsumexp                                     Gradient()
    product, gate, homogeneous, quotient          Uniform()
    normaliser                                    Constant()
    calls, branches, loops                        by the rules inside

    Source: Achtibat et al. 2024, AttnLRP, section 3.
    """
    composite = Composite(name="attn_lrp", references=("achtibat2024",), canonizers=())
    return composite.at(structure=LAYERS, optional=True).use(rule)


def cp_lrp(rule: Rule = Zero()) -> Composite:  # noqa: B008 - rules are frozen values
    """Conservative propagation: attention maps and gates are constants, norms are linear.

    Relevance goes through the values and the signals only, and is conserved but for biases.

    Args:
        rule: rule of all linear layers.

    >>> import jax, jax.numpy as jnp, relprop
    >>> f = lambda scores, values: jax.nn.softmax(scores) @ values
    >>> explain = relprop.relevance(f, cp_lrp(), argnums=(0, 1))
    >>> [r.tolist() for r in explain(jnp.zeros(2), jnp.array([2.0, 4.0]))]
    [[0.0, 0.0], [1.0, 2.0]]

    Source: Ali et al. 2022, eq. 7 and 8; gates as in Arras et al. 2017.
    """
    composite = Composite(name="cp_lrp", references=("ali2022", "arras2017"), canonizers=())
    composite = composite.at(structure="softmax", optional=True).use(Constant())
    composite = composite.at(structure="gate", optional=True).use(SignalTakesAll())
    return composite.at(structure=LAYERS, optional=True).use(rule)


def relp(rule: Rule = Zero()) -> Composite:  # noqa: B008 - rules are frozen values
    """The rules of relevance patching: attention maps are constants, gates are shared in halves.

    ===============  ==================================================================
    rule of RelP     here
    ===============  ==================================================================
    LN-rule          `Constant` on the statistic of a normalisation (a default)
    identity-rule    `Pass` on activations (a default)
    AH-rule          `Constant` on softmax: relevance goes through the values alone
    half-rule        `Uniform` on gates and other products (a default)
    0-rule           `Zero` on linear layers
    ===============  ==================================================================

    As for `cp_lrp`, but for the gates. The coefficients that relevance patching multiplies with a
    difference of activations are `relprop.places.Inside.coefficient` (``places=...``).

    Args:
        rule: rule of all linear layers.

    >>> import jax, relprop
    >>> f = lambda gate, signal: jax.nn.sigmoid(gate) * signal
    >>> explain = relprop.relevance(f, relp(), argnums=(0, 1))
    >>> [float(r) for r in explain(0.0, 4.0)]
    [1.0, 1.0]

    Source: Jafari et al. 2025, RelP, section 3.
    """
    composite = Composite(
        name="relp", references=("jafari2025", "ali2022", "jafari2024"), canonizers=()
    )
    composite = composite.at(structure="softmax", optional=True).use(Constant())
    composite = composite.at(structure="gate", optional=True).use(Uniform())
    return composite.at(structure=LAYERS, optional=True).use(rule)


def pa_lrp(rule: Rule = Zero()) -> Composite:  # noqa: B008 - rules are frozen values
    """Position-aware LRP: AttnLRP that hands positions their share, named as places.

    The rules are those of AttnLRP. What makes the difference is that position embeddings take
    relevance as well: `relprop.places.positions` names them. An added position embedding gets its
    proportion of the sum, a rotary phase half of the product that it is a factor of.

    Args:
        rule: rule of all linear layers.

    >>> import jax.numpy as jnp, relprop
    >>> table = jnp.array([[1.0, 2.0], [3.0, 1.0]])
    >>> f = lambda x, params: jnp.sum((x + params["wpe"]) * 2)
    >>> explain = relprop.relevance(f, pa_lrp(), places=relprop.places.positions("*wpe"))
    >>> R, inside = explain(jnp.ones((2, 2)), {"wpe": table})
    >>> inside["params/wpe"].relevance.tolist()
    [[2.0, 4.0], [6.0, 2.0]]

    Source: Bakish et al. 2025, section 4.
    """
    composite = Composite(name="pa_lrp", references=("bakish2025", "achtibat2024"), canonizers=())
    return composite.at(structure=LAYERS, optional=True).use(rule)


def gamma_vit(
    convolution: Number = 0.25, dense: Number = 0.05, attention: str = "attn_lrp"
) -> Composite:
    """The gamma rule on all layers of a vision transformer, against its noisy gradients.

    Args:
        convolution: gamma of convolutions, such as the patch embedding.
        dense: gamma of dense layers.
        attention: ``"attn_lrp"``, attention maps are differentiated; ``"cp_lrp"``, they are
            constants.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([3.0, -2.0])
    >>> relprop.relevance(f, gamma_vit(dense=1.0))(jnp.ones(2)).round(4).tolist()
    [1.5, -0.5]

    Source: Achtibat et al. 2024, AttnLRP, section 4 and appendix (vision transformers).
    """
    if attention not in ("attn_lrp", "cp_lrp"):
        raise ValueError(f"attention must be 'attn_lrp' or 'cp_lrp', got {attention!r}.")
    composite = Composite(
        name="gamma_vit", references=("achtibat2024", "montavon2019"), canonizers=()
    )
    if attention == "cp_lrp":
        composite = composite.at(structure="softmax", optional=True).use(Constant())
        composite = composite.at(structure="gate", optional=True).use(SignalTakesAll())
    composite = composite.at(structure="convolution", optional=True).use(Gamma(convolution))
    return composite.at(structure="dense", optional=True).use(Gamma(dense))
