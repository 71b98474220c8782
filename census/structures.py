"""How many of each structure relprop finds in a model."""

from __future__ import annotations

from collections.abc import Mapping

import relprop
from relprop import anatomy

KINDS = {
    "attention": anatomy.Attention,
    "norm": anatomy.Norm,
    "activation": anatomy.Activation,
    "gate": anatomy.Gate,
    "router": anatomy.Router,
    "recurrence": anatomy.Recurrence,
}
#: Norms that do not depend on the input are linear layers in inference; a scan over layers carries
#: a state, but is no recurrence.
OTHERS = ("batch norm", "weight norm", "stacked layers")


def structures(plan: relprop.Inspection) -> Mapping[str, int]:
    """The blocks of a plan, counted."""
    blocks = [block for block in plan.blocks if block.kind not in OTHERS]
    return {name: sum(isinstance(block, kind) for block in blocks) for name, kind in KINDS.items()}
