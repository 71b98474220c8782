"""relprop: relevance propagation as a JAX transformation.

>>> import jax, jax.numpy as jnp, relprop
>>> W = jnp.array([[1.0, -1.0], [2.0, 0.5], [0.0, 3.0]])
>>> f = lambda x: jax.nn.softmax(x @ W)[0]
>>> relprop.relevance(f, relprop.rules.Epsilon(1e-6))(jnp.arange(3.0)).shape
(3,)

Everything public is in this module, `relprop.rules`, `relprop.presets`, `relprop.propagators`,
`relprop.chefer` and `relprop.zoo`. Modules with a leading underscore may change without notice.
"""

from relprop import baselines as baselines
from relprop import chefer as chefer
from relprop import concepts as concepts
from relprop import edits as edits
from relprop import evaluation as evaluation
from relprop import graphs as graphs
from relprop import interop as interop
from relprop import jobs as jobs
from relprop import metrics as metrics
from relprop import pairs as pairs
from relprop import patching as patching
from relprop import places as places
from relprop import presets as presets
from relprop import propagators as propagators
from relprop import pruning as pruning
from relprop import rules as rules
from relprop import structures as structures
from relprop import tokens as tokens
from relprop import truth as truth
from relprop._core.region import region as region
from relprop._errors import ClosedOverWarning as ClosedOverWarning
from relprop._errors import ConservationWarning as ConservationWarning
from relprop._errors import ForwardError as ForwardError
from relprop._errors import GrowthWarning as GrowthWarning
from relprop._errors import InputError as InputError
from relprop._errors import JobError as JobError
from relprop._errors import MissingRuleError as MissingRuleError
from relprop._errors import NothingMatchedError as NothingMatchedError
from relprop._errors import RelpropError as RelpropError
from relprop._errors import RuleError as RuleError
from relprop._errors import SuspicionError as SuspicionError
from relprop._errors import SuspicionWarning as SuspicionWarning
from relprop._errors import TiesWarning as TiesWarning
from relprop._errors import UnknownNameError as UnknownNameError
from relprop._inspect import Inspection as Inspection
from relprop._inspect import PlannedOperation as PlannedOperation
from relprop._intervene import intervene as intervene
from relprop._intervene import values_at as values_at
from relprop._ledger import Fault as Fault
from relprop._ledger import Ledger as Ledger
from relprop._ledger import LedgerRow as LedgerRow
from relprop._splice import splice as splice
from relprop._transform import inspect as inspect
from relprop._transform import ledger as ledger
from relprop._transform import relevance as relevance
from relprop._transform import value_and_relevance as value_and_relevance
from relprop._transform import vrp as vrp
from relprop._version import VERSION
from relprop.attribution import transformer_attribution as transformer_attribution
from relprop.composites import Composite as Composite
from relprop.composites import Where as Where
from relprop.evaluation import choose as choose
from relprop.evaluation import evaluate as evaluate
from relprop.places import named as named
from relprop.saving import load as load
from relprop.saving import save as save
from relprop.structures import DEFAULTS as DEFAULTS

__version__ = VERSION

__all__ = [
    "DEFAULTS",
    "Composite",
    "ClosedOverWarning",
    "ConservationWarning",
    "Fault",
    "ForwardError",
    "GrowthWarning",
    "InputError",
    "JobError",
    "Inspection",
    "Ledger",
    "LedgerRow",
    "MissingRuleError",
    "NothingMatchedError",
    "PlannedOperation",
    "RelpropError",
    "RuleError",
    "SuspicionError",
    "SuspicionWarning",
    "TiesWarning",
    "UnknownNameError",
    "Where",
    "baselines",
    "chefer",
    "choose",
    "concepts",
    "edits",
    "evaluate",
    "evaluation",
    "graphs",
    "inspect",
    "interop",
    "intervene",
    "jobs",
    "ledger",
    "load",
    "metrics",
    "named",
    "pairs",
    "patching",
    "places",
    "presets",
    "propagators",
    "pruning",
    "region",
    "relevance",
    "rules",
    "splice",
    "save",
    "transformer_attribution",
    "tokens",
    "truth",
    "value_and_relevance",
    "values_at",
    "vrp",
]
