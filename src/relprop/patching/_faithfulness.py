"""How good a circuit is: faithfulness, completeness, minimality, and overlap with a known one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.patching._circuit import Circuit, circuit_score, top
from relprop.patching._edges import Edges

#: Parts of all edges at which the MIB benchmark evaluates circuits.
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """What circuits of growing size restore of the difference between two runs.

    Attributes:
        fractions: parts of all edges that are kept.
        values: by fraction, 0 as in the corrupted and 1 as in the clean run.
    """

    fractions: tuple[float, ...]
    values: Float[np.ndarray, " fractions"]

    @property
    def cpr(self) -> float:
        """Circuit performance ratio: the area under the curve; the more the better."""
        return self._area(self.values)

    @property
    def cmd(self) -> float:
        """Circuit-model distance: the area between the curve and 1; the less the better."""
        return self._area(np.abs(1 - self.values))

    def _area(self, heights: np.ndarray) -> float:
        return float(np.trapezoid(heights, self.fractions))


def faithfulness(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    edges: Edges,
    argnums: int | Sequence[int] = 0,
    *,
    fractions: Sequence[float] = FRACTIONS,
    by: str = "amount",
    batch_size: int | None = 16,
) -> Faithfulness:
    r"""The faithfulness of the circuits of the k edges with the largest scores.

    .. math:: \hat f(k) = \frac{m(C_k) - m(\text{none})}{m(\text{all}) - m(\text{none})}

    with m the score of a circuit (`circuit_score`).

    Args:
        f: as for `edges`.
        clean: as for `edges`.
        corrupted: as for `edges`.
        edges: scores of all edges, by any method.
        argnums: as for `edges`.
        fractions: parts of all edges to be kept, in ascending order.
        by: as for `top`.
        batch_size: how many circuits are evaluated at a time.

    Raises:
        InputError: as for `edges`, the fractions are no ascending numbers from 0 to 1, or clean
            and corrupted score are equal.

    >>> import jax, jax.numpy as jnp, relprop
    >>> weights = jnp.eye(2), 2 * jnp.eye(2)
    >>> def f(x):
    ...     for w in weights:
    ...         x = x + jax.nn.relu(x @ w)
    ...     return x.sum()
    >>> runs = (jnp.array([[1.0, 2.0]]),), (jnp.array([[0.0, 2.0]]),)
    >>> scores = relprop.patching.edges(f, *runs, relprop.rules.Gradient())
    >>> faithfulness(f, *runs, scores, fractions=(0.0, 0.5, 1.0)).values.round(2)
    array([0.  , 0.33, 1.  ], dtype=float32)

    Source: Mueller et al. 2025, section 3 (faithfulness, CPR, CMD).
    """
    parts = np.asarray(fractions, float)
    ordered = parts.ndim == 1 and parts.size and (np.diff(parts) > 0).all()
    if not ordered or not (0 <= parts.min() and parts.max() <= 1):
        raise InputError(f"`fractions` must be ascending numbers from 0 to 1, got {fractions!r}.")
    total = int(np.asarray(edges.exists).sum())
    kept = [top(edges, round(part * total), by).kept for part in parts]
    all_of = jnp.asarray(edges.exists)
    scores = _scores(f, clean, corrupted, argnums, [all_of & False, all_of, *kept], batch_size)
    none, whole, *found = scores
    if np.isclose(none, whole, rtol=1e-6, atol=0):
        raise InputError(
            f"Clean and corrupted score are both {none}: there is no difference to be explained."
        )
    values = (np.array(found) - none) / (whole - none)
    return Faithfulness(tuple(map(float, parts)), values)


def completeness(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    circuit: Circuit,
    without: Sequence[Collection[str]],
    argnums: int | Sequence[int] = 0,
    *,
    batch_size: int | None = 16,
) -> Float[np.ndarray, " sets"]:
    r"""How unlike circuit and function are when both lack some nodes; a complete circuit has 0.

    .. math:: |m(C \setminus K) - m(M \setminus K)|

    Args:
        f: as for `edges`.
        clean: as for `edges`.
        corrupted: as for `edges`.
        circuit: the circuit.
        without: the sets K of nodes, by their names: ``input``, ``a0.h1``, ``m0``, ``logits``.
        argnums: as for `edges`.
        batch_size: how many circuits are evaluated at a time.

    Returns:
        A number per set, in units of the score.

    Raises:
        InputError: as for `edges`, or there is no such node.

    Source: Wang et al. 2023, section 4 (completeness).
    """
    edges = circuit.edges
    known = {*edges.writers, *(name.split("<")[0] for name in edges.readers)}
    strange = sorted({name for names in without for name in names} - known)
    if strange:
        raise InputError(
            f"There is no node {', '.join(strange)}: there are {', '.join(sorted(known))}."
        )
    masks = []
    for names in without:
        rows = np.array([name not in names for name in edges.writers])
        columns = np.array([name.split("<")[0] not in names for name in edges.readers])
        left = jnp.asarray(rows[:, None] & columns[None])
        masks += [circuit.kept & left, jnp.asarray(edges.exists) & left]
    if not masks:
        return np.zeros(0)
    scores = _scores(f, clean, corrupted, argnums, masks, batch_size)
    return np.abs(scores[::2] - scores[1::2])


def minimality(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    circuit: Circuit,
    argnums: int | Sequence[int] = 0,
    *,
    batch_size: int | None = 16,
) -> dict[str, float]:
    r"""What the score of a circuit changes without one of its edges; in a minimal one, all do.

    .. math:: |m(C) - m(C \setminus \{e\})|

    Args:
        f: as for `edges`.
        clean: as for `edges`.
        corrupted: as for `edges`.
        circuit: the circuit.
        argnums: as for `edges`.
        batch_size: how many circuits are evaluated at a time.

    Returns:
        By the name of each kept edge, in units of the score.

    Raises:
        InputError: as for `edges`.

    Source: Wang et al. 2023, section 4 (minimality), with the empty set for K.
    """
    kept = np.asarray(circuit.kept)
    masks = [kept]
    for u, v in zip(*np.nonzero(kept), strict=True):
        one_less = kept.copy()
        one_less[u, v] = False
        masks.append(one_less)
    whole, *parts = _scores(f, clean, corrupted, argnums, masks, batch_size)
    lost = np.abs(whole - np.array(parts)).tolist()
    return dict(zip(circuit.names, lost, strict=True))


def auroc(scores: Mapping[str, float], known: Collection[str]) -> float:
    r"""How well amounts of scores tell the nodes or edges of a known circuit from all others.

    .. math:: P(|s_{in}| > |s_{out}|) + \tfrac{1}{2} P(|s_{in}| = |s_{out}|)

    Args:
        scores: of nodes or edges, by their names.
        known: the names of those in the circuit.

    Raises:
        InputError: a known one has no score, a score is NaN, or all or none are in the circuit.

    >>> auroc({"a": 3.0, "b": -2.0, "c": 0.1, "d": 2.0}, ["a", "b"])
    0.875

    Source: Mueller et al. 2025, section 3 (area under the ROC curve).
    """
    strange = sorted(set(known) - set(scores))
    if strange:
        raise InputError(
            f"{len(strange)} of the known circuit have no score: {', '.join(strange)}."
        )
    inside = np.abs([score for name, score in scores.items() if name in known])
    outside = np.abs([score for name, score in scores.items() if name not in known])
    if not inside.size or not outside.size:
        raise InputError("AUROC needs something in the circuit, and something that is not.")
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise InputError("There are scores that are NaN, which have no order.")
    more = (inside[:, None] > outside[None]).mean()
    return float(more + (inside[:, None] == outside[None]).mean() / 2)


def _scores(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    argnums: int | Sequence[int],
    masks: Sequence[Any],
    batch_size: int | None,
) -> Float[np.ndarray, " circuits"]:
    """The scores of circuits, as numbers."""
    stacked: Bool[Array, "circuits writers readers"] = jnp.stack([*map(jnp.asarray, masks)])
    batches = Batches(batch_size)
    run = jax.jit(lambda masks: batches.map(circuit_score(f, clean, corrupted, argnums), masks))
    return np.asarray(run(stacked))
