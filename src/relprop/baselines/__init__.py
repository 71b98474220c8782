"""Gradient and perturbation baselines, to compare relevance with.

Every method is a transform, as `relprop.relevance` is: it takes a function that returns a real
scalar and gives one of the same arguments that returns the attribution, structured as the explained
arguments are. The result can be jitted and vmapped; what needs many evaluations takes a
`batch_size`, which bounds its memory, and what needs chance takes a `key`.
"""

from relprop.baselines._ablation import feature_ablation as feature_ablation
from relprop.baselines._ablation import occlusion as occlusion
from relprop.baselines._deeplift import deeplift as deeplift
from relprop.baselines._deeplift import rescale as rescale
from relprop.baselines._deeplift import reveal_cancel as reveal_cancel
from relprop.baselines._gradcam import gradcam as gradcam
from relprop.baselines._gradcam import gradcam_plus_plus as gradcam_plus_plus
from relprop.baselines._gradients import gradient as gradient
from relprop.baselines._gradients import gradient_times_input as gradient_times_input
from relprop.baselines._integrated import expected_gradients as expected_gradients
from relprop.baselines._integrated import integrated_gradients as integrated_gradients
from relprop.baselines._noise import smooth_grad as smooth_grad
from relprop.baselines._noise import var_grad as var_grad
from relprop.baselines._regression import Lasso as Lasso
from relprop.baselines._regression import Ridge as Ridge
from relprop.baselines._surrogate import kernel_shap as kernel_shap
from relprop.baselines._surrogate import lime as lime

__all__ = [
    "Lasso",
    "Ridge",
    "deeplift",
    "expected_gradients",
    "feature_ablation",
    "gradcam",
    "gradcam_plus_plus",
    "gradient",
    "gradient_times_input",
    "integrated_gradients",
    "kernel_shap",
    "lime",
    "occlusion",
    "rescale",
    "reveal_cancel",
    "smooth_grad",
    "var_grad",
]
