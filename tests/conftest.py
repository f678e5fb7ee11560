"""Every test runs with jaxtyping's shapes checked by beartype and with strict dtype promotion.

Most of the tests' time is XLA's. So it optimises little, unless XLA_FLAGS says otherwise (CI leaves it as users have
it), and what it compiled is kept for later runs, for the other workers and for the processes that tests start.
"""

import os
import pathlib

KEPT = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "programs"
# Before JAX is imported; xdist's workers and the processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import jaxtyping  # noqa: E402

# An int is a float here, as Python's numeric tower has it and as users write it.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook("jaxmia", CHECKER)
jax.config.update("jax_numpy_dtype_promotion", "strict")
