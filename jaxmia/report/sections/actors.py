"""Who attacks: what each actor finds, by what is released to it and what it knows."""

from __future__ import annotations

from jaxmia.report.blocks.actors import in_full
from jaxmia.report.sections.part import Part

PART = Part("actors", "Who attacks", in_full, in_full, in_full)
