"""A job: everything a run needs to know, as one validated model, read from YAML or the command line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ddfm_core.fusion import ALGORITHM_VERSION, FusionConfig
from tasks.codes import ConfigurationError
from tasks.storage import PlaceOptions, absolute

PLACE = "A folder or any fsspec URL such as s3://bucket/prefix."
ValueRange = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]


class Place(PlaceOptions):
    """How the S3 places below one prefix are reached, as a job file may say it: without secrets."""

    credentials_block: str | None = Field(
        None,
        description="Name of a Prefect Secret block with access_key_id, secret_access_key and perhaps session_token.",
    )

    @property
    def _sources_of_credentials(self) -> tuple[str, ...]:
        return (*super()._sources_of_credentials, "credentials_block")


class Job(BaseModel):
    """What to fuse, how, and where to. Field descriptions are the documentation of a job file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    first: str | None = Field(
        None, description=f"Infrared, CT, PET or SPECT images, paired with `second` by stem. {PLACE}"
    )
    second: str | None = Field(None, description=f"Visible or MRI images. {PLACE}")
    pairs: str | None = Field(
        None, description="Instead of `first` and `second`: a CSV or Parquet table with columns first, second [, key]."
    )
    out: str = Field(description=f"Destination of pictures, tables and reports. {PLACE}")
    dataset: str = Field("", description="Free name of the data set, a column of the result table.")
    modality_first: str = Field("", description="Free name of the first modality, a column of the result table.")
    modality_second: str = Field("", description="Free name of the second modality, a column of the result table.")
    method: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of this configuration: pictures go to OUT/fused/METHOD. Default: the mode.",
    )

    mode: Literal["paper", "released"] = Field(
        "paper",
        description="paper: the equations of DDFM (ICCV 2023). released: what its authors published as code.",
    )
    steps: int = Field(100, ge=1, le=1000, description="Diffusion steps; 25 is about four times faster than 100.")
    update: Literal["ddim", "posterior"] = Field(
        "ddim", description="ddim: deterministic at eta 0. posterior: ancestral sampling as Algorithm 1 prints it."
    )
    eta: float = Field(0.0, ge=0, le=1, description="Share of fresh noise in each ddim step.")
    tv_weight: float = Field(0.5, ge=0, description="Weight of the total variation term (psi of the paper).")
    penalty: float | None = Field(
        None, gt=0, description="Penalty of the splitting (eta of the paper). Default: 0.1 in paper, 0.001 in released."
    )
    output: Literal["clip", "stretch", "none"] | None = Field(
        None, description="clip to the valid range, or stretch each picture to it. Default: clip, released: stretch."
    )
    seed: int = Field(0, ge=0, description="With the content of the pair it chooses the noise.")
    prior: str = Field("bundled", description="`bundled`, or a file: guided-diffusion .pt, or .safetensors.")

    bit_depth: Literal[8, 16] = Field(8, description="Bits per channel of the fused PNG.")
    first_range: ValueRange | None = Field(
        None, description="Stored values mapped to black and white. Default: 0-255, beyond 8 bit 0.1-99.9 percentiles."
    )
    second_range: ValueRange | None = Field(None, description="The same for the second source.")
    register_method: Literal["none", "resize"] = Field(
        "none",
        alias="register",
        description="none rejects pairs of different sizes; resize scales the first to the second (one field of view).",
    )
    max_pixels: int = Field(50_000_000, ge=256, description="Larger images are rejected before they are decoded.")

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes a GPU where there is one.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Of the prior's network; the rectification always runs in float32."
    )
    batch: int = Field(4, ge=1, description="Pairs of one size that go through the network together.")
    chunk_pairs: int = Field(16, ge=1, description="Pairs committed together: the most that a kill can cost twice.")
    shard_pairs: int = Field(2048, ge=1, description="Pairs per dispatched flow run; size it for minutes of work.")
    readers: int = Field(
        8, ge=1, le=64,
        description="Pairs read, and pictures written, at the same time; 16 suits small pictures on object stores.",
    )  # fmt: skip
    read_megabytes: int = Field(512, ge=1, description="Source files held in memory while they are decoded, together.")
    deployment: str | None = Field(
        None,
        pattern=r"^[^/]+/[^/]+$",
        description="Send shards to this Prefect deployment, such as fuse-shard/gpu. Default: fuse in this process.",
    )
    wait: bool = Field(
        False, description="When another run works on this destination: wait for its end instead of refusing."
    )
    places: dict[str, Place] = Field(
        default_factory=dict,
        description="How S3 places are reached, by prefix of their URL; by default as the environment says. "
        "s3://archive: {endpoint_url: https://s3.example.org, credentials_variables: LAB_}",
    )
    window: int = Field(4, ge=1, description="Shards at a time on the work pool.")
    fingerprint: Literal["stat", "content"] = Field(
        "stat",
        description="How a changed source is known: stat by size and time or ETag, content by reading all its bytes.",
    )
    retry: tuple[Literal["rejected", "failed"], ...] = Field(
        (), description="Look again at pairs rejected before, or failed three times, although nothing changed."
    )
    only: tuple[str, ...] = Field((), description="Only pairs whose key matches one of these patterns, such as a/*.")
    limit: int | None = Field(None, ge=0, description="Fuse at most so many pairs in a run, the first by key.")
    since: AwareDatetime | None = Field(
        None, description="Only pairs of which one source was modified at this time or later: 2026-01-31T00:00:00Z."
    )
    failed_share: float = Field(
        0.05, ge=0, le=1, description="The run counts as failed when a larger share of its pairs failed."
    )

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Self:
        folders = (self.first is not None, self.second is not None)
        if self.pairs is None and not all(folders):
            raise ValueError("give both first and second, or pairs")
        if self.pairs is not None and any(folders):
            raise ValueError("give either first and second, or pairs, not both")
        for name in ("first", "second"):
            source = getattr(self, name)
            if source is not None and f"{absolute(self.out)}/".startswith(f"{absolute(source)}/"):
                raise ValueError(f"out: {self.out} lies inside {name}, so that results would be taken for sources")
        for name in ("first", "second", "pairs", "out"):
            place = getattr(self, name)
            if place is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*@", place):
                # Not repeated: there may be a password before the @.
                raise ValueError(f"{name}: a URL must not hold credentials; they belong into the environment")
        for name in ("first_range", "second_range"):
            value = getattr(self, name)
            if value is not None and not value[0] < value[1]:
                raise ValueError(f"{name}: the low value must lie below the high one, got {value}")
        self.fusion_config()
        return self

    @property
    def method_name(self) -> str:
        """Name of the configuration, a folder below OUT/fused."""
        return self.method or self.mode

    @property
    def scope(self) -> tuple[object, ...]:
        """Which pairs the job is about: its sources, and what it selects of them."""
        places = tuple(source and absolute(source) for source in (self.first, self.second, self.pairs))
        return (*places, self.only, self.limit, self.since)

    @property
    def selects(self) -> bool:
        """Whether it is about a part of the archive only."""
        return bool(self.only) or self.limit is not None or self.since is not None

    def fusion_config(self) -> FusionConfig:
        """The algorithm's part of the job."""
        return FusionConfig(
            mode=self.mode,
            steps=self.steps,
            update=self.update,
            eta=self.eta,
            tv_weight=self.tv_weight,
            penalty=self.penalty,
            output=self.output,
            seed=self.seed,
        )

    def config_hash(self, prior_sha256: str) -> str:
        """16 hexadecimal digits that change exactly when the pictures of a pair may change."""
        pixels = self.model_dump(
            mode="json",
            include={"mode", "steps", "update", "eta", "tv_weight", "penalty", "output", "seed", "bit_depth",
                     "first_range", "second_range", "register_method", "max_pixels", "precision"},
        )  # fmt: skip
        pixels |= {"prior_sha256": prior_sha256, "algorithm_version": ALGORITHM_VERSION}
        return hashlib.sha256(json.dumps(pixels, sort_keys=True).encode()).hexdigest()[:16]


