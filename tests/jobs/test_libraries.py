"""Sources and engines of other libraries, where they are installed."""

from __future__ import annotations

import importlib
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("zarr", reason="stores are an extra")

from relprop import jobs
from relprop.rules import Zero

pytestmark = pytest.mark.frameworks
X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
W = np.arange(1.0, 5.0, dtype=np.float32)


def score(x):
    return jnp.dot(x, W)


def of_row(row):
    return score(row["x"])


def check(found, name="x"):
    relevance = found.relevance[name] if isinstance(found.relevance, dict) else found.relevance
    np.testing.assert_allclose(np.asarray(relevance), X * W, rtol=1e-5)
    assert found.is_complete and not found.errors


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    source = datasets.Dataset.from_dict({"x": X.tolist(), "label": list(range(50))})
    row = source.with_format("numpy")
    check(jobs.explain(of_row, Zero(), row, tmp_path / "out", 8, progress=False))


def test_grain(tmp_path):
    grain = pytest.importorskip("grain")
    source = grain.MapDataset.source([{"x": x} for x in X])
    check(jobs.explain(of_row, Zero(), source, tmp_path / "out", 8, progress=False))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    (tmp_path / "tables").mkdir()
    for part in range(2):
        table = pyarrow.table({"x": X[25 * part : 25 * part + 25].tolist()})
        parquet.write_table(table, tmp_path / "tables" / f"{part}.parquet", row_group_size=7)
    source = tmp_path / "tables"
    check(jobs.explain(of_row, Zero(), source, tmp_path / "out", 8, progress=False))


class Dying:
    """Kills its worker at one row, the first time that anybody comes to it."""

    def __init__(self, marker):
        self.marker = marker

    def __call__(self, x):
        if np.allclose(x, X[31]) and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return x


@pytest.mark.filterwarnings("ignore")  # of Ray itself
def test_ray_with_a_worker_that_dies(tmp_path):
    ray = pytest.importorskip("ray")
    importlib.import_module("ray.data")

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        source = ray.data.from_items([{"x": x, "id": i} for i, x in enumerate(X)])
        found = source.map_batches(
            jobs.RayExplainer,
            fn_constructor_kwargs={
                "score": lambda x: (x * W).sum(),
                "rules": Zero(),
                "column": "x",
                "batch_size": 8,
                "prepare": Dying(str(tmp_path / "died")),
            },
            batch_size=8,
            concurrency=2,
        )
        rows = sorted(found.take_all(), key=lambda row: row["id"])
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    assert [row["id"] for row in rows] == [*range(50)]
    np.testing.assert_allclose([row["relevance"] for row in rows], X * W, rtol=1e-5)
    assert not any(row["error"] for row in rows)


def test_a_row_of_several_columns_and_shapes():
    explainer = jobs.RayExplainer(
        lambda row: (row["x"] * 2).sum(), {"zero": Zero()}, batch_size=4, ignored=("id",)
    )
    ragged = np.empty(3, object)
    ragged[:] = [np.ones(2, np.float32), np.full(2, np.nan, np.float32), np.ones(3, np.float32)]
    out = explainer({"x": ragged, "id": np.arange(3)})
    assert [len(r) for r in out["zero/relevance/x"]] == [2, 2, 3]
    assert out["error"].tolist() == ["", "NaN or infinity in the score or the relevance", ""]
    with pytest.raises(ValueError, match="batch_size is 4"):
        explainer({"x": np.ones((5, 2), np.float32)})
