"""One model against the promises of relprop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import relprop
from census.entry import Entry, Model
from census.structures import structures
from relprop import presets
from relprop.rules import Epsilon

#: Rule sets whose relevance is followed through the model.
FOLLOWED = {"attn_lrp": presets.attn_lrp(), "cp_lrp": presets.cp_lrp()}
RULES = (*FOLLOWED, "epsilon")
#: What rounding may cost in single precision, relative to the largest number.
FORWARD = 1e-5
GRADIENT = 1e-4
CONSERVED = 1e-3


@dataclasses.dataclass(frozen=True)
class Balance:
    """Where the relevance of a score went: left + bias + stopped + gap = score.

    The gap is what rules did not conserve, and rounding.
    """

    score: float
    left: float
    bias: float
    stopped: float
    gap: float
    largest: float  # Relevance that some operation handled: rounding is relative to it.

    @property
    def relative_gap(self) -> float:
        return abs(self.gap) / self.largest if self.largest else 0.0


@dataclasses.dataclass(frozen=True)
class Row:
    """What the census found out about one model.

    Attributes:
        name: family and name.
        error: why there is nothing else to be told; empty if all went well.
        equations: of the model's jaxpr, with those of everything it calls.
        active: equations on the way from the input to the score.
        missing: those among them that have no rule.
        forward: largest difference to the original framework, relative; None for JAX's own.
        gradient: largest difference between the gradient preset and `jax.grad`, relative.
        found: structures that were recognised.
        expected: structures that the model has.
        balances: per rule set, where the relevance went.
        finite: rule sets with nothing but numbers in the relevance.
        planning: seconds for the trace, the plan and the blocks in it.
        seconds: for all of this.
    """

    name: str
    error: str = ""
    equations: int = 0
    active: int = 0
    missing: tuple[str, ...] = ()
    forward: float | None = None
    gradient: float = 0.0
    found: Mapping[str, int] = dataclasses.field(default_factory=dict)
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    balances: Mapping[str, Balance] = dataclasses.field(default_factory=dict)
    finite: tuple[str, ...] = ()
    planning: float = 0.0
    seconds: float = 0.0

    @property
    def coverage(self) -> float:
        """The part of the active equations that has a rule."""
        return 1.0 - len(self.missing) / self.active if self.active else 0.0

    def broken(self) -> list[str]:
        """The promises that are not kept, as short sentences."""
        return list(_broken(self))


def _broken(row: Row) -> Iterator[str]:
    if row.error:
        yield row.error
        return
    if row.missing:
        yield f"no rule for {', '.join(sorted(set(row.missing)))}"
    if row.forward is not None and not row.forward <= FORWARD:
        yield f"forward differs by {row.forward:.1e}"
    if not row.gradient <= GRADIENT:
        yield f"gradient differs by {row.gradient:.1e}"
    for name, count in row.expected.items():
        if row.found[name] != count:
            yield f"{name}: found {row.found[name]} of {count}"
    for name in RULES:
        if name not in row.finite:
            yield f"{name}: relevance is not finite"
    if not row.balances["cp_lrp"].relative_gap <= CONSERVED:
        yield f"cp_lrp: gap of {row.balances['cp_lrp'].relative_gap:.1e}"


def measure(entry: Entry) -> Row:
    """The row of a model; whatever goes wrong is in its `error`."""
    start = time.perf_counter()
    try:
        # Most libraries broadcast arrays of different rank.
        with jax.numpy_rank_promotion("allow"):
            row = _measured(entry.label, entry.build())
    except Exception as error:  # noqa: BLE001 - one model must not end the census
        row = Row(entry.label, error=_cause(error))
    jax.clear_caches()
    return dataclasses.replace(row, seconds=time.perf_counter() - start)


def _cause(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, ModuleNotFoundError):
        first += ": pip install --no-deps -r census/requirements.txt"
    return f"{type(error).__name__}: {first}"


def _measured(name: str, model: Model) -> Row:
    rules = FOLLOWED["attn_lrp"]
    start = time.perf_counter()
    plan = relprop.inspect(model.score, rules, 1, on_missing="gradient")(model.params, model.x)
    found = structures(plan)
    planning = time.perf_counter() - start
    row = Row(
        name=name,
        equations=_size(jax.make_jaxpr(model.score)(model.params, model.x)),
        active=sum(row.equations for row in plan),
        missing=tuple(row.primitive for row in plan if row.note == "on_missing"),
        found=found,
        expected=model.expected,
        planning=planning,
    )
    if row.missing:
        relprop.inspect(model.score, rules, 1)(model.params, model.x)  # The error says where.
    output, gradient, same, epsilon = _computed(model)
    books = {
        name: relprop.ledger(model.score, rules, 1)(model.params, model.x)
        for name, rules in FOLLOWED.items()
    }
    found = {**{name: book.relevance for name, book in books.items()}, "epsilon": epsilon}
    return dataclasses.replace(
        row,
        forward=None if model.reference is None else _difference(output, model.reference),
        gradient=_difference(same, gradient),
        balances={name: _balance(book) for name, book in books.items()},
        finite=tuple(name for name in RULES if _finite(found[name])),
    )


def _computed(model: Model) -> Any:
    """The output, the gradient by JAX and by relprop, and the relevance of the epsilon rule."""

    @jax.jit  # Together, so that there is one program to be compiled.
    def compute(params: Any, x: Any) -> Any:
        return (
            model.function(params, x),
            jax.grad(model.score, 1)(params, x),
            relprop.relevance(model.score, presets.gradient(), 1)(params, x),
            relprop.relevance(model.score, Epsilon(1e-6), 1)(params, x),
        )

    return compute(model.params, model.x)


def _size(jaxpr: Any) -> int:
    """The number of equations of a jaxpr, with all that it calls."""
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = [leaf for value in equation.params.values() for leaf in _jaxprs(value)]
        total += 1 + sum(map(_size, inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in _jaxprs(part)]
    return [value] if hasattr(getattr(value, "jaxpr", value), "eqns") else []


def _difference(found: Any, expected: Any) -> float:
    """The largest difference between two trees, relative to the largest expected number."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    largest = max(np.abs(b).max() for _, b in pairs)
    return float(max(np.abs(a - b).max() for a, b in pairs) / largest)


def _finite(tree: Any) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def _balance(book: relprop.Ledger) -> Balance:
    handled = [abs(row.arrived) for row in book]
    score = float(book.score)
    return Balance(
        score=score,
        left=book.left,
        bias=book.bias,
        stopped=book.stopped + book.epsilon,
        gap=book.gap + book.not_conserved,
        largest=max([abs(score), abs(book.left), abs(book.bias), *handled]),
    )