def make_job(settings: Mapping[str, Any]) -> Job:
    """Validate ``settings``.

    Raises:
        ConfigurationError: one line per wrong field, with its value and what is allowed.
    """
    try:
        return Job.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_sentence(settings, detail) for detail in error.errors())) from error


def _sentence(settings: Mapping[str, Any], detail: Any) -> str:
    field = str(detail["loc"][0]) if detail["loc"] else "job"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if field == "places":
        where = ".".join(map(str, detail["loc"]))
        if detail["type"] == "extra_forbidden":
            return f"{where}: there is no such field; the fields are {', '.join(Place.model_fields)}"
        # What was given is not repeated: somebody may have written a secret there.
        return f"{where}: {message}"
    if detail["type"] == "extra_forbidden":
        names = ", ".join(info.alias or name for name, info in Job.model_fields.items())
        return f"{field}: there is no such field; the fields are {names}"
    if detail["type"] == "missing":
        return f"{field}: is missing; {Job.model_fields[field].description}"
    given = f" (given: {settings[field]!r})" if field in settings else ""
    return f"{field}: {message}{given}"


def read_job(text: str, overrides: Mapping[str, Any] | None = None) -> Job:
    """A job from YAML, with fields of ``overrides`` in place of the file's.

    Raises:
        ConfigurationError: not YAML, not a mapping, or a field is wrong.
    """
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the job file is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigurationError("the job file must be a mapping of fields to values; see `ddfm config --template`")
    return make_job(settings | dict(overrides or {}))


def job_template() -> str:
    """A commented job file with every field at its default."""
    lines = ["# A job for `ddfm fuse --config FILE`. Fields that are commented out have the value shown.", ""]
    examples = {"first": "archive/infrared", "second": "archive/visible", "out": "archive/fused"}
    for name, info in Job.model_fields.items():
        field = info.alias or name
        lines.append(f"# {info.description}")
        if field in examples:
            lines += [f"{field}: {examples[field]}", ""]
        else:
            value = json.dumps(info.get_default(call_default_factory=True))
            lines += [f"# {field}: {value}", ""]
    return "\n".join(lines)
