"""Parts of a transformer as places: heads, what layers add to the residual stream, the stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from relprop._core.graph import Value
from relprop._core.plan import Plan
from relprop._errors import InputError
from relprop.anatomy import anatomy_of
from relprop.anatomy.attention import all_attention
from relprop.anatomy.blocks import Attention
from relprop.anatomy.residual import all_residuals
from relprop.places.kinds import Place, starting

HEADS = ("query", "key", "value", "pattern", "output")


@dataclasses.dataclass(frozen=True)
class Heads(Place):
    """A part of every attention, with an axis for its heads: ``attention 000 query``, ...

    Queries, keys and values are what the products read: keys perhaps transposed, keys and values
    perhaps one per group of heads. The pattern is the attention map, the output what it makes of
    the values, before heads are joined. The axes are in the order in which the function has them,
    such as (head, token, channel).

    Args:
        part: ``"query"``, ``"key"``, ``"value"``, ``"pattern"`` or ``"output"``.

    Raises:
        InputError: there is no such part.
    """

    part: str

    def __post_init__(self):
        if self.part not in HEADS:
            raise InputError(f"A part of attention is one of {HEADS}, got {self.part!r}.")

    def values(self, plan):
        anatomy = anatomy_of(plan.graph, starting(plan))
        for count, block in enumerate(all_attention(anatomy)):
            value = self._of(block)
            if value is not None:
                yield f"attention {count:03d} {self.part}", value

    def _of(self, block: Attention) -> Value | None:
        if self.part in ("query", "key"):
            return block.compared[HEADS.index(self.part)] if block.compared else None
        return {"value": block.carried, "pattern": block.value, "output": block.mixed}[self.part]


@dataclasses.dataclass(frozen=True)
class Branches(Place):
    """What layers add to the residual stream: ``attention 000``, ``mlp 000``, ...

    Args:
        kind: ``"attention"``, ``"mlp"``, that is all that is no attention, or None for both.

    Raises:
        InputError: there is no such kind.
    """

    kind: str | None = None

    def __post_init__(self):
        if self.kind not in ("attention", "mlp", None):
            raise InputError(f"A branch is 'attention' or 'mlp', got {self.kind!r}.")

    def values(self, plan):
        counts = {"attention": 0, "mlp": 0}
        for block in all_residuals(anatomy_of(plan.graph, starting(plan))):
            kind = "mlp" if block.attention is None else "attention"
            if block.branch is not None and self.kind in (kind, None):
                yield f"{kind} {counts[kind]:03d}", block.branch
            counts[kind] += 1


@dataclasses.dataclass(frozen=True)
class Stream(Place):
    """The residual stream: each sum of it and what layers add, ``residual 000``, ..."""

    def values(self, plan: Plan) -> Iterator[tuple[str, Value]]:
        for count, block in enumerate(all_residuals(anatomy_of(plan.graph, starting(plan)))):
            yield f"residual {count:03d}", block.value
