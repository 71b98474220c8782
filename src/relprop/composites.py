"""Composites: which operation gets which rule. Select, then act; the first match wins."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from relprop._bibliography import bibtex
from relprop._core.plan import Step
from relprop._errors import RuleError, unknown_name
from relprop._globs import glob
from relprop._table import Table
from relprop.rules import Rule, Zero
from relprop.structures import ALL_DEFAULTS, DEFAULTS, canonizers, structures

#: What is merged into the layers beside it before rules are given, unless a composite declines.
CANONIZERS = ("batch_norm",)
#: Linear layers with weights: what a bare rule applies to.
LAYERS = ("dense", "convolution")
#: Short names for several structures.
GROUPS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {"layer": LAYERS, "pooling": ("average", "maximum")}
)


@dataclasses.dataclass(frozen=True)
class Where:
    """A selection of operations; what is not named is not looked at.

    Args:
        structure: what it was recognised as, one name or several: see `relprop.DEFAULTS`. The
            names ``"norm"`` and ``"batch_norm"`` make one operation of each whole normalisation,
            ``"neuron"`` one of each layer with weights and the activation after it; ``"layer"`` is
            short for dense layers and convolutions, ``"pooling"`` for averages and maxima.
        primitive: name of the primitive, or a glob; of several equations any may have it.
        path: glob on the path of its weight in the parameters, as ``params/layer_*/kernel``.
        scope: glob on the named scopes around it.
        region: glob on the name that it was marked with by `relprop.region`.
        position: of all operations that match the rest, the one at this position in order of
            evaluation; negative positions count from the end. A pair is a range as in a slice:
            ``(1, None)`` is all but the first.
        first: only those of them that none of the others comes before, which are the layers that
            read the input; there are several where a network begins with several in parallel.
        shape: shape of the result. None stands for any size, ``...`` for any number of axes, as in
            ``(..., 10)``.
        predicate: any function of the operation, as listed by `relprop.inspect`.
    """

    structure: str | tuple[str, ...] | None = None
    primitive: str | None = None
    path: str | None = None
    scope: str | None = None
    region: str | None = None
    position: int | tuple[int | None, int | None] | None = None
    first: Literal[True] | None = None
    shape: tuple[Any, ...] | None = None
    predicate: Callable[[Step], bool] | None = None

    def __post_init__(self):
        for name in self._names:
            if name not in (*structures(), *GROUPS):
                raise unknown_name("structure", name, (*structures(), *GROUPS))
        if not isinstance(self.position, int | None):
            if len(self.position) != 2 or not all(isinstance(n, int | None) for n in self.position):
                raise ValueError(
                    f"position must be a number or a pair (from, to), got {self.position!r}."
                )
        if self.first not in (True, None):
            raise ValueError(f"first must be True, or be left out, got {self.first!r}.")
        if self.shape is not None and self.shape.count(...) > 1:
            raise ValueError(f"shape may have one `...`, got {self.shape!r}.")

    @property
    def _names(self) -> tuple[str, ...]:
        """The structures as they were named."""
        if self.structure is None:
            return ()
        return (self.structure,) if isinstance(self.structure, str) else tuple(self.structure)

    @property
    def structures(self) -> tuple[str, ...]:
        """All structures that are named, those of groups among them."""
        return tuple(s for name in self._names for s in GROUPS.get(name, (name,)))

    def matches(self, step: Step) -> bool:
        """Whether an operation is among those selected, whatever its position."""
        named = self.structures or self.primitive or self.region
        if _encloses(step.structure) and not named:
            return False  # What is inside has rules of its own, unless it is asked for by name.
        return (
            (not self.structures or step.structure in self.structures)
            and any(glob(e.name, self.primitive) for e in step.operation.equations)
            and glob(step.path, self.path)
            and glob(step.scope, self.scope)
            and (self.region is None or bool(step.region and glob(step.region, self.region)))
            and (self.shape is None or _fits(step.operation.outputs[0].shape, self.shape))
            and (self.predicate is None or bool(self.predicate(step)))
        )

    @property
    def is_ordinal(self) -> bool:
        """Whether it depends on all operations which of them are selected."""
        return self.position is not None or self.first is True

    def pick(self, matching: Sequence[Any]) -> list[Any]:
        """Of all that match, in order of evaluation, those at the position."""
        if self.position is None:
            return list(matching)
        if isinstance(self.position, tuple):
            return list(matching[slice(*self.position)])
        inside = -len(matching) <= self.position < len(matching)
        return [matching[self.position]] if inside else []

    @property
    def label(self) -> str:
        """As in the table of a composite: structures are named without saying that they are."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del named["structure"]
        parts = [f"{name}={_shown(value)}" for name, value in named.items() if value is not None]
        return ", ".join([*self._names, *parts]) or "everything"

    def __str__(self) -> str:
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = [f"{name}={_shown(value)}" for name, value in named.items() if value is not None]
        return ", ".join(parts) or "everything"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a composite: what is selected, and its rule."""

    where: Where
    rule: Rule
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Composite(Table):
    """A frozen list of selections with their rules; the first that matches an operation wins.

    What no selection matches gets the rule in `relprop.DEFAULTS` for its structure.

    Args:
        entries: the lines; `at` adds one.
        name: what it is called, for printing.
        seed: ``"score"``: the relevance of the score is its value; ``"one"``: it is 1, as for a
            gradient. Only `relprop.relevance` and `relprop.value_and_relevance` ask for it.
        references: the papers it is from, by their keys in ``references.bib``.
        canonizers: what is merged into the layers beside it before rules are given. There is one:
            ``"batch_norm"``, a constant scale and shift per channel after or before a dense layer
            or a convolution, which becomes one layer with them. The value of the function is not
            touched by it.

    >>> from relprop.rules import Epsilon, Gamma
    >>> composite = Composite(name="mine").at(structure="convolution").use(Gamma(0.25))
    >>> print(composite.at(structure="dense").use(Epsilon(1e-6)))
    mine
    operations                                    rule
    --------------------------------------------  -----------------------------------------------
    convolution                                   Gamma(gamma=0.25, epsilon=1e-06, bias='absorb')
    dense                                         Epsilon(epsilon=1e-06, bias='absorb')
    linear, sum, average, scale, offset, softmax  Zero(bias='absorb')
    activation                                    Pass()
    maximum, structural                           Route()
    logsumexp                                     Gradient()
    product, gate, homogeneous, quotient          Uniform()
    normaliser                                    Constant()
    calls, branches, loops                        by the rules inside
    batch norms                                   merged into layers
    """

    entries: tuple[Entry, ...] = ()
    name: str = ""
    seed: str = "score"
    references: tuple[str, ...] = ()
    canonizers: tuple[str, ...] = CANONIZERS

    def __post_init__(self):
        if self.seed not in ("score", "one"):
            raise ValueError(f"seed must be 'score' or 'one', got {self.seed!r}.")
        for name in self.canonizers:
            if name not in canonizers():
                raise unknown_name("canonizer", name, canonizers())

    def at(self, *, optional: bool = False, **where: Any) -> Selection:
        """Selects operations; follow with `use`. Keywords are those of `Where`.

        Args:
            **where: what is selected.
            optional: whether it is fine that a function has no such operation. Otherwise that is
                a `NothingMatchedError`.
        """
        return Selection(self, Where(**where), optional)

    @property
    def structures(self) -> frozenset[str]:
        """All structures that selections name."""
        return frozenset(name for entry in self.entries for name in entry.where.structures)

    @property
    def is_gradient(self) -> bool:
        """Whether one rule that is no rule of relevance applies to everything, as `jax.grad`."""
        return any(e.where == Where() and e.rule.everywhere for e in self.entries)

    @property
    def is_derivative(self) -> bool:
        """Whether relevance is the derivative of the score, of which parts may be left out."""
        rules = [entry.rule for entry in self.entries]
        return self.is_gradient and all(rule.everywhere or rule.detaches for rule in rules)

    def canonized(self, *names: str) -> Composite:
        """The composite with these canonizers and no others; without names, with none.

        >>> Composite().canonized().canonizers
        ()
        """
        return dataclasses.replace(self, canonizers=names)

    def then(self, other: Composite) -> Composite:
        """This composite's selections before those of another one, whose name and seed it takes.

        So is a preset refined for some layers: the first match wins.

        >>> import relprop
        >>> head = Composite().at(path="*head*").use(relprop.rules.Epsilon(0.1))
        >>> head.then(relprop.presets.attn_lrp()).name
        'attn_lrp'
        """
        papers = tuple(dict.fromkeys((*self.references, *other.references)))
        return dataclasses.replace(
            other, entries=(*self.entries, *other.entries), references=papers
        )

    def find(self, step: Step, chosen: Sequence[set[Any] | None]) -> tuple[int | None, Rule | None]:
        """The first entry that matches, and its rule; None and the default if none does."""
        for number, entry in enumerate(self.entries):
            if not entry.where.matches(step):
                continue
            if entry.where.is_ordinal and step.key not in (chosen[number] or ()):
                continue
            return number, entry.rule
        return None, ALL_DEFAULTS.get(step.structure or "")

    def bibtex(self) -> str:
        """The papers that it is from, to be cited.

        >>> import relprop
        >>> print(relprop.presets.attn_lrp().bibtex().splitlines()[0])
        @inproceedings{achtibat2024,
        """
        return bibtex(self.references)

    def title(self) -> str:
        return self.name

    def columns(self) -> tuple[str, ...]:
        return ("operations", "rule")

    def cells(self) -> list[list[str]]:
        rows = [[entry.where.label, str(entry.rule)] for entry in self.entries]
        rows += [[", ".join(names), rule] for rule, names in self._defaults().items()]
        return rows + [
            [canonizers()[name].documentation or name, "merged into layers"]
            for name in self.canonizers
        ]

    def _defaults(self) -> dict[str, list[str]]:
        """Rules by default, with the structures that no entry covers altogether."""
        wholly = [e.where for e in self.entries if e.where == Where(structure=e.where.structure)]
        if Where() in wholly:
            return {}
        covered = {name for where in wholly for name in where.structures}
        found: dict[str, list[str]] = {}
        for name, rule in DEFAULTS.items():
            if name not in covered and rule is not None:
                found.setdefault(str(rule), []).append(name)
        return found | {"by the rules inside": ["calls, branches, loops"]}


@dataclasses.dataclass(frozen=True)
class Selection:
    """A selection that waits for its rule."""

    composite: Composite
    where: Where
    optional: bool

    def use(self, rule: Rule) -> Composite:
        """The composite with one more line."""
        if not isinstance(rule, Rule):
            raise RuleError(f"A selection needs a rule, got {rule!r}.")
        entry = Entry(self.where, rule, self.optional)
        return dataclasses.replace(self.composite, entries=(*self.composite.entries, entry))


def composite_of(rules: Any) -> Composite:
    """A composite as it is; a bare rule on every linear layer with weights.

    Where a rule ignores biases, offsets that belong to no layer are ignored as well.
    """
    if isinstance(rules, Composite):
        return rules
    if not isinstance(rules, Rule):
        raise RuleError(
            f"`rules` must be a rule, a composite or the value of a preset, got {rules!r}. "
            "Names are for `relprop.presets.by_name`; a rule has to be made first: `Epsilon()`, "
            "not `Epsilon`."
        )
    if rules.everywhere:
        everything = Composite(name=type(rules).__name__, seed="one", canonizers=())
        everything = everything.at(structure="custom_derivative", optional=True).use(rules)
        return everything.at(optional=True).use(rules)
    composite = Composite(name=type(rules).__name__)
    composite = composite.at(structure=LAYERS, optional=True).use(rules)
    if getattr(rules, "bias", None) == "ignore":
        composite = composite.at(structure="offset", optional=True).use(Zero(bias="ignore"))
    return composite


def _encloses(name: str | None) -> bool:
    """Whether a structure has bodies, with rules of their own."""
    entry = structures().get(name or "")
    return entry is not None and entry.encloses


def _fits(shape: tuple[int, ...], pattern: tuple[Any, ...]) -> bool:
    if ... in pattern:
        at = pattern.index(...)
        rest = len(shape) - (len(pattern) - 1)
        pattern = (*pattern[:at], *(None,) * rest, *pattern[at + 1 :])
    return len(shape) == len(pattern) and all(
        want is None or size == want for size, want in zip(shape, pattern, strict=True)
    )


def _shown(value: Any) -> str:
    """A function by its name, anything else as it prints."""
    return getattr(value, "__name__", None) or repr(value).replace("Ellipsis", "...")
