"""What setting up changed on a Prefect server, and what was there already."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one thing that a server should have."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "was there"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Change:
    """One line of what set-up says.

    Attributes:
        kind: of the thing, such as ``work pool``.
        name: by which the server knows it.
        outcome: what became of it.
        detail: in words, where there is something to say.
    """

    kind: str
    name: str
    outcome: Outcome
    detail: str = ""

    def sentence(self) -> str:
        """For a terminal."""
        return f"{self.kind} {self.name}: {self.outcome}" + (f" ({self.detail})" if self.detail else "")
