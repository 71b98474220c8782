"""Where to put the nodes of a graph without cycles: rows by distance, few crossings, short edges.

The method of Sugiyama, Tagawa and Toda 1981 in its simplest form: nodes get rows, edges that
cross rows get nodes of their own there, rows are sorted by the mean place of their neighbours, and
every node is drawn towards these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

_SWEEPS = 8

#: A node of the graph, or the place of an edge in a row that it passes: source, node and row.
Node = int | tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Places in units of rows and of the width of a node.

    Attributes:
        places: node -> column and row; columns are numbers that need not be whole.
        bends: edge -> places between its ends, one for each row that it passes.
    """

    places: Mapping[int, tuple[float, int]]
    bends: Mapping[tuple[int, int], Sequence[tuple[float, int]]]


def layered(
    reads: Mapping[int, Sequence[int]], bands: Sequence[int] = (), thin: float = 0.25
) -> Layout:
    """Lays nodes out in rows, so that all edges go down.

    Args:
        reads: node -> the nodes that it reads, in an order in which all of these come before it.
        bands: nodes before which a new band of rows begins: what comes later lies below all that
            comes earlier.
        thin: width of an edge between nodes.

    >>> diamond = layered({0: (), 1: (0,), 2: (0,), 3: (1, 2)})
    >>> [diamond.places[i][1] for i in range(4)], diamond.places[0][0] == diamond.places[3][0]
    ([0, 1, 1, 2], True)
    """
    row = _rows(reads, bands)
    up: dict[Node, list[Node]] = {node: [] for node in reads}
    at: dict[Node, int] = {**row}
    chains = {}
    for node, sources in reads.items():
        for source in sources:
            chain = [(source, node, r) for r in range(row[source] + 1, row[node])]
            at.update(((source, node, r), r) for _, _, r in chain)
            for upper, lower in zip([source, *chain], [*chain, node], strict=True):
                up.setdefault(lower, []).append(upper)
            chains[source, node] = chain
    down: dict[Node, list[Node]] = {node: [] for node in at}
    for lower, uppers in up.items():
        for upper in uppers:
            down[upper].append(lower)
    rows: list[list[Node]] = [[] for _ in range(max(row.values(), default=-1) + 1)]
    for node, r in at.items():
        rows[r].append(node)
    width = {node: thin if isinstance(node, tuple) else 1.0 for node in at}
    x = {node: float(i) for nodes in rows for i, node in enumerate(nodes)}
    for sweep in range(_SWEEPS):
        towards = down if sweep % 2 else up
        for nodes in reversed(rows) if sweep % 2 else rows:
            wanted = {n: _mean(x, towards.get(n, ()), x[n]) for n in nodes}
            _align(sorted(nodes, key=lambda n: (wanted[n], x[n])), x, width, wanted)
    lines = _lines(reads, up, down)
    for _ in range(_SWEEPS):
        # Long edges are to be straight; other nodes follow one another, not the edges that pass.
        wanted = {n: m for c in chains.values() for m in [_mean(x, c, 0.0)] for n in c}
        for line in lines:
            beside = [*_nodes(up[line[0]]), *_nodes(down[line[-1]])]
            wanted.update(dict.fromkeys(line, _mean(x, [*line, *beside], 0.0)))
        for nodes in rows:
            _align(sorted(nodes, key=lambda n: x[n]), x, width, wanted)
    places = {node: (x[node], row[node]) for node in reads}
    bends = {edge: [(x[n], n[2]) for n in chain] for edge, chain in chains.items()}
    return Layout(places, bends)


def _rows(reads: Mapping[int, Sequence[int]], bands: Sequence[int]) -> dict[int, int]:
    """Each node one row below the lowest of those that it reads."""
    rows: dict[int, int] = {}
    floor = 0
    for node, sources in reads.items():
        if node in bands:
            floor = max(rows.values(), default=-1) + 1
        rows[node] = max([floor, *(rows[source] + 1 for source in sources)])
    return rows


def _lines(
    reads: Mapping[int, Sequence[int]],
    up: Mapping[Node, Sequence[Node]],
    down: Mapping[Node, Sequence[Node]],
) -> list[list[Node]]:
    """All nodes, in lines of what follows one another, but for edges that pass rows."""
    line_of: dict[Node, list[Node]] = {}
    for node in reads:
        above = _nodes(up[node])
        single = len(above) == 1 and len(_nodes(down[above[0]])) == 1
        line_of[node] = line_of[above[0]] if single else []
        line_of[node].append(node)
    return [line for node, line in line_of.items() if line[0] == node]


def _nodes(found: Sequence[Node]) -> list[Node]:
    return [n for n in found if not isinstance(n, tuple)]


def _mean(x: Mapping[Node, float], nodes: Sequence[Node], otherwise: float) -> float:
    return sum(x[n] for n in nodes) / len(nodes) if nodes else otherwise


def _align(
    nodes: Sequence[Node],
    x: dict[Node, float],
    width: Mapping[Node, float],
    wanted: Mapping[Node, float],
) -> None:
    """Moves the nodes of a row, which are in order, to where they want to be, but not together."""
    # Those that want to be too near to one another become a block at the mean of what they want:
    # the least squares solution (pool adjacent violators).
    blocks: list[list[float]] = []  # the sum of where the row would begin, the count
    offsets, offset = [], 0.0
    for node in nodes:
        offsets.append(offset + width[node] / 2)
        offset += width[node]
        blocks.append([wanted[node] - offsets[-1], 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    starts = [total / count for total, count in blocks for _ in range(int(count))]
    for node, start, offset in zip(nodes, starts, offsets, strict=True):
        x[node] = start + offset
