"""A normal form before recognition: what a function computes, and not how it is written.

The forward pass runs a function as it was traced. What rules are given to is a *reading* of it, in
which the same thing is always written in the same way:

1. bodies with one caller are part of what is around them (`bodies`), and a polynomial whose
   coefficients depend on the inputs is a loop over these (`polynomials`);
2. what a loop sums up, perhaps under a shift that it carries, is a sum (`folds`, `online`), as is
   a window over a whole axis (`reductions`) or the difference of running sums (`running`), what
   adds up all entries one by one (`additions`), groups of them (`groups`), and a pair of
   exponentials under a logarithm (`pairs`); what is multiplied without a sum is a product of
   entries (`outer`); what is taken in order is a slice (`gathers`); a
   diagonal matrix is its diagonal (`diagonals`); what changes nothing is not there, and nothing is
   there twice (`repeats`); numbers beside what a layer reads are its bias (`side_by_side`);
3. products are written entry by entry where they are, and by factors of one origin (`products`),
   and sigmoids about zero as what they are (`tanhs`);
4. constants that are added belong to the layer that they are the bias of (`sums`, `parts`), and
   signs to its weight (`signs`);
5. a normalisation comes before what is linear in its result (`quotients`, `averages`,
   `similarities`), and what shifts the arguments of exponentials after the logarithm of their sum
   (`logarithms`);
6. zeros around the argument of a convolution are its padding (`padding`).

A reading shares its values with the traced function. Those that it alone has (a layer's result with
its bias, where the code adds the bias later) are computed after the forward pass, with as few
operations as they need, and not at all where no rule looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import Any

from relprop._core.graph import Equation, Graph, Value
from relprop.reading.additions import added_at_once
from relprop.reading.biases import before_scales
from relprop.reading.bodies import opened
from relprop.reading.contractions import contracted
from relprop.reading.diagonals import without_diagonals
from relprop.reading.draft import Draft
from relprop.reading.gathers import taken_in_order
from relprop.reading.groups import folded
from relprop.reading.logarithms import shifted_back
from relprop.reading.online import summed_at_once
from relprop.reading.outer import multiplied
from relprop.reading.padding import padded
from relprop.reading.pairs import paired
from relprop.reading.parts import joined, split
from relprop.reading.polynomials import expanded
from relprop.reading.products import regrouped, spelled_out
from relprop.reading.quantised import quantised
from relprop.reading.quotients import normalised_first
from relprop.reading.reductions import reduced
from relprop.reading.repeats import simplified
from relprop.reading.rows import by_number
from relprop.reading.running import windowed
from relprop.reading.side_by_side import apart
from relprop.reading.signs import signed
from relprop.reading.similarities import divided_first
from relprop.reading.sums import settled
from relprop.reading.taken import taken_last
from relprop.reading.tanhs import centred

PASSES = (
    opened,
    expanded,
    summed_at_once,
    taken_in_order,
    by_number,
    simplified,
    reduced,
    windowed,
    folded,
    paired,
    added_at_once,
    multiplied,
    quantised,
    without_diagonals,
    contracted,
    apart,
    normalised_first,
    taken_last,
    divided_first,
    shifted_back,
    spelled_out,
    regrouped,
    centred,
    signed,
    joined,
    split,
    settled,
    before_scales,
    padded,
)


def read(
    graph: Graph,
    explained: Set[Value],
    closed: Callable[[Equation], bool] = lambda equation: False,
    asked: Sequence[bool] | None = None,
    visible: Collection[Value] = (),
) -> Graph:
    """The normal form of a graph.

    Args:
        graph: the graph, as it was traced.
        explained: what the explained values are computed from: inputs, or values inside.
        closed: whether an equation with bodies is one thing, since it has a rule as a whole.
        asked: per output, whether it is explained; the others don't take part.
        visible: values that somebody looks at: they keep their place.
    """
    draft = Draft(graph, explained, closed, asked, visible)
    for rewritten in PASSES:
        rewritten(draft)
    return draft.finished()


class Readings:
    """Readings that are made once, so that plans of one function have the same values."""

    def __init__(self):
        self._known: dict[Any, Graph] = {}

    def __call__(
        self,
        graph: Graph,
        explained: Set[Value],
        closed: Callable[[Equation], bool],
        asked: Sequence[bool] | None = None,
        visible: Collection[Value] = (),
    ) -> Graph:
        """As `read`."""
        shut = tuple(closed(equation) for equation in _with_bodies(graph))
        outputs = None if asked is None else tuple(asked)
        key = (graph, frozenset(explained), shut, outputs, frozenset(visible))
        if key not in self._known:
            self._known[key] = read(graph, explained, closed, asked, visible)
        return self._known[key]


def _with_bodies(graph: Graph) -> Iterator[Equation]:
    for equation in graph.equations:
        if equation.bodies:
            yield equation
            for body in equation.bodies:
                yield from _with_bodies(body)
