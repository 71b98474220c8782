"""Which tokens a transformer looked at: relevance and gradient of attention maps, aggregated.

Attention maps are found by structure (`relprop.places.AttentionMaps`), in any function: no class of
ours is around the model. All methods of one comparison have one interface here.
"""

from __future__ import annotations

from relprop.attribution.explain import Attribution as Attribution
from relprop.attribution.explain import transformer_attribution as transformer_attribution
from relprop.attribution.heads import head_relevance as head_relevance
from relprop.attribution.methods import methods as methods
from relprop.attribution.methods import methods_by_rules as methods_by_rules

__all__ = [
    "Attribution",
    "head_relevance",
    "methods",
    "methods_by_rules",
    "transformer_attribution",
]
