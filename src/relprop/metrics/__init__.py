"""Metrics of explanations: pure functions of a score, a sample and its relevance.

``f`` maps one sample to its score. All can be jitted, and vmapped over samples, relevances and
targets; what makes many evaluations takes a `batch_size`, which bounds its memory, and what needs
chance takes a `key`. What is refused where arrays are known, such as NaN in the relevance, gives
NaN where they are traced. `relprop.evaluate` makes tables of them.
"""

from relprop.metrics import features as features
from relprop.metrics import fills as fills
from relprop.metrics._agreement import faithfulness_correlation as faithfulness_correlation
from relprop.metrics._agreement import faithfulness_estimate as faithfulness_estimate
from relprop.metrics._agreement import infidelity as infidelity
from relprop.metrics._agreement import monotonicity as monotonicity
from relprop.metrics._agreement import monotonicity_correlation as monotonicity_correlation
from relprop.metrics._agreement import sensitivity_n as sensitivity_n
from relprop.metrics._axioms import completeness as completeness
from relprop.metrics._axioms import input_invariance as input_invariance
from relprop.metrics._axioms import non_sensitivity as non_sensitivity
from relprop.metrics._axioms import unexplained as unexplained
from relprop.metrics._complexity import effective_complexity as effective_complexity
from relprop.metrics._complexity import entropy as entropy
from relprop.metrics._complexity import sparseness as sparseness
from relprop.metrics._curves import abpc as abpc
from relprop.metrics._curves import aopc as aopc
from relprop.metrics._curves import area as area
from relprop.metrics._curves import comprehensiveness as comprehensiveness
from relprop.metrics._curves import deletion as deletion
from relprop.metrics._curves import insertion as insertion
from relprop.metrics._curves import perturbation_curve as perturbation_curve
from relprop.metrics._curves import sufficiency as sufficiency
from relprop.metrics._f_fidelity import f_fidelity as f_fidelity
from relprop.metrics._f_fidelity import remove_at_random as remove_at_random
from relprop.metrics._localisation import attribution_localisation as attribution_localisation
from relprop.metrics._localisation import auc as auc
from relprop.metrics._localisation import focus as focus
from relprop.metrics._localisation import pointing_game as pointing_game
from relprop.metrics._localisation import relevance_mass as relevance_mass
from relprop.metrics._localisation import relevance_rank as relevance_rank
from relprop.metrics._localisation import top_k_intersection as top_k_intersection
from relprop.metrics._overlap import average_precision as average_precision
from relprop.metrics._overlap import mean_iou as mean_iou
from relprop.metrics._overlap import pixel_accuracy as pixel_accuracy
from relprop.metrics._published import irof as irof
from relprop.metrics._published import pixel_flipping as pixel_flipping
from relprop.metrics._published import region_perturbation as region_perturbation
from relprop.metrics._published import road as road
from relprop.metrics._published import selectivity as selectivity
from relprop.metrics._randomisation import efficient_mprt as efficient_mprt
from relprop.metrics._randomisation import mprt as mprt
from relprop.metrics._randomisation import random_logit as random_logit
from relprop.metrics._randomisation import smooth_mprt as smooth_mprt
from relprop.metrics._robustness import avg_sensitivity as avg_sensitivity
from relprop.metrics._robustness import continuity as continuity
from relprop.metrics._robustness import local_lipschitz as local_lipschitz
from relprop.metrics._robustness import max_sensitivity as max_sensitivity
from relprop.metrics._robustness import relative_input_stability as relative_input_stability
from relprop.metrics._robustness import relative_output_stability as relative_output_stability
from relprop.metrics._robustness import (
    relative_representation_stability as relative_representation_stability,
)
from relprop.metrics._similarity import cosine as cosine
from relprop.metrics._similarity import pearson as pearson
from relprop.metrics._similarity import spearman as spearman
from relprop.metrics._similarity import ssim as ssim

__all__ = [
    "abpc",
    "aopc",
    "area",
    "attribution_localisation",
    "auc",
    "average_precision",
    "avg_sensitivity",
    "completeness",
    "comprehensiveness",
    "continuity",
    "cosine",
    "deletion",
    "effective_complexity",
    "efficient_mprt",
    "entropy",
    "f_fidelity",
    "faithfulness_correlation",
    "faithfulness_estimate",
    "features",
    "fills",
    "focus",
    "infidelity",
    "input_invariance",
    "insertion",
    "irof",
    "local_lipschitz",
    "max_sensitivity",
    "mean_iou",
    "monotonicity",
    "monotonicity_correlation",
    "mprt",
    "non_sensitivity",
    "pearson",
    "perturbation_curve",
    "pixel_accuracy",
    "pixel_flipping",
    "pointing_game",
    "random_logit",
    "region_perturbation",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "relevance_mass",
    "relevance_rank",
    "remove_at_random",
    "road",
    "selectivity",
    "sensitivity_n",
    "smooth_mprt",
    "sparseness",
    "spearman",
    "ssim",
    "sufficiency",
    "top_k_intersection",
    "unexplained",
]
