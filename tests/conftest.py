import ctypes
import gc
import itertools
import os
import pathlib

# In the environment, so that processes which tests start are set likewise. Compiled programs are
# kept on disk: the workers share them, and the next run finds them. Most are small and many, so
# none is too small to keep.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest
from hypothesis import settings

# Plugins may have imported JAX already; it reads the variables only then.
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update(
    "jax_persistent_cache_min_compile_time_secs",
    float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
)
jax.config.update(
    "jax_persistent_cache_min_entry_size_bytes",
    int(os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"]),
)
# As many devices as tests/sharding needs; everything else runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
# Accidental broadcasting between arrays of different rank is a classical source of wrong numbers.
jax.config.update("jax_numpy_rank_promotion", "raise")

LIBC = ctypes.CDLL(None)

settings.register_profile("relprop", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("relprop")


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Keeps a worker small: what one module compiled is of no use in memory to the next."""
    yield
    jax.clear_caches()
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):  # glibc gives nothing back to the system unless asked
        LIBC.malloc_trim(0)


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
def optimised(unoptimised):
    """All that XLA can do: for a test of what it makes of a program, in such a module."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def get_key():
    """A function that gives a new random key with each call, the same ones in each run."""
    seeds = itertools.count()
    return lambda: jax.random.key(next(seeds))
