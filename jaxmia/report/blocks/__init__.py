"""Tables, figures and sentences of the sections."""

from __future__ import annotations
