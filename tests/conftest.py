"""Every test runs with jaxtyping's shapes checked by beartype and with strict dtype promotion."""

import jax
import jaxtyping

jaxtyping.install_import_hook("jaxmia", "beartype.beartype")
jax.config.update("jax_numpy_dtype_promotion", "strict")
