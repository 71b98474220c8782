"""Places inside a function whose relevance is asked for, beside that of its inputs.

    explain = relprop.relevance(f, rules, places=["encoder/layer_*", Output(structure="softmax")])
    R, inside = explain(x)
    inside["encoder/layer_0"].relevance

A place is said by what is known about it: the scope that its value leaves (`Scope`; Linen,
Equinox and `relprop.interop.from_torch` name scopes after layers), a name given in the code
(`Named`, with `relprop.named`), an operation that makes it (`Output`) or reads it (`Input`). A
string means a name or a scope. Two places are no part of the way from the inputs: `Parameter`
credits weights and biases with what they contribute; `Phases` and `Start` start ways of their own.

Relevance can be changed at a place as well: `Masked` lets a part of it through, and `Seeded` lets
relevance start there. `AtStep` is a place in one step of a loop, for `relprop.intervene`.
"""

from relprop._core.record import Inside as Inside
from relprop.places.changes import Masked as Masked
from relprop.places.changes import Seeded as Seeded
from relprop.places.kinds import AttentionMaps as AttentionMaps
from relprop.places.kinds import Input as Input
from relprop.places.kinds import Named as Named
from relprop.places.kinds import Output as Output
from relprop.places.kinds import Parameter as Parameter
from relprop.places.kinds import Phases as Phases
from relprop.places.kinds import Place as Place
from relprop.places.kinds import Scope as Scope
from relprop.places.kinds import Start as Start
from relprop.places.kinds import named as named
from relprop.places.kinds import positions as positions
from relprop.places.parts import Branches as Branches
from relprop.places.parts import Heads as Heads
from relprop.places.parts import Stream as Stream
from relprop.places.spliced import Errors as Errors
from relprop.places.turns import AtStep as AtStep

__all__ = [
    "AtStep",
    "AttentionMaps",
    "Branches",
    "Errors",
    "Heads",
    "Inside",
    "Input",
    "Masked",
    "Named",
    "Output",
    "Parameter",
    "Phases",
    "Place",
    "Scope",
    "Seeded",
    "Start",
    "Stream",
    "named",
    "positions",
]
