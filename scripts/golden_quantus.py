"""Makes tests/data/quantus.npz: what Quantus 0.6.0 says of shared arrays, as a black box.

It needs an environment of its own: pip install quantus==0.6.0 torch==2.13.0 (CPU). Then

    python scripts/golden_quantus.py tests/data/quantus.npz
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import quantus
import torch

warnings.filterwarnings("ignore")
torch.set_default_dtype(torch.float64)
RNG = np.random.default_rng(0)
COUNT, SIDE, CLASSES = 3, 8, 4
PLAIN = {"normalise": False, "abs": False, "disable_warnings": True}


class Net(torch.nn.Module):
    """A convolution, a pooling and a dense layer; one sample is a map of 8 by 8."""

    def __init__(self, weights):
        super().__init__()
        self.kernel, self.bias, self.dense = (torch.nn.Parameter(torch.tensor(w)) for w in weights)

    def forward(self, x):
        x = x.to(torch.float64)
        h = torch.relu(torch.nn.functional.conv2d(x, self.kernel, self.bias, padding=1))
        h = torch.nn.functional.avg_pool2d(h, 2).flatten(1)
        return h @ self.dense


def main(path: str) -> None:
    weights = {
        "kernel": RNG.normal(size=(5, 1, 3, 3)),
        "bias": RNG.normal(size=5),
        "dense": RNG.normal(size=(80, CLASSES)) / 4,
    }
    model = Net(weights.values()).eval()
    x = RNG.normal(size=(COUNT, 1, SIDE, SIDE))
    with torch.no_grad():
        y = model(torch.tensor(x)).argmax(1).numpy()
    relevance = RNG.normal(size=x.shape)
    mask = np.zeros(x.shape)
    for i in range(COUNT):
        mask[i, :, i : i + 4, 2 : 5 + i] = 1
    masked = quantus_of(model, x, y, relevance, mask)
    positive = {
        f"positive {name}": value
        for name, value in localisation(model, x, y, np.abs(relevance), mask).items()
    }
    np.savez_compressed(
        path, x=x, y=y, relevance=relevance, mask=mask, **weights, **masked, **positive
    )
    for name, value in (masked | positive).items():
        print(name, np.shape(value), np.ravel(value)[:6])


def quantus_of(model, x, y, relevance, mask) -> dict[str, np.ndarray]:
    def run(metric, a=relevance, s=None, **more):
        found = metric(
            model=model,
            x_batch=x,
            y_batch=y,
            a_batch=a,
            s_batch=s,
            softmax=False,
            channel_first=True,
            **more,
        )
        return np.asarray(found, float)

    black = {**PLAIN, "perturb_baseline": 0.0}
    road = quantus.ROAD(percentages=[10, 40, 70], noise=0.0, **PLAIN)(
        model=model, x_batch=x, y_batch=y, a_batch=relevance, softmax=False, channel_first=True
    )
    found = {
        "pixel_flipping": run(quantus.PixelFlipping(features_in_step=1, **black)),
        "pixel_flipping_4": run(quantus.PixelFlipping(features_in_step=4, **black)),
        "region_perturbation": run(
            quantus.RegionPerturbation(patch_size=2, regions_evaluation=16, **black)
        ),
        "selectivity": run(quantus.Selectivity(patch_size=2, **black)),
        "faithfulness_estimate": run(quantus.FaithfulnessEstimate(**black)),
        "monotonicity": run(quantus.Monotonicity(**black)),
        "road": np.array([road[percentage] for percentage in (10, 40, 70)], float),
        "sparseness": run(quantus.Sparseness(**PLAIN | {"abs": True})),
        "complexity": run(quantus.Complexity(**PLAIN | {"abs": True})),
        "effective_complexity": run(quantus.EffectiveComplexity(eps=0.3, **PLAIN | {"abs": True})),
        "top_k": run(quantus.TopKIntersection(k=9, **PLAIN), s=mask),
    }
    return found | localisation(model, x, y, relevance, mask)


def localisation(model, x, y, relevance, mask) -> dict[str, np.ndarray]:
    kinds = {
        "pointing_game": quantus.PointingGame(**PLAIN),
        "relevance_mass": quantus.RelevanceMassAccuracy(**PLAIN),
        "relevance_rank": quantus.RelevanceRankAccuracy(**PLAIN),
        "auc": quantus.AUC(**PLAIN),
        "attribution_localisation": quantus.AttributionLocalisation(**PLAIN),
        "weighted_localisation": quantus.AttributionLocalisation(weighted=True, **PLAIN),
    }
    return {
        name: np.asarray(
            metric(model=model, x_batch=x, y_batch=y, a_batch=relevance, s_batch=mask), float
        )
        for name, metric in kinds.items()
    }


if __name__ == "__main__":
    main(sys.argv[1])
