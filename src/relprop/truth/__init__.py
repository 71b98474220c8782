"""Data whose truth is known: generated, seeded, with small networks that were trained on it.

`load` gives a task with its trained model; the functions below it draw the data alone.
"""

from relprop.truth._digits import clutter as clutter
from relprop.truth._digits import digits as digits
from relprop.truth._digits import grid as grid
from relprop.truth._folders import Rationale as Rationale
from relprop.truth._folders import eraser as eraser
from relprop.truth._folders import imagenet_segmentation as imagenet_segmentation
from relprop.truth._folders import squad as squad
from relprop.truth._numbers import interactions as interactions
from relprop.truth._numbers import motifs as motifs
from relprop.truth._photographs import imagenet as imagenet
from relprop.truth._planted import Planted as Planted
from relprop.truth._tasks import Task as Task
from relprop.truth._tasks import load as load
from relprop.truth._tasks import load_text as load_text
from relprop.truth._tasks import names as names
from relprop.truth._tetrominoes import tetrominoes as tetrominoes
from relprop.truth._text import Texts as Texts
from relprop.truth._text import texts as texts

__all__ = [
    "Planted",
    "Rationale",
    "Task",
    "Texts",
    "clutter",
    "digits",
    "eraser",
    "grid",
    "imagenet",
    "imagenet_segmentation",
    "interactions",
    "load",
    "load_text",
    "motifs",
    "names",
    "squad",
    "tetrominoes",
    "texts",
]
