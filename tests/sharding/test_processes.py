"""Two processes, each with two of four devices, explain what one device explains."""

from __future__ import annotations

import socket
import subprocess
import sys

import numpy as np
import pytest

import relprop

SCRIPT = """
import sys

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, number = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(number))

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec as P

import relprop
from relprop.rules import Epsilon

assert jax.device_count() == 4 and jax.local_device_count() == 2
# Tensors are split between the processes.
mesh = jax.make_mesh((2, 2), ("t", "d"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
rng = np.random.default_rng(0)
arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 16), (16, 8))]
specs = P("d"), P(None, "t"), P("t", None)
put = [
    jax.make_array_from_callback(a.shape, NamedSharding(mesh, s), lambda index, a=a: a[index])
    for a, s in zip(arrays, specs, strict=True)
]

def score(mlp):
    return lambda x, up, down: jnp.sum(jnp.tanh(mlp(x, up, down)))

def mlp(x, up, down):
    return jax.nn.gelu(x @ up) @ down

def parts(x, up, down):
    return lax.psum(mlp(x, up, down), "t")

spread = jax.shard_map(parts, mesh=mesh, in_specs=specs, out_specs=P("d"))
expected = relprop.relevance(score(mlp), Epsilon(0.1))(*arrays)
for f in (mlp, spread):
    value, R = jax.jit(relprop.value_and_relevance(score(f), Epsilon(0.1)))(*put)
    assert R.sharding.spec == P("d"), R.sharding
    for shard in R.addressable_shards:
        np.testing.assert_allclose(shard.data, expected[shard.index], rtol=1e-4, atol=1e-5)
print("equal", float(value))
"""


#: A job whose processes begin at the same moment, each with two devices.
JOB = """
import sys

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
port, number, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(number))

import numpy as np

from relprop import jobs
from relprop.rules import Zero

x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
w = np.arange(1.0, 5.0, dtype=np.float32)
jobs.explain(lambda x: (x * w).sum(), Zero(), x, out, 8, batches_per_chunk=1, progress=False)
print("equal", number)
"""


def run_two(script, *args):
    """Runs a script in two processes that find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(port), str(number), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in started:
            out, error = process.communicate(timeout=300)
            assert process.returncode == 0, error[-3000:]
            assert "equal" in out
    finally:
        for process in started:
            process.kill()


def test_two_processes():
    run_two(SCRIPT)


def test_a_job_of_two_processes(tmp_path):
    pytest.importorskip("zarr", reason="stores are an extra")
    run_two(JOB, str(tmp_path / "out"))
    found = relprop.load(tmp_path / "out")
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    assert found.is_complete and not found.errors
    np.testing.assert_array_equal(np.asarray(found.relevance), x * np.arange(1.0, 5.0, dtype="f4"))
