"""Spellings of which the relevance still differs and should not: what is left to be mended.

Neither another network nor unknown: `inherent` says what must differ, this says what does. A line
goes as soon as the two are equal: `test_sample` fails where one is not needed.
"""

from __future__ import annotations

#: Per piece and spelling, the explainers under which it differs.
UNSETTLED: dict[tuple[str, str], frozenset[str]] = {
    ("causal_attention", "with a cache"): frozenset(("chefer",)),
    ("integer_weights", "einsum"): frozenset(("chefer",)),
    # Before two readers.
    ("weighted_mean", "(a @ w)/sum"): frozenset(("gamma", "gamma_vit")),
    ("state_space", "associative_scan"): frozenset(
        ("gamma", "alpha_beta", "epsilon_plus", "epsilon_gamma_box", "gamma_vit")
    ),
}


def is_unsettled(piece: str, spelling: str, explainer: str) -> bool:
    """Whether a pair is known to differ under an explainer."""
    return explainer in UNSETTLED.get((piece, spelling), ())
