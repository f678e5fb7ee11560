"""Every test runs with jaxtyping's shapes checked by beartype and with strict dtype promotion."""

import jax
import jaxtyping

# An int is a float here, as Python's numeric tower has it and as users write it.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook("jaxmia", CHECKER)
jax.config.update("jax_numpy_dtype_promotion", "strict")
