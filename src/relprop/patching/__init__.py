"""Attribution patching: what nodes and edges inside a function do to a score.

A clean and a corrupted input differ in what is asked about. What does one node of the function have
to do with the difference of their scores? Exactly that is said by an evaluation with its
corrupted value patched into the clean run. A coefficient times the change of the value estimates
it, for all nodes in one backward pass; rules say which coefficient.
"""

from relprop.patching._circuit import Circuit as Circuit
from relprop.patching._circuit import circuit_score as circuit_score
from relprop.patching._circuit import top as top
from relprop.patching._edges import Edges as Edges
from relprop.patching._edges import edges as edges
from relprop.patching._faithfulness import Faithfulness as Faithfulness
from relprop.patching._faithfulness import auroc as auroc
from relprop.patching._faithfulness import completeness as completeness
from relprop.patching._faithfulness import faithfulness as faithfulness
from relprop.patching._faithfulness import minimality as minimality
from relprop.patching._nodes import nodes as nodes

__all__ = [
    "Circuit",
    "Edges",
    "Faithfulness",
    "auroc",
    "circuit_score",
    "completeness",
    "edges",
    "faithfulness",
    "minimality",
    "nodes",
    "top",
]
