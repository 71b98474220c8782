"""Networks that hypothesis draws: any spelling, wrappers, position, exposure and numbers.

More of them: ``python -m tests.metamorphic --examples 5000``.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from .drawn import fits, positions_of
from .grammar import PIECES
from .judge import Judge, table
from .networks import EXPOSURES, Network
from .wrappers import WRAPPERS

judge = Judge(("gamma", "epsilon_plus_flat", "attn_lrp", "cp_lrp", "chefer"))


@st.composite
def networks(draw):
    piece = PIECES[draw(st.sampled_from(list(PIECES)))]
    wrappers = st.sampled_from([w for w in WRAPPERS if fits(piece.name, w)])
    return Network(
        piece.name,
        draw(st.sampled_from(piece.names)),
        tuple(draw(st.lists(wrappers, max_size=2))),
        draw(st.sampled_from(positions_of(piece))),
        draw(st.sampled_from(EXPOSURES)),
        draw(st.integers(0, 2)),
    )


@settings(max_examples=40)
@given(network=networks())
def test_the_same_network_the_same_relevance(network):
    verdicts = judge(network)
    assert not any(v.fails for v in verdicts), table(verdicts)
