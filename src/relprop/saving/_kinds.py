"""The kinds of results, by name: which there are, and what each is made of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from relprop import anatomy, concepts, rules
from relprop._core.record import Inside
from relprop._errors import InputError
from relprop._inspect import Inspection, PlannedOperation
from relprop._ledger import Fault, Growth, Ledger, LedgerRow
from relprop.anatomy import Application, Block, Stream, TokenFlow
from relprop.attribution import Attribution
from relprop.composites import Composite, Entry, Where
from relprop.evaluation import Choice, Evaluation, Row
from relprop.evaluation._choose import Finalist
from relprop.pruning import Pruned
from relprop.tokens import TokenRelevance

#: Classes that are made of what their constructor takes.
_VALUES = (
    Application,
    Attribution,
    Composite,
    Entry,
    Fault,
    Finalist,
    Growth,
    Inside,
    LedgerRow,
    PlannedOperation,
    Pruned,
    Row,
    Stream,
    TokenFlow,
    TokenRelevance,
    Where,
    concepts.References,
)
#: Tables, which are made of their state.
_TABLES = (Choice, Evaluation, Inspection, Ledger)


@functools.cache
def known() -> Mapping[str, type]:
    """All kinds by name."""
    found: dict[str, type] = {kind.__name__: kind for kind in (*_VALUES, *_TABLES)}
    for module, base in ((rules, rules.Rule), (anatomy, Block)):
        prefix = module.__name__.rpartition(".")[2]
        parts = [getattr(module, name) for name in module.__all__]
        own = [part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)]
        found |= {f"{prefix}.{p.__name__}": p for p in own if issubclass(p, base)}
    found["rules.Stabilizer"] = rules.Stabilizer
    return MappingProxyType(found)


@functools.cache
def _names() -> Mapping[type, str]:
    return {kind: name for name, kind in known().items()}


def name_of(value: Any) -> str | None:
    """The kind of a value; None if it is of none."""
    return _names().get(type(value))


def is_rule(value: Any) -> bool:
    """Whether it is a rule, of whoever's."""
    return isinstance(value, rules.Rule)


def state(value: Any) -> Iterable[tuple[str, Any]]:
    """What a value is made of."""
    if isinstance(value, _TABLES):
        found = value.__getstate__()
        return found.items() if isinstance(found, dict) else ()
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


def made(name: str, fields: Mapping[str, Any]) -> Any:
    """A value from what it is made of.

    Raises:
        InputError: this relprop does not know the kind.
    """
    kind = known().get(name)
    if kind is None:
        raise InputError(f"this relprop knows no {name!r}")
    value = object.__new__(kind)
    if issubclass(kind, _TABLES):
        value.__dict__.update(fields)
        return value
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(fields) - names:
        raise InputError(f"{name} has no {', '.join(sorted(unknown))}")
    if missing := _needed(kind) - set(fields):
        raise InputError(f"{name} lacks {', '.join(sorted(missing))}")
    # Not by the constructor, whose arguments may be others; a later field has its default.
    for field in dataclasses.fields(kind):
        given = fields[field.name] if field.name in fields else _default(field)
        object.__setattr__(value, field.name, given)
    return value


def _default(field: Any) -> Any:
    has_none = field.default is dataclasses.MISSING
    return field.default_factory() if has_none else field.default


def _needed(kind: type) -> set[str]:
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is missing and field.default_factory is missing
    }
