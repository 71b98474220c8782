"""What features leave over, as a place."""

from __future__ import annotations

import dataclasses

from relprop._globs import glob
from relprop.places.kinds import Place, graphs
from relprop.places.matching import tag


@dataclasses.dataclass(frozen=True)
class Errors(Place):
    """The errors that `relprop.splice` adds to what it makes of features.

    They take their share of the sum, named ``"... error"`` after the place. What they have goes on
    to nothing before.

    Args:
        place: the name of the place that was spliced, or a glob.
    """

    place: str = "*"

    def sources(self, graph):
        for inner in graphs(graph):
            for equation in inner.equations:
                if equation.name == "name" and glob(tag(equation), f"{self.place} error"):
                    yield tag(equation), equation.outputs[0]
