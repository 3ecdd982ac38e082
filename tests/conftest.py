"""The tests run stricter than a user does, and each worker keeps to one core."""

import atexit
import gc
import os
import shutil
import tempfile

# Before JAX starts its backend: compilation dominates, so workers gain nothing from XLA's threads, from code that LLVM
# has optimised, nor from the new emitters of fused operations, which take three times as long to compile them.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("MPLBACKEND", "agg")
# Functions that differ in name alone compile once. The workers and the programs that tests start share it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
import hypothesis
import jax
import pytest

collect_ignore = ["exported/make.py"]  # needs libraries that the tests do not

# Traces are many small objects in few cycles: looking for these every 700 objects took a sixth of the time.
gc.set_threshold(100_000, 50, 100)

# Silent broadcasting is how bound code becomes wrong but plausible.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on every run and on every machine; compilation makes the first one slow.
hypothesis.settings.register_profile(
    "jaxbound", deadline=None, derandomize=True, max_examples=30, print_blob=True
)
hypothesis.settings.load_profile("jaxbound")


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Compiled programs would fill the memory: none is kept from one file to the next."""
    yield
    jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
