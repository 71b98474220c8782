import itertools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import settings

# Plugins may have imported JAX already; it reads the variable only then.
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
# As many devices as tests/sharding needs; everything else runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
# Accidental broadcasting between arrays of different rank is a classical source of wrong numbers.
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("relprop", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("relprop")


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def unoptimised():
    """Spares XLA the trouble: for modules that compile much and run it once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def get_key():
    """A function that gives a new random key with each call, the same ones in each run."""
    seeds = itertools.count()
    return lambda: jax.random.key(next(seeds))
