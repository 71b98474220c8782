"""Which explanation is right, measured: tables of methods and metrics, and a choice of rules."""

from relprop.evaluation import protocols as protocols
from relprop.evaluation._choose import Choice as Choice
from relprop.evaluation._choose import Family as Family
from relprop.evaluation._choose import choose as choose
from relprop.evaluation._evaluate import evaluate as evaluate
from relprop.evaluation._methods import edges as edges
from relprop.evaluation._methods import random as random
from relprop.evaluation._metrics import Metric as Metric
from relprop.evaluation._metrics import names as names
from relprop.evaluation._rows import Row as Row
from relprop.evaluation._table import Evaluation as Evaluation

__all__ = [
    "Choice",
    "Evaluation",
    "Family",
    "Metric",
    "Row",
    "choose",
    "edges",
    "evaluate",
    "names",
    "protocols",
    "random",
]
