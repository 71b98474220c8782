"""What a model is made of, as its author would name it."""

from __future__ import annotations

import dataclasses

from relprop._core.graph import Value
from relprop._core.plan import Step


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a model that consists of several operations.

    Attributes:
        kind: what it is.
        scope: named scopes around it.
        source: the line of the user's code that completes it.
        value: its result, for those who look on.
    """

    kind: str
    scope: str
    source: str
    value: Value = dataclasses.field(repr=False, compare=False)

    @property
    def details(self) -> str:
        """What else is known, in words."""
        return ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.details})" if self.details else self.kind


@dataclasses.dataclass(frozen=True)
class Attention(Block):
    """Values mixed by a map that is computed from queries and keys.

    Attributes:
        shape: of the attention map, queries before keys.
        heads: how many maps there are per sample; 0 where it can't be told.
        key_heads: how many different sets of keys; fewer than heads in grouped-query attention.
        query: path of the weights that make the queries; empty if unknown.
        key: of the keys.
        values: of the values.
        mask: ``"added"``, ``"selected"`` or empty; an added position bias looks like a mask.
        normaliser: ``"softmax"`` or what takes its place.
        compared: queries and keys, as the product of the two takes them; empty if unknown.
        carried: the values, as the product with the map takes them, if they depend on the input.
        applied: the map, as the product with the values takes it.
        mixed: that product.
    """

    shape: tuple[int, ...] = ()
    heads: int = 0
    key_heads: int = 0
    query: str = ""
    key: str = ""
    values: str = ""
    mask: str = ""
    normaliser: str = "softmax"
    compared: tuple[Value, ...] = dataclasses.field(default=(), repr=False, compare=False)
    carried: Value | None = dataclasses.field(default=None, repr=False, compare=False)
    applied: Value | None = dataclasses.field(default=None, repr=False, compare=False)
    mixed: Value | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def details(self):
        heads = f"{self.heads} heads" if self.heads else "heads unknown"
        if self.key_heads not in (0, self.heads):
            heads += f", {self.key_heads} of keys"
        mask = f"mask {self.mask}" if self.mask else "no mask"
        shape = "x".join(map(str, self.shape))
        return f"{self.normaliser} {shape}, {heads}, {mask}"


@dataclasses.dataclass(frozen=True)
class Residual(Block):
    """A sum of a value and something that layers have computed from it.

    Attributes:
        stream: what goes around the layers.
        branch: what the layers add to it.
        attention: the first one among the layers, if there is any.
    """

    stream: Value | None = dataclasses.field(default=None, repr=False, compare=False)
    branch: Value | None = dataclasses.field(default=None, repr=False, compare=False)
    attention: Attention | None = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Norm(Block):
    """A normalisation; `path` is that of its scale, where it has one that is known."""

    path: str = ""

    @property
    def details(self):
        return self.path


@dataclasses.dataclass(frozen=True)
class Activation(Block):
    """A function of each entry; `function` is its name, as far as its values tell."""

    function: str = ""

    @property
    def details(self):
        return self.function


@dataclasses.dataclass(frozen=True)
class Gate(Block):
    """A signal times an activation; `function` is the name of that."""

    function: str = ""

    @property
    def details(self):
        return self.function


@dataclasses.dataclass(frozen=True)
class Router(Block):
    """Scores of experts, of which some are chosen."""

    experts: int = 0

    @property
    def details(self):
        return f"{self.experts} experts"


@dataclasses.dataclass(frozen=True)
class Memory(Block):
    """Slots that every token chooses from by a softmax: their keys and values are learned.

    Tokens do not look at each other here. A soft codebook is one, and so is external attention.
    """

    slots: int = 0

    @property
    def details(self):
        return f"{self.slots} slots"


@dataclasses.dataclass(frozen=True)
class Recurrence(Block):
    """A state that is carried from step to step."""

    steps: int = 0

    @property
    def details(self):
        return f"{self.steps} steps" if self.steps else ""


@dataclasses.dataclass(frozen=True)
class Stack(Block):
    """A loop over layers: what it reads in each step are weights."""

    steps: int = 0

    @property
    def details(self):
        return f"{self.steps} steps"


@dataclasses.dataclass(frozen=True)
class Suspicion(Block):
    """What looks like something known and was not recognised as it."""

    reason: str = ""

    @property
    def details(self):
        return self.reason


def place(step: Step) -> dict[str, object]:
    """The arguments that all blocks share, from the step that completes one."""
    return {"scope": step.scope, "source": step.source, "value": step.operation.outputs[0]}
