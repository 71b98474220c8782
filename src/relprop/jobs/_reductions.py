"""What is summed up over a dataset while it is explained, and survives with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from relprop._errors import InputError, JobError
from relprop.jobs._disk import MANIFEST, Disk
from relprop.jobs._manifest import Committed

State = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Base of what is summed up: frozen values, whose state is a dict of arrays.

    Args:
        of: which numbers: ``"relevance"``, ``"score"``, ``"places/NAME"``, as in the store, of the
            first method or of ``"METHOD/..."``.
    """

    of: str = "relevance"

    def start(self, values: np.ndarray, labels: np.ndarray | None) -> State:
        """The state before the first sample."""
        raise NotImplementedError

    def add(
        self, state: State, values: np.ndarray, labels: np.ndarray | None, numbers: np.ndarray
    ) -> State:
        """The state after more samples: their values, what aux says of them, their numbers."""
        raise NotImplementedError

    def join(self, one: State, other: State) -> State:
        """The state after the samples of both."""
        return {name: one[name] + other[name] for name in one}

    def result(self, state: State) -> Any:
        """What is wanted in the end."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Total(Reduction):
    r"""The sum over all samples, such as that of the relevance of parameters.

    .. math:: \sum_n R^{(n)}, \qquad \text{or } \sum_n |R^{(n)}|

    Args:
        of: as for `Reduction`.
        absolute: whether of absolute values.
    """

    absolute: bool = False

    def start(self, values, labels):
        return {"sum": np.zeros(values.shape[1:]), "count": np.zeros((), np.int64)}

    def add(self, state, values, labels, numbers):
        values = np.abs(values) if self.absolute else values
        return {
            "sum": state["sum"] + values.sum(0, dtype=np.float64),
            "count": state["count"] + len(values),
        }

    def result(self, state):
        return state["sum"]


@dataclasses.dataclass(frozen=True)
class MeanPerClass(Reduction):
    r"""The mean over the samples of each class, which the score tells as its aux.

    .. math:: \frac{1}{n_c} \sum_{n: c_n = c} R^{(n)}

    Args:
        of: as for `Reduction`.
        classes: how many there are.
        axes: of a sample's values, those that are summed first: with the axes of space the mean
            is of channels, with those of queries and keys of heads.
    """

    classes: int = 10
    axes: tuple[int, ...] = ()

    def start(self, values, labels):
        shape = self._summed(values).shape[1:]
        return {
            "sum": np.zeros((self.classes, *shape)),
            "count": np.zeros(self.classes, np.int64),
        }

    def add(self, state, values, labels, numbers):
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(
                "MeanPerClass needs the class of each sample: with `has_aux=True` the score "
                "returns a pair of itself and an integer."
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
            raise InputError(
                f"Classes are numbered from 0 to {self.classes - 1}, got {labels.min()} to "
                f"{labels.max()}."
            )
        total, count = state["sum"].copy(), state["count"].copy()
        np.add.at(total, labels, self._summed(values).astype(np.float64))
        np.add.at(count, labels, 1)
        return {"sum": total, "count": count}

    def result(self, state):
        count = state["count"].reshape(-1, *[1] * (state["sum"].ndim - 1))
        with np.errstate(invalid="ignore"):
            return state["sum"] / np.where(count > 0, count, np.nan)

    def _summed(self, values: np.ndarray) -> np.ndarray:
        return values.sum(tuple(a if a < 0 else a + 1 for a in self.axes)) if self.axes else values


@dataclasses.dataclass(frozen=True)
class References(Reduction):
    r"""For each channel, neuron or head the samples in which its relevance is largest.

    .. math:: R_c^{(n)} = \sum_{\text{space}} R^{(n)}_{c, \text{space}}

    Args:
        of: ``"places/NAME"``, as for `Reduction`.
        k: how many samples per channel.
        axis: of a sample's values, that of the channels.

    Source: Achtibat et al. 2023, relevance maximisation.
    """

    k: int = 8
    axis: int = -1

    def start(self, values, labels):
        channels = self._of_channels(values).shape[1]
        return {
            "relevance": np.full((channels, self.k), -np.inf),
            "number": np.full((channels, self.k), -1, np.int64),
        }

    def add(self, state, values, labels, numbers):
        found = self._of_channels(values).T.astype(np.float64)
        own = {"relevance": found, "number": np.broadcast_to(numbers, found.shape)}
        return self.join(state, own)

    def join(self, one, other):
        relevance, number = (
            np.concatenate([one[name], other[name]], axis=1) for name in ("relevance", "number")
        )
        # Of equals the earlier sample, so that it does not matter who saw them first.
        best = np.lexsort((number, -relevance), axis=1)[:, : self.k]
        return {
            "relevance": np.take_along_axis(relevance, best, 1),
            "number": np.take_along_axis(number, best, 1),
        }

    def result(self, state):
        return {name: state[name] for name in ("number", "relevance")}

    def _of_channels(self, values: np.ndarray) -> np.ndarray:
        axis = self.axis if self.axis >= 0 else values.ndim - 1 + self.axis
        others = tuple(a for a in range(1, values.ndim) if a != axis + 1)
        return values.sum(others)


#: Those that a store can name.
KINDS: Mapping[str, type[Reduction]] = {
    kind.__name__: kind for kind in (MeanPerClass, References, Total)
}


class Reducing:
    """The state of all reductions of a process, which is committed with each chunk."""

    def __init__(self, reductions: Mapping[str, Reduction], process: int, method: str):
        self._reductions, self._method = dict(reductions), method
        self._stem = f"{MANIFEST}/state-{process:05d}"
        self._states: dict[str, State] = {}
        self._count = 0
        self._before = ""

    def __bool__(self) -> bool:
        return bool(self._reductions)

    def __repr__(self) -> str:
        return repr(self._reductions)

    def resume(self, disk: Disk, committed: Iterable[Committed]) -> None:
        """Goes on from the latest state.

        Raises:
            JobError: it is not there.
        """
        own = [batch.state for batch in committed if batch.state.startswith(self._stem)]
        self._before = max(own, default="")
        for name in disk.names(MANIFEST):  # what a killed process could not remove any more
            if (file := f"{MANIFEST}/{name}").startswith(self._stem) and file != self._before:
                disk.remove(file)
        if not own or not self:
            return
        # Not how many lines there are: a chunk that was repaired names the state of another.
        self._count = int(self._before.rpartition("-")[2].partition(".")[0])
        self._states = read_state(disk, self._before)

    def add(
        self,
        arrays: Mapping[str, np.ndarray],
        shape: int,
        numbers: Sequence[int],
        errors: Mapping[int, str],
    ) -> tuple[str, bytes]:
        """Takes a chunk in, whose samples have these numbers; the name and bytes of the state."""
        import safetensors.numpy

        rows = np.array([row for row, n in enumerate(numbers) if n not in errors], np.int64)
        if len(rows):
            explained = np.asarray(numbers, np.int64)[rows]
            for name, reduction in self._reductions.items():
                values, labels = self._values(arrays, reduction.of)
                labels = None if labels is None else labels[rows]
                state = self._states.get(name)
                if state is None:
                    state = reduction.start(values[rows], labels)
                if shape:
                    raise JobError(f"{reduction!r} needs samples of one shape, here are several.")
                self._states[name] = reduction.add(state, values[rows], labels, explained)
        self._count += 1
        flat = {
            f"{name}/{part}": np.asarray(array)
            for name, state in self._states.items()
            for part, array in state.items()
        }
        return f"{self._stem}-{self._count:012d}.safetensors", safetensors.numpy.save(flat)

    def forget(self, disk: Disk, state: str) -> None:
        """Removes the state before this one, which is committed now."""
        if state and self._before and state != self._before:
            disk.remove(self._before)
        self._before = state or self._before

    def _values(
        self, arrays: Mapping[str, np.ndarray], of: str
    ) -> tuple[np.ndarray, np.ndarray | None]:
        name = of if of in arrays else f"{self._method}/{of}"
        if name not in arrays:
            raise InputError(f"There is no {of!r} to be reduced. There are: {', '.join(arrays)}.")
        return arrays[name], arrays.get(f"{name.partition('/')[0]}/aux")


def read_state(disk: Disk, name: str) -> dict[str, State]:
    """The state of all reductions from a file."""
    import safetensors.numpy

    data = disk.read(name)
    if data is None:
        raise JobError(f"{disk} has no {name}, the state of the reductions: begin anew.")
    found: dict[str, State] = {}
    for key, array in safetensors.numpy.load(data).items():
        reduction, _, part = key.rpartition("/")
        found.setdefault(reduction, {})[part] = array
    return found


def joined(
    reductions: Mapping[str, Reduction], disk: Disk, committed: Iterable[Committed]
) -> dict[str, Any]:
    """The results of all reductions over the samples of all processes."""
    latest: dict[str, str] = {}
    for batch in committed:
        if batch.state:
            stem = batch.state.rpartition("-")[0]
            latest[stem] = max(latest.get(stem, ""), batch.state)
    states = [read_state(disk, latest[stem]) for stem in sorted(latest)]
    found = {}
    for name, reduction in reductions.items():
        parts = [state[name] for state in states if name in state]
        whole = None
        for part in parts:
            whole = part if whole is None else reduction.join(whole, part)
        found[name] = None if whole is None else reduction.result(whole)
    return found
