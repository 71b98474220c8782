"""What the transforms have in common: a function on given arguments, with its plan, checked."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array

from relprop import _compat
from relprop._arguments import argument_numbers, check_score, explained_outputs
from relprop._assign import anatomy, assign
from relprop._closed_over import warn_of_constants
from relprop._core.backward import backward, requested
from relprop._core.compared import amount_of, value_of
from relprop._core.cpu import never
from relprop._core.plan import Plan
from relprop._core.record import Keep, Record, Request
from relprop._core.relevance import Relevance, precise
from relprop._core.tape import Tape
from relprop._core.trace import Trace, trace
from relprop._errors import InputError
from relprop._suspicions import tell
from relprop.anatomy import anatomy_of
from relprop.anatomy.streams import TokenFlow, token_flow
from relprop.composites import Composite
from relprop.places.kinds import Place
from relprop.places.location import sources
from relprop.recognise.findings import Findings


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One function on given arguments, with its plan."""

    trace: Trace
    plan: Plan
    composite: Composite
    places: Sequence[Place] = ()

    @classmethod
    def start(
        cls,
        f: Callable[..., Any],
        args: Sequence[Any],
        argnums: int | Sequence[int],
        composite: Composite,
        on_missing: Any,
        has_aux: bool,
        scalar: bool = True,
        places: Sequence[Place] = (),
        on_suspicion: str = "warn",
    ) -> Run:
        traced = trace(f, args, argument_numbers(argnums, len(args)), has_aux)
        warn_of_constants(traced.graph)
        return cls.planned(
            traced, composite, on_missing, has_aux, scalar, places, on_suspicion, Findings()
        )

    @classmethod
    def planned(
        cls,
        traced: Trace,
        composite: Composite,
        on_missing: Any,
        has_aux: bool,
        scalar: bool,
        places: Sequence[Place],
        on_suspicion: str,
        findings: Findings,
    ) -> Run:
        """As `start`, of a function that has been traced, with what is known of it."""
        count = explained_outputs(traced.out_tree, has_aux)
        if scalar:
            check_score(traced.out_shapes[:count], " beside aux" if has_aux else "")
        mask = [i < count for i in range(len(traced.graph.outputs))]
        plan = assign(traced, composite, mask, on_missing, places, findings)
        if not composite.is_gradient:  # A gradient is what it is, whatever a function means.
            tell(traced, plan, mask, on_suspicion)
        return cls(traced, plan, composite, places)

    def with_constants(self, arrays: Sequence[Any]) -> Run:
        """The same with other arrays for those that the function closes over, in their order."""
        graph = self.plan.graph
        graph = dataclasses.replace(
            graph, constants=dict(zip(graph.constants, arrays, strict=True))
        )
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, graph=graph))

    def anatomy(self) -> Plan:
        """The plan without regard to rules."""
        return anatomy(self.trace, [True] * len(self.trace.graph.outputs))

    def flow(self) -> TokenFlow:
        """How tokens flow through attention."""
        graph, explained = self.trace.graph, self.trace.explained_values
        starting = explained | sources(graph, self.places, explained).keys()
        names = dict(zip(graph.inputs, self.trace.names, strict=True))
        return token_flow(anatomy_of(graph, starting), names)

    def seed(self, score: Array) -> list[Relevance | None]:
        """Relevance of the outputs, of which the score is the first."""
        one = jnp.ones_like(precise(score))
        first = None
        if not any(place.alone for place in self.places):
            # As a multiplier, the score is 1 times itself: the form that loses nothing.
            scored = self.composite.seed == "score"
            first = Relevance(multiplier=one) if scored else Relevance(share=one)
        return [first, *[None] * (len(self.trace.graph.outputs) - 1)]

    def backward(
        self, tape: Tape, seeds: Sequence[Relevance | None], keep: Keep = ""
    ) -> tuple[list[Relevance | None], Record]:
        """Takes relevance of the outputs to the inputs, with masks and seeds on the way."""
        return backward(self.plan, tape, seeds, self.request(tape, keep))

    def request(self, tape: Tape, keep: Keep = "") -> Request:
        """What is wanted of the way back."""
        real = [atom for atom in self.trace.graph.outputs if atom.inexact]
        smallest = min(real, key=lambda atom: math.prod(atom.shape), default=None)
        decisive = None if smallest is None else never(value_of(tape.read(smallest)))
        derivative = self.composite.is_derivative
        plan = self.plan
        return requested(plan, keep, edits=plan.edits, derivative=derivative, never=decisive)

    def totals(
        self, leaving: Sequence[Relevance | None], tape: Tape, multiply: bool = True
    ) -> list[list[Array]]:
        """Relevance of each explained leaf, or what it is per unit of it, as one array each."""
        out = []
        for group in self.trace.explained:
            arrays = [amount_of(tape[self.trace.graph.inputs[i]]) for i in group]
            found = [leaving[i] or Relevance() for i in group]
            pairs = zip(found, arrays, strict=True)
            out.append([r.total(x) if multiply else r.over(x) for r, x in pairs])
        return _compat.looked_at(out)

    def unflatten(self, totals: Sequence[Sequence[Array]], argnums: int | Sequence[int]) -> Any:
        trees = [
            jtu.tree_unflatten(tree, leaves)
            for tree, leaves in zip(self.trace.in_trees, totals, strict=True)
        ]
        return tuple(trees) if isinstance(argnums, Sequence) else trees[0]

    def result(self, leaving, tape: Tape, argnums: int | Sequence[int]) -> Any:
        return self.unflatten(self.totals(leaving, tape), argnums)


def closed(f: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    """The function of its positional arguments alone; as in `jax.grad` the others are constant."""
    return functools.partial(f, **kwargs) if kwargs else f


def checked_seed(seed: Any, outputs: Any) -> list[Relevance | None]:
    leaves, tree = jtu.tree_flatten(outputs)
    seeds, seed_tree = jtu.tree_flatten(seed)
    if tree != seed_tree:
        raise InputError(
            f"The seed must have the structure of the outputs, {tree}, but has {seed_tree}."
        )
    wrong = [
        f"  {jtu.keystr(path) or 'the output'}: {jnp.shape(leaf)}, seed {jnp.shape(r)}"
        for (path, leaf), r in zip(jtu.tree_flatten_with_path(outputs)[0], seeds, strict=True)
        if jnp.shape(leaf) != jnp.shape(r)
    ]
    if wrong:
        raise InputError("The seed must have the shapes of the outputs:\n" + "\n".join(wrong))
    out: list[Relevance | None] = []
    for leaf, r in zip(leaves, seeds, strict=True):
        inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        share = jnp.asarray(r)
        dtype = jnp.result_type(precise(jnp.real(leaf))) if inexact else None
        out.append(Relevance(share=share.astype(dtype)) if inexact else None)
    return out
