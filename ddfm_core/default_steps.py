"""How many steps a mode takes unless it is told, and from where: light to import, for the texts that say so."""

from __future__ import annotations

from typing import Final

STEPS: Final = 100
"""Timesteps visited in modes `paper` and `released`, from pure noise, as in the paper."""
ADAPTIVE_STEPS: Final = 5
ADAPTIVE_START: Final = 300
"""Timestep of a thousand at which mode `adaptive` begins: its own picture in that much noise."""
