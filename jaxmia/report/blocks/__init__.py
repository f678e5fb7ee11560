"""Tables, figures and sentences that sections are made of."""

from __future__ import annotations
