"""What operations are recognised as: one entry for each structure, in one table.

An entry has the name, the rule that the structure gets if no other is named, and what finds it.
What is registered here is known everywhere: to `relprop.Where`, to composites and what they print,
to plans and to plots. A structure of your own is a function that yields operations, with a
propagator that says what rules may know about them:

>>> import jax.numpy as jnp, dataclasses, relprop
>>> from relprop.structures import Operation, Structure, register, removed
>>> @dataclasses.dataclass(frozen=True)
... class Swap(relprop.propagators.Propagator):
...     def structure(self, operation, active):
...         return "reversal"
>>> def reversals(flow):
...     for equation in flow.equations:
...         if equation.name == "rev":
...             yield Operation(Swap(), (equation,), equation.inputs, equation.outputs)
>>> register(Structure("reversal", relprop.rules.Stop(), (reversals,), "An array turned around."))
>>> f = lambda x: jnp.sum(x[::-1] * jnp.arange(3.0)) + x[0]
>>> relprop.relevance(f, relprop.rules.Epsilon())(jnp.ones(3)).tolist()
[1.0, 0.0, 0.0]
>>> removed("reversal").name
'reversal'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

from relprop._core.operation import Operation as Operation
from relprop.recognise import Recogniser as Recogniser
from relprop.recognise import (
    activation,
    average,
    batch_norm,
    bias,
    fixed,
    gate,
    logsumexp,
    neuron,
    norm,
    normaliser,
    sharded,
    softmax,
    straight_through,
)
from relprop.recognise.dataflow import Dataflow as Dataflow
from relprop.rules import Constant, Gradient, Pass, Route, Rule, Uniform, Zero

__all__ = [
    "Canonizer",
    "Dataflow",
    "Operation",
    "Structure",
    "canonizers",
    "register",
    "removed",
    "structures",
]


@dataclasses.dataclass(frozen=True)
class Structure:
    """Something that operations are recognised as.

    Args:
        name: the name, as `relprop.Where` takes it and as propagators return it.
        rule: what it gets if no other rule is named. None: relevance passes by the rules of what is
            inside, or a composite has to name a rule.
        recognisers: functions of a `Dataflow` that yield an `Operation` for each place. None are
            needed where a primitive is one by itself, as a `dot_general` is.
        documentation: one line of what it is.
        whole: taken as one operation only where a composite names it.
        encloses: an operation with bodies, which have rules of their own.
        rank: of two structures that end in the same equation, the lower one counts.
    """

    name: str
    rule: Rule | None
    recognisers: tuple[Recogniser, ...] = ()
    documentation: str = ""
    whole: bool = False
    encloses: bool = False
    rank: int = 100


@dataclasses.dataclass(frozen=True)
class Canonizer:
    """Something that is merged into the layers beside it before rules are given.

    Args:
        name: the name, as `Composite(canonizers=...)` takes it.
        recogniser: a function of a `Dataflow` that yields an `Operation` for each layer.
        documentation: what is merged, as the table of a composite says it.
    """

    name: str
    recogniser: Recogniser
    documentation: str = ""


_structures: dict[str, Structure] = {}
_whole_structures: dict[str, Structure] = {}
_canonizers: dict[str, Canonizer] = {}


def register(entry: Structure | Canonizer) -> None:
    """Adds a structure or canonizer to the table; replaces one of the same name.

    Args:
        entry: what composites, plots and documentation know from now on.

    Raises:
        TypeError: it is neither.

    >>> register(Canonizer("nothing", lambda flow: iter(())))
    >>> "nothing" in canonizers()
    True
    >>> removed("nothing").name
    'nothing'
    """
    if isinstance(entry, Canonizer):
        _canonizers[entry.name] = entry
    elif isinstance(entry, Structure):
        (_whole_structures if entry.whole else _structures)[entry.name] = entry
    else:
        raise TypeError(f"A Structure or a Canonizer can be registered, got {entry!r}.")


def removed(name: str) -> Structure | Canonizer:
    """Takes an entry out of the table, and returns it.

    Args:
        name: of a structure or canonizer.

    Returns:
        The entry.

    Raises:
        KeyError: there is none of that name.

    >>> register(Structure("nothing", None))
    >>> "nothing" in structures()
    True
    >>> removed("nothing").name, "nothing" in structures()
    ('nothing', False)
    """
    for table in (_structures, _whole_structures, _canonizers):
        if name in table:
            return table.pop(name)  # type: ignore[return-value]
    raise KeyError(name)


def structures() -> Mapping[str, Structure]:
    """All structures by their names, those that a composite has to name among them.

    Returns:
        A copy of the table.

    >>> structures()["softmax"].name
    'softmax'
    """
    return {**_whole_structures, **_structures}


def canonizers() -> Mapping[str, Canonizer]:
    """All canonizers by their names.

    Returns:
        A copy of the table.

    >>> "batch_norm" in canonizers()
    True
    """
    return dict(_canonizers)


def recognisers(whole_structures: Collection[str], merged: Collection[str]) -> list[Recogniser]:
    """What is looked for, in the order of precedence.

    Args:
        whole_structures: structures that a composite names.
        merged: the canonizers that it wants.
    """
    found = [entry.recogniser for name, entry in _canonizers.items() if name in merged]
    # What passes relevance straight on says so itself, whatever else it might be taken for.
    found.append(straight_through.straight_through)
    for table in (
        [s for s in _whole_structures.values() if s.name in whole_structures],
        _structures.values(),
    ):
        for entry in sorted(table, key=lambda entry: entry.rank):
            found.extend(entry.recognisers)
    return found


class _Defaults(Mapping[str, "Rule | None"]):
    """The rules that structures get if no other is named, as the table has them now."""

    def __init__(self, whole_structures: bool = False):
        self._whole_structures = whole_structures

    def _table(self) -> Mapping[str, Structure]:
        return structures() if self._whole_structures else _structures

    def __getitem__(self, name: str) -> Rule | None:
        return self._table()[name].rule

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())

    def __repr__(self) -> str:
        return repr(dict(self))


#: Everything an operation can be recognised as, with the rule that it gets if no other is named.
#: None: relevance passes by the rules of what is inside.
DEFAULTS: Mapping[str, Rule | None] = _Defaults()
#: The same with larger structures, which are taken as one operation where a composite names them.
ALL_DEFAULTS: Mapping[str, Rule | None] = _Defaults(whole_structures=True)

for _entry in (
    Structure(
        "dense",
        Zero(),
        (bias.biased_layers, sharded.sharded_layers),
        "A product with weights, its bias and the numbers that it is scaled by.",
        rank=50,
    ),
    Structure("convolution", Zero(), (), "A convolution, likewise."),
    Structure(
        "linear",
        Zero(),
        (fixed.fixed_maps,),
        "A linear map whose weights nobody has learnt.",
        rank=40,
    ),
    Structure("sum", Zero(), (), "A sum of entries, or of two values: a residual sum."),
    Structure("average", Zero(), (average.averages,), "A mean, or an average pooling.", rank=60),
    Structure("scale", Zero(), (), "A product with a constant."),
    Structure("offset", Zero(), (), "A constant that is added and is no bias of a layer."),
    Structure(
        "activation",
        Pass(),
        (activation.activations,),
        "A function of each entry of one value.",
        rank=70,
    ),
    Structure("maximum", Route(), (), "The largest or smallest of some values."),
    Structure(
        "logsumexp",
        Gradient(),
        (logsumexp.logsumexps,),
        "The logarithm of a sum of exponentials.",
        rank=20,
    ),
    Structure("structural", Route(), (), "Moves and copies numbers."),
    Structure("product", Uniform(), (), "A product of values that depend on the inputs."),
    Structure("gate", Uniform(), (gate.gates,), "An activation times what it opens for.", rank=80),
    Structure(
        "homogeneous",
        Uniform(),
        (),
        "A function of matrices whose degree in each of them is known.",
    ),
    Structure("quotient", Uniform(), (), "A value divided by another."),
    Structure("softmax", Zero(), (softmax.softmaxes,), "Exponentials over their sum.", rank=10),
    Structure(
        "normaliser",
        Constant(),
        (normaliser.normalisers,),
        "The root that a normalisation divides by.",
        rank=30,
    ),
    Structure(
        "custom_derivative", None, (), "A function with a derivative of its own.", encloses=True
    ),
    Structure("region", None, (), "What its author has marked as one thing.", encloses=True),
    Structure("remat", None, (), "`jax.checkpoint`.", encloses=True),
    Structure("cond", None, (), "Branches.", encloses=True),
    Structure("scan", None, (), "A loop.", encloses=True),
    Structure("shard_map", None, (), "What each device does.", encloses=True),
    Structure("while", None, (), "A loop of unknown length.", encloses=True),
    Structure("norm", None, (norm.norms,), "A whole normalisation.", whole=True),
    Structure(
        "neuron", None, (neuron.neurons,), "A layer with the activation after it.", whole=True
    ),
    Structure(
        "batch_norm",
        Zero(),
        (batch_norm.batch_norms,),
        "A constant scale and shift per channel.",
        whole=True,
    ),
    Canonizer("batch_norm", batch_norm.merged_layers, "batch norms"),
):
    register(_entry)
