"""Which run a report is about, as one validated model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.job import Place, refuse_credentials
from tasks.wrong_fields import wrong_fields

PICTURES: Final = 3
MOST_PICTURES: Final = 6


class ReportRequest(BaseModel):
    """Which run of which destination, and how much to show of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str = Field(description="Destination of the run: a folder, or a URL such as s3://bucket/fused.")
    run_id: str | None = Field(None, description="Name of the run. Default: the newest that was planned.")
    method: str | None = Field(None, description="Without run_id: only runs of this method are looked at.")
    pictures: int = Field(
        PICTURES,
        ge=0,
        le=MOST_PICTURES,
        description="Pairs to show at either end of each metric; 0 gives a page without pictures.",
    )
    places: dict[str, Place] = Field(
        default_factory=dict, description="How S3 places are reached, as in a job; by default as the environment says."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_credentials("out", self.out)
        return self


def make_request(settings: Mapping[str, Any]) -> ReportRequest:
    """Validate ``settings``.

    Raises:
        ConfigurationError: one line per wrong field, with its value and what is allowed.
    """
    try:
        return ReportRequest.model_validate(settings)
    except ValidationError as error:
        raise wrong_fields(error) from error
