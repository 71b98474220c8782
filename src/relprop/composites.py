"""Composites: which operation gets which rule. Select, then act; the first match wins."""

from __future__ import annotations

import dataclasses
import fnmatch
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relprop._bibliography import bibtex
from relprop._core.plan import Step
from relprop._errors import RuleError, unknown_name
from relprop._table import Table
from relprop.rules import (
    Constant,
    Gradient,
    Pass,
    Route,
    Rule,
    Uniform,
    Zero,
)

#: Everything an operation can be recognised as, with the rule that it gets if no other is named.
#: None: relevance passes by the rules of what is inside.
DEFAULTS: Mapping[str, Rule | None] = types.MappingProxyType(
    {
        "dense": Zero(),
        "convolution": Zero(),
        "linear": Zero(),
        "sum": Zero(),
        "average": Zero(),
        "scale": Zero(),
        "offset": Zero(),
        "activation": Pass(),
        "maximum": Route(),
        "soft maximum": Gradient(),
        "structural": Route(),
        "product": Uniform(),
        "gate": Uniform(),
        "quotient": Uniform(),
        "softmax": Zero(),
        "statistic": Constant(),
        "custom_derivative": None,
        "region": None,
        "remat": None,
        "cond": None,
        "scan": None,
        "shard_map": None,
        "while": None,
    }
)
#: Larger structures, taken as one operation only where a composite names them.
WHOLES = ("norm", "neuron")
#: Linear layers with weights: what a bare rule applies to.
LAYERS = ("dense", "convolution")
_WITH_BODIES = ("custom_derivative", "region", "remat", "cond", "scan", "shard_map", "while")


@dataclasses.dataclass(frozen=True)
class Where:
    """A selection of operations; what is not named is not looked at.

    Args:
        structure: what it was recognised as, one name or several: see `relprop.DEFAULTS`. The
            name ``"norm"`` makes one operation of each whole normalisation, ``"neuron"`` one of
            each layer with weights and the activation after it.
        primitive: name of the primitive, or a glob; of several equations any may have it.
        path: glob on the path of its weight in the parameters, as ``params/layer_*/kernel``.
        scope: glob on the named scopes around it.
        region: glob on the name that it was marked with by `relprop.region`.
        position: of all operations that match the rest, the one at this position in order of
            evaluation; negative positions count from the end.
        predicate: any function of the operation, as listed by `relprop.inspect`.
    """

    structure: str | tuple[str, ...] | None = None
    primitive: str | None = None
    path: str | None = None
    scope: str | None = None
    region: str | None = None
    position: int | None = None
    predicate: Callable[[Step], bool] | None = None

    def __post_init__(self):
        for name in self.structures:
            if name not in (*DEFAULTS, *WHOLES):
                raise unknown_name("structure", name, (*DEFAULTS, *WHOLES))

    @property
    def structures(self) -> tuple[str, ...]:
        if self.structure is None:
            return ()
        return (self.structure,) if isinstance(self.structure, str) else tuple(self.structure)

    def matches(self, step: Step) -> bool:
        """Whether an operation is among those selected, whatever its position."""
        named = self.structures or self.primitive or self.region
        if step.structure in _WITH_BODIES and not named:
            return False  # What is inside has rules of its own, unless it is asked for by name.
        return (
            (not self.structures or step.structure in self.structures)
            and any(_glob(e.name, self.primitive) for e in step.operation.equations)
            and _glob(step.path, self.path)
            and _glob(step.scope, self.scope)
            and (self.region is None or bool(step.region and _glob(step.region, self.region)))
            and (self.predicate is None or bool(self.predicate(step)))
        )

    @property
    def label(self) -> str:
        """As in the table of a composite: structures are named without saying that they are."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del named["structure"]
        parts = [f"{name}={value!r}" for name, value in named.items() if value is not None]
        return ", ".join([*self.structures, *parts]) or "everything"

    def __str__(self) -> str:
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = [f"{name}={value!r}" for name, value in named.items() if value is not None]
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
    soft maximum                                  Gradient()
    product, gate, quotient                       Uniform()
    statistic                                     Constant()
    calls, branches, loops                        by the rules inside
    """

    entries: tuple[Entry, ...] = ()
    name: str = ""
    seed: str = "score"
    references: tuple[str, ...] = ()

    def __post_init__(self):
        if self.seed not in ("score", "one"):
            raise ValueError(f"seed must be 'score' or 'one', got {self.seed!r}.")

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
            if entry.where.position is not None and step.key not in (chosen[number] or ()):
                continue
            return number, entry.rule
        return None, DEFAULTS.get(step.structure or "")

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
        return rows + [[", ".join(names), rule] for rule, names in self._defaults().items()]

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
        everything = Composite(name=type(rules).__name__, seed="one")
        everything = everything.at(structure="custom_derivative", optional=True).use(rules)
        return everything.at(optional=True).use(rules)
    composite = Composite(name=type(rules).__name__)
    composite = composite.at(structure=LAYERS, optional=True).use(rules)
    if getattr(rules, "bias", None) == "ignore":
        composite = composite.at(structure="offset", optional=True).use(Zero(bias="ignore"))
    return composite


def _glob(text: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(text, pattern)
