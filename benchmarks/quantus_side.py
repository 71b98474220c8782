"""The other side of `faithfulness`: runs where Quantus is installed, and knows nothing of relprop.

    python quantus_side.py MODEL FILE.npz RUNS METRIC ...

Prints CPU seconds per sample of each metric, as JSON in the last line.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
import quantus  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

PLAIN = {"normalise": False, "abs": False, "disable_warnings": True, "perturb_baseline": 0.0}
OPTIONS = {
    "PixelFlipping": {"features_in_step": 1},
    "RegionPerturbation": {"patch_size": 2, "regions_evaluation": 16},
    "Selectivity": {"patch_size": 2},
    "FaithfulnessEstimate": {"features_in_step": 1},
    "FaithfulnessCorrelation": {"subset_size": 8, "nr_runs": 100},
    "Monotonicity": {"features_in_step": 1},
    "MonotonicityCorrelation": {"features_in_step": 1, "nr_samples": 10},
    "SensitivityN": {"n_max_percentage": 0.5, "features_in_step": 8},
    "ROAD": {"percentages": [10, 30, 50]},
}


class Bundled(torch.nn.Module):
    """The bundled models by their weights, with channels first."""

    def __init__(self, name, given):
        super().__init__()
        self.name = name
        self.w = {k: torch.tensor(v) for k, v in given.items() if "/" in k or v.ndim == 3}
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # a device, which Quantus asks for

    def forward(self, x):
        return self.cnn(x.float()) if self.name == "digits-cnn" else self.vit(x.float())

    def dense(self, name, x):
        return x @ self.w[f"{name}/kernel"] + self.w[f"{name}/bias"]

    def cnn(self, x):
        for i in (1, 2, 3):
            x = F.conv2d(x, self.w[f"conv{i}/kernel"].permute(3, 2, 0, 1), padding=1)
            names = ("mean", "var", "scale", "bias")
            x = torch.relu(F.batch_norm(x, *(self.w[f"norm{i}/{n}"] for n in names)))
            x = (lambda a: a, lambda a: F.max_pool2d(a, 2), lambda a: F.avg_pool2d(a, 2))[i - 1](x)
        return self.dense("head", x.permute(0, 2, 3, 1).flatten(1))

    def norm(self, name, x):
        scale, bias = self.w[f"{name}/scale"], self.w[f"{name}/bias"]
        return F.layer_norm(x, x.shape[-1:], scale, bias, 1e-6)

    def vit(self, x):
        kernel = self.w["patches/kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, self.w["patches/bias"], stride=2).flatten(2).transpose(1, 2)
        x = torch.cat([self.w["class_token"].expand(len(x), 1, -1), x], 1) + self.w["positions"]
        for block in ("block1", "block2"):
            seen = self.norm(f"{block}/norm1", x)
            parts = [
                self.dense(f"{block}/attention/{n}", seen).unflatten(-1, (4, -1)).transpose(1, 2)
                for n in ("query", "key", "value")
            ]
            mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
            x = x + self.dense(f"{block}/attention/out", mixed)
            hidden = self.dense(f"{block}/mlp/up", self.norm(f"{block}/norm2", x))
            x = x + self.dense(f"{block}/mlp/down", F.gelu(hidden, approximate="tanh"))
        return self.dense("head", self.norm("norm", x)[:, 0])


def main() -> None:
    warnings.filterwarnings("ignore")
    name, file, runs, *names = sys.argv[1:]
    with np.load(file) as loaded:
        given = dict(loaded)
    x, R = (np.moveaxis(given.pop(key), -1, 1) for key in ("x", "R"))
    y = given.pop("target")
    model = Bundled(name, given).eval()
    with torch.no_grad():
        right = float((model(torch.tensor(x)).argmax(1).numpy() == y).mean())
    if right < 0.8:
        raise SystemExit(f"the weights do not fit: right about {right:.0%}")
    found = {metric: timed(metric, model, x, y, R, int(runs)) for metric in names}
    print(json.dumps(found))


def timed(name, model, x, y, R, runs):
    plain = {k: v for k, v in PLAIN.items() if name != "ROAD" or k != "perturb_baseline"}
    try:
        metric = getattr(quantus, name)(**OPTIONS[name], **plain)
        seconds = []
        for _ in range(runs):
            start = time.process_time()
            metric(model=model, x_batch=x, y_batch=y, a_batch=R, softmax=False, channel_first=True)
            seconds.append((time.process_time() - start) / len(x))
    except Exception as error:  # a peer that fails is a finding, not the end of the run
        return f"fails: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return min(seconds)


if __name__ == "__main__":
    main()
