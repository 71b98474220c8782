"""Rules chosen by measurement on planted tasks: are the presets' defaults the best there are?"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

import relprop
from evidence.measure import SEED
from relprop import metrics, presets, truth
from relprop.evaluation import Family
from relprop.rules import Epsilon, Gamma

GAMMAS = [0.0, *np.geomspace(0.01, 100, 15).round(4).tolist()]


def of_dense(data: truth.Planted) -> Family:
    """One gamma for all layers, against `Epsilon`."""
    del data
    return Family(lambda gamma: Gamma(gamma), {"gamma": GAMMAS}, default=Epsilon(1e-6))


def of_images(data: truth.Planted) -> Family:
    """A gamma for the convolutions and one for the head, against `epsilon_gamma_box`."""
    low, high = float(data.x.min()), float(data.x.max())

    def make(convolutions: Any, head: Any) -> relprop.Composite:
        return (
            relprop.Composite()
            .at(structure="convolution", optional=True)
            .use(Gamma(convolutions))
            .at(structure="dense", optional=True)
            .use(Gamma(head))
        )

    grid = {"convolutions": GAMMAS[::3], "head": GAMMAS[::3]}
    return Family(make, grid, default=presets.epsilon_gamma_box(low=low, high=high))


#: Task -> the family that is searched, and what the default is called.
FAMILIES = {
    "interactions": (of_dense, "`Epsilon(1e-6)`"),
    "tetrominoes-linear-8": (of_images, "`epsilon_gamma_box`"),
}


def chosen(name: str, samples: int) -> dict[str, Any]:
    """The choice by ABPC on half of the samples, and its gain on the other half."""
    begin = time.process_time()
    family, default = FAMILIES[name]
    task = truth.load(name)
    data = task.data(samples, SEED)
    count = int(data.features.max()) + 1
    metric = functools.partial(
        metrics.abpc, steps=min(16, count), features=data.features, fill=data.fill
    )
    choice = relprop.choose((task.fn, task.params), data, family(data), metric, seed=SEED)
    best, standard = choice[0], choice[len(choice) - 1]
    return {
        "task": name,
        "default": default,
        "settings": len(family(data).settings()),
        "verdict": choice.verdict,
        "better": choice.setting is not None,
        "setting": {k: round(float(v), 4) for k, v in (best.setting or {}).items()},
        "reported": float(np.nanmean(best.reported)),
        "of_default": float(np.nanmean(standard.reported)),
        "gain": list(best.gain),
        "samples": samples,
        "cpu_seconds": time.process_time() - begin,
    }
