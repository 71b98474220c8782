"""What repeats, and where nodes are put."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from relprop.plots._layers import Repeat, repeats
from relprop.plots._layout import layered

pytestmark = pytest.mark.frameworks


@given(
    st.lists(st.integers(0, 3), max_size=6),
    st.lists(st.integers(4, 9), min_size=1, max_size=6, unique=True),
    st.integers(2, 12),
    st.lists(st.integers(10, 13), max_size=6),
)
def test_a_block_that_repeats_is_found(before, block, count, after):
    things = [*before, *block * count, *after]
    wanted = Repeat(len(before), len(block), count)
    found = repeats(things, least=max((count - 1) * len(block), 7))
    if (count - 1) * len(block) >= 7:
        assert found == [wanted]
    for repeat in repeats(things):
        turns = [[things[i] for i in turn] for turn in repeat.turns()]
        assert len(turns) == repeat.count > 1 and all(turn == turns[0] for turn in turns)
    stops = [(r.start, r.stop) for r in repeats(things)]
    assert all(stop <= start for (_, stop), (start, _) in zip(stops, stops[1:], strict=False))


def test_a_block_begins_where_one_value_passes():
    # What stands before the first block looks like the second half of all, but the sum that ends a
    # block reads its beginning, so that two values pass everywhere but there.
    things = ["a", "b", "dense", "sum", *["norm", "dense", "sum"] * 3]
    reads = [(-1,), (-1,), (0,), (1, 2)]
    for i in range(4, 13, 3):
        reads += [(i - 1,), (i,), (i - 1, i + 1)]
    assert repeats(things) == [Repeat(2, 3, 3)]
    assert repeats(things, reads) == [Repeat(4, 3, 3)]


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    return {
        n: tuple(draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True))) if n else ()
        for n in range(count)
    }


@given(graphs(), st.integers(1, 13))
def test_edges_go_down_and_nothing_overlaps(reads, band):
    layout = layered(reads, [band] if band in reads else [])
    for node, sources in reads.items():
        for source in sources:
            rows = [layout.places[source][1]]
            rows += [row for _, row in layout.bends[source, node]]
            rows += [layout.places[node][1]]
            assert rows == list(range(rows[0], rows[-1] + 1)) and len(rows) > 1
    if band in reads:
        above = [row for node, (_, row) in layout.places.items() if node < band]
        below = [row for node, (_, row) in layout.places.items() if node >= band]
        assert max(above) < min(below)
    for node, (x, row) in layout.places.items():
        for other, (y, same) in layout.places.items():
            assert node == other or row != same or abs(x - y) > 1 - 1e-6
        for bend in layout.bends.values():
            for y, same in bend:
                assert row != same or abs(x - y) > 0.5


def test_a_chain_is_straight():
    layout = layered({0: (), 1: (0,), 2: (1,), 3: (2,), 4: (3, 0)})
    assert len({round(x, 2) for x, _ in layout.places.values()}) == 1
    assert len({round(x, 2) for x, _ in layout.bends[0, 4]}) == 1
