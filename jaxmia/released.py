"""Former place of the readers of heads, for scripts of version 0.1: jaxmia.audit.released. It goes with version 0.2."""

from jaxmia._deprecated import warn_renamed
from jaxmia.audit.released import load_released

__all__ = ["load_released"]

warn_renamed("jaxmia.released", "jaxmia.audit.released", gone="0.2")
