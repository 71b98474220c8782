import ctypes
import gc
import importlib.metadata
import itertools
import os
import pathlib
import resource

# In the environment, so that processes which tests start are set likewise. Compiled programs are
# kept on disk: the workers share them, and the next run finds them. Most are small and many, so
# none is too small to keep.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# XLA's older generator of code makes a program of one operation in half the time. Later releases
# don't have it any more, and end the process at a flag that they don't know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
    )

import jax
import jaxtyping
import pytest
from hypothesis import settings

from . import annotations

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
# A program is run once or twice here: most of what the compiler could do for it takes longer than
# it saves, fourfold where random numbers are drawn.
jax.config.update("jax_disable_most_optimizations", True)
# As many devices as tests/sharding needs; everything else runs on the first.
jax.config.update("jax_num_cpu_devices", 8)
# Accidental broadcasting between arrays of different rank is a classical source of wrong numbers,
# and so is a number that becomes another dtype where nobody asked for it.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Annotations are checked, with the shapes of arrays in them, where arrays are handled. A check
# takes a tenth of a millisecond: of the small functions that read graphs there are ten thousands of
# calls in one test, which would take twice the time. RELPROP_CHECK=all checks all of the package.
# This must come before anything imports relprop.
CHECKED = (
    "_arguments _transform baselines chefer.functional concepts metrics presets propagators rules"
)
packages = [f"relprop.{name}" for name in CHECKED.split()]
if os.environ.get("RELPROP_CHECK") == "all":
    packages = ["relprop"]
jaxtyping.install_import_hook(packages, "tests.annotations.checked")
import relprop  # noqa: E402, F401

from .uncompiled.fixtures import by_jax, by_numpy  # noqa: E402, F401

if os.environ.get("RELPROP_CHECK") != "all":
    annotations.leave_out_graphs(["relprop.propagators", "relprop.rules"])

settings.register_profile("relprop", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("relprop")


# The files that take longest, given out first: none is then left for one worker at the end while
# the other has nothing to do.
LONGEST = """
metamorphic/test_sample census/test_census test_notebook golden/test_zennit
core/test_gradient_parity app/test_browser attribution/test_transformer_attribution test_doctests
rules/test_parameters chefer/test_vit chefer/test_bert interop/test_torch_calls
test_framework_pages tokens/test_torch core/test_chains tokens/test_page
""".split()


def pytest_collection_modifyitems(items):
    tests = pathlib.Path(__file__).parent
    places = {tests / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish():
    """Of what is imported by now, nothing will be garbage: the collector need not look at it."""
    gc.collect()
    gc.freeze()
    # Traces make many objects, of which few are garbage.
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Around each test and its fixtures."""
    # Frameworks rely on implicit promotion of dtypes: with them it is as JAX has it by default.
    own = item.get_closest_marker("frameworks") is None
    # Not by a context, which threads, as those of the command line, know nothing of.
    jax.config.update("jax_numpy_dtype_promotion", "strict" if own else "standard")
    try:
        done = yield
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "strict")
    # Small programs are of use to the next module, too, until there are too many.
    if resident() > max(MEMORY, after_forgetting + GROWTH):
        forget()
    return done


@pytest.fixture
def unchecked():
    """For arguments that annotations forbid, and that are refused only when a result is called."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def leaks_are_errors():
    """No tracer may outlive its trace. JAX traces all anew for that, at four times the time."""
    with jax.checking_leaks():
        yield


# Bytes that a worker may hold, and may grow by where it cannot forget what it holds.
MEMORY, GROWTH = 1.2e9, 300e6
after_forgetting = 0.0


def forget():
    """Gives memory back; compiled programs will be read from disk again."""
    global after_forgetting
    jax.clear_caches()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc gives nothing back to the system unless asked
        libc.malloc_trim(0)
    after_forgetting = resident()


def resident():
    """The memory of this process in bytes; 0 where the system does not tell it as Linux does."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimised():
    """All that XLA can do: for a test of what it makes of a program."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def get_key():
    """A function that gives a new random key with each call, the same ones in each run."""
    seeds = itertools.count()
    return lambda: jax.random.key(next(seeds))
