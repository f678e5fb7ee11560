"""Former module of the readers of heads, now jaxmia.audit.released. Deprecated, removed in version 0.2."""

from jaxmia._deprecated import warn_renamed
from jaxmia.audit.released import load_released

__all__ = ["load_released"]

warn_renamed("jaxmia.released", "jaxmia.audit.released", gone="0.2")
