"""`shard_map`: the rules of its body on every device, each on its own part of the arrays.

The types that JAX gives to arrays inside say along which mesh axes devices hold different numbers.
A value that devices share is one value, whose relevance is the sum of what they find. So a copy to
several devices collects relevance by a sum over them, and a sum over devices hands relevance on as
it is; their derivatives do that already.

With ``check_vma=False`` there are no such types. Then each device has a part of the relevance of
what several of them hold, equal parts to begin with, and the parts are added up in the end.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

from relprop import _compat
from relprop._core.backward import backward
from relprop._core.control import Call
from relprop._core.forward import forward
from relprop._core.graph import Value
from relprop._core.plan import Plan
from relprop._core.record import Record
from relprop._core.tape import mentioned, packed, unpacked


@dataclasses.dataclass(frozen=True)
class Sharded(Call):
    """`shard_map`: relevance passes on each device, by the rules of what is inside.

    A place inside has one entry per device in front, for each mesh axis that it differs along.
    """

    name: str = "shard_map"

    def forward(self, step, values, replay):
        (body,) = step.bodies
        devices = _Devices.of(step)

        def run(*values):
            outputs, tape = forward(body, values, replay)
            return outputs, packed(body, tape, _kept(body))

        return devices.map(run, devices.inputs, devices.outputs)(*values)

    def backward(self, step, values, tape, arriving, request: Any):
        (body,) = step.bodies
        devices = _Devices.of(step)

        def run(values, kept, arriving):
            again = unpacked(body, tape.restored(kept), _kept(body))
            again.update(zip(body.graph.inputs, values, strict=True))
            seeds = _each(devices.parts, arriving, devices.outputs)
            # What decides outside is not the same array in here.
            own = dataclasses.replace(request, never=None)
            leaving, record = backward(body, again, seeds, own)
            leaving = _each(devices.summed, leaving, devices.inputs)
            accounts = jax.tree.map(lambda a: devices.summed(a, _EVERYWHERE), record.accounts)
            return (leaving, accounts), record.inside

        (leaving, accounts), inside = devices.map(
            run,
            (devices.inputs, devices.stacked, devices.outputs),
            (devices.inputs, _EVERYWHERE),
        )(list(values), tape.groups, list(arriving))
        return leaving, Record(accounts, inside.by_device(devices.sizes))


_EVERYWHERE = PartitionSpec()


def _kept(body: Plan) -> list[Value]:
    """The values that the way back reads, without the operands."""
    return mentioned(body, known={*body.graph.inputs})


def _each(function: Callable[..., Any], relevances, specs) -> list[Any]:
    return [
        None if r is None else r.map(lambda a, spec=spec: function(a, spec))
        for r, spec in zip(relevances, specs, strict=True)
    ]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Stacked:
    """A tree of arrays that differ between devices, after they have left the devices.

    Attributes:
        groups: for each set of mesh axes the arrays that differ along them, with one entry per
            device in front; or pairs of such arrays.
        order: for each array the number of its group and its place there.
        axes: the mesh axes of each group.
        tree: how the arrays are arranged.
    """

    groups: list[list[Any]]
    order: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})
    axes: tuple[tuple[Any, ...], ...] = dataclasses.field(metadata={"static": True})
    tree: Any = dataclasses.field(metadata={"static": True})

    def restored(self, groups: Sequence[Sequence[Any]]) -> Any:
        """The tree on a device, from its entries of the groups."""
        own = [
            [jax.tree.map(lambda x: x[0], a) if axes else a for a in group]
            for axes, group in zip(self.axes, groups, strict=True)
        ]
        return jax.tree.unflatten(self.tree, [own[i][j] for i, j in self.order])

    def by_device(self, sizes: Any) -> Any:
        """The tree outside, with one dimension per mesh axis in front of each array."""
        leaves = []
        for i, j in self.order:
            array = self.groups[i][j]
            front = tuple(sizes[axis] for axis in self.axes[i])
            leaves.append(array.reshape(front + array.shape[1:]) if front else array)
        return jax.tree.unflatten(self.tree, leaves)


@dataclasses.dataclass(frozen=True)
class _Devices:
    """How an equation spreads arrays over devices.

    Attributes:
        inputs: which mesh axes split which dimensions of its operands.
        outputs: likewise for its results.
        mesh: the devices.
        axes: the mesh axes that they are split by, in the order of the mesh.
        tracked: whether types say along which axes a value differs.
    """

    inputs: list[PartitionSpec]
    outputs: list[PartitionSpec]
    mesh: Any
    axes: tuple[Any, ...]
    tracked: bool

    @classmethod
    def of(cls, step: Any) -> _Devices:
        params = step.operation.last.params
        mesh, manual = params["mesh"], params["newly_manual_axes"]
        return cls(
            list(params["in_specs"]),
            list(params["out_specs"]),
            mesh,
            tuple(axis for axis in mesh.axis_names if axis in manual),
            params["check_vma"],
        )

    @property
    def sizes(self) -> Any:
        return self.mesh.shape

    @property
    def groups(self) -> tuple[tuple[Any, ...], ...]:
        """All sets of axes along which something may differ."""
        if not self.tracked:
            return (self.axes,)
        counts = range(len(self.axes) + 1)
        return tuple(s for n in counts for s in itertools.combinations(self.axes, n))

    @property
    def stacked(self) -> list[PartitionSpec]:
        """How the groups of `_Stacked` are split."""
        return [PartitionSpec(axes) if axes else _EVERYWHERE for axes in self.groups]

    def map(self, function: Callable[..., Any], inputs: Any, outputs: Any) -> Callable[..., Any]:
        """A function on each device; it returns a tree with known specs and any other one."""
        groups = self.groups
        layouts: list[Any] = []  # which array differs along what is known once it is traced

        def run(*args):
            out, rest = function(*args)
            leaves, tree = jax.tree.flatten(rest)
            stacks: list[list[Any]] = [[] for _ in groups]
            order = []
            for leaf in leaves:
                number = groups.index(self._differs(leaf))
                order.append((number, len(stacks[number])))
                stacks[number].append(leaf[None] if groups[number] else leaf)
            layouts.append((tuple(order), groups, tree))
            return out, stacks

        spread = jax.shard_map(
            run,
            mesh=self.mesh,
            in_specs=tuple(inputs),
            out_specs=(outputs, self.stacked),
            axis_names=set(self.axes),
            check_vma=self.tracked,
        )

        def mapped(*args):
            out, stacks = spread(*args)
            return out, _Stacked(stacks, *layouts[-1])

        return mapped

    def _differs(self, array: Any) -> tuple[Any, ...]:
        if not self.tracked:
            return self.axes
        varying = _compat.varying(_compat.type_of(array))
        return tuple(axis for axis in self.axes if axis in varying)

    def parts(self, array: Any, spec: PartitionSpec) -> Any:
        """Relevance that enters, as the part of each device."""
        return array if self.tracked else array / math.prod(self.sizes[a] for a in self._rest(spec))

    def summed(self, array: Any, spec: PartitionSpec) -> Any:
        """Relevance that leaves, from the parts of the devices."""
        rest = self._rest(spec)
        return array if self.tracked or not rest else lax.psum(array, rest)

    def _rest(self, spec: PartitionSpec) -> tuple[Any, ...]:
        """The axes that split no dimension: devices along them hold the same."""
        named = {a for entry in spec for a in (entry if isinstance(entry, tuple) else (entry,))}
        return tuple(axis for axis in self.axes if axis not in named)
