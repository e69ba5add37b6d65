"""A job: everything a run needs to know, as one validated model, read from YAML or the command line."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from ddfm_core.default_steps import ADAPTIVE_START, ADAPTIVE_STEPS, STEPS
from ddfm_core.fusion import ALGORITHM_VERSION, FusionConfig, Mode
from tasks.ct_windows import CT_WINDOWS
from tasks.form_order import in_order
from tasks.modality import modality_of
from tasks.storage import OWN_FOLDER, PlaceOptions, absolute, join
from tasks.volume_options import VolumeOptions

SECRET_VARIABLE: Final = "DDFM_PSEUDONYM_SECRET"  # noqa: S105 - the name of it
PLACE = "A folder or any fsspec URL such as s3://bucket/prefix."
ValueRange = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]
Homography = Annotated[tuple[float, ...], Field(min_length=9, max_length=9)]
ImageRegistration = Literal["none", "resize", "homography", "translation", "affine"]
VolumeRegistration = Literal["auto", "none", "header", "rigid", "affine", "bspline"]
RegisterMethod = Literal["none", "resize", "homography", "translation", "affine", "auto", "header", "rigid", "bspline"]


class Place(PlaceOptions):
    """How the S3 places below one prefix are reached, as a job file may say it: without secrets."""

    credentials_block: str | None = Field(
        None,
        description="Name of a Prefect Secret block with access_key_id, secret_access_key and perhaps session_token.",
    )

    @property
    def _sources_of_credentials(self) -> tuple[str, ...]:
        return (*super()._sources_of_credentials, "credentials_block")


def refuse_credentials(field: str, place: str | None) -> None:
    """Stop a place that would show a password to everyone who sees a job.

    Raises:
        ValueError: the URL has a user before its host. The place is not repeated.
    """
    if place is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*@", place):
        raise ValueError(f"{field}: a URL must not hold credentials; they belong into the environment")


class Job(BaseModel):
    """What to fuse, how, and where to. Field descriptions are the documentation of a job file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, json_schema_extra=in_order)

    first: str | None = Field(
        None, description=f"Infrared, CT, PET or SPECT images, paired with `second` by stem. {PLACE}"
    )
    second: str | None = Field(None, description=f"Visible or MRI images. {PLACE}")
    pairs: str | None = Field(
        None, description="Instead of `first` and `second`: a CSV or Parquet table with columns first, second [, key]."
    )
    archive: str | None = Field(
        None, description=f"Instead of `first` and `second`: one root of DICOM series or BIDS files. {PLACE}"
    )
    pairing: Literal["dicom", "bids"] = Field(
        "dicom",
        description="In an archive. dicom: by patient and space. bids: by subject and session of the name.",
    )
    kind: Literal["auto", "images", "volumes"] = Field(
        "auto", description="auto looks at the sources: volumes where they are DICOM or NIfTI, else images."
    )
    out: str = Field(description=f"Destination of pictures, tables and reports. {PLACE}")
    dataset: str = Field("", description="Free name of the data set, a column of the result table.")
    modality_first: str = Field(
        "",
        description="Name of the first modality, a column of the result table. Of NIfTI volumes it says how values are "
        "mapped (CT, MR, PET, SPECT); in an archive it chooses the series (CT) or the BIDS suffix (pet).",
    )
    modality_second: str = Field("", description="The same for the second source, such as MR or T1w.")
    method: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of this configuration: pictures go to OUT/fused/METHOD. Default: the mode.",
    )

    mode: Mode = Field(
        "adaptive",
        description="adaptive: local evidence decides which source leads where. paper: the equations of DDFM (ICCV "
        "2023). released: what its authors published as code. mean, max, laplacian, gradient: classical rules to "
        "compare with, without steps, noise and prior.",
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description=f"Diffusion steps; time grows with them. Default: adaptive {ADAPTIVE_STEPS}, paper and released "
        f"{STEPS}.",
    )
    start: int | None = Field(
        None,
        ge=0,
        description="Timestep at which to begin, from the rectification's own picture in noise; 999, the last of a "
        f"thousand, asks for the full range. Default: adaptive {ADAPTIVE_START}, whatever steps is, paper and released "
        "pure noise at the last.",
    )
    update: Literal["ddim", "posterior"] = Field(
        "ddim", description="ddim: deterministic at eta 0. posterior: ancestral sampling as Algorithm 1 prints it."
    )
    eta: float = Field(0.0, ge=0, le=1, description="Share of fresh noise in each ddim step.")
    tv_weight: float = Field(0.5, ge=0, description="Of paper and released: weight of the total variation term (psi).")
    penalty: float | None = Field(
        None,
        ge=0,
        description="Penalty of the splitting (eta of the paper); 0 in paper and released only, without phi. Default: "
        "adaptive 0.3, paper 0.1, released 0.001, with phi 10.",
    )
    phi: float | None = Field(
        None, ge=0, description="In paper: a fixed balance of the sources (Eq. 9) by ADMM. Default: the EM infers it."
    )
    use_prior: bool = Field(True, description="false: the rectification alone, without diffusion and prior.")
    output: Literal["clip", "stretch", "none"] | None = Field(
        None, description="clip to the valid range, or stretch each picture to it. Default: clip, released: stretch."
    )
    seed: int = Field(0, ge=0, description="With the content of the pair it chooses the noise.")
    samples: int = Field(
        1,
        ge=1,
        description="Pictures drawn of each pair. Of several the result is the mean, with a map of their standard "
        "deviation beside it; the work is that of so many fusions.",
    )
    prior: str = Field("bundled", description="`bundled`, or a file: guided-diffusion .pt, or .safetensors.")

    bit_depth: Literal[8, 16] = Field(8, description="Bits per channel of the fused PNG.")
    first_range: ValueRange | str | None = Field(
        None,
        description="Values mapped to black and white: [low, high], for CT volumes also the name of a window such as "
        "brain. Default: 0-255, beyond 8 bit 0.1-99.9 percentiles; volumes by their modality.",
    )
    second_range: ValueRange | str | None = Field(None, description="The same for the second source.")
    register_method: RegisterMethod | None = Field(
        None,
        alias="register",
        description="Images: none (default) rejects pairs of different sizes, resize scales the first to the second, "
        "homography, translation, affine align it. Volumes: auto (default) by the headers where the frame of reference "
        "is shared, else rigid; header, rigid, affine, bspline; none needs one grid.",
    )
    homographies: dict[str, Homography] = Field(
        default_factory=dict,
        description="For register: homography, by pattern of keys (one camera pair each): nine numbers, row by row, of "
        "the matrix that takes pixels (x, y, 1) of the second image to the first.",
    )
    max_pixels: int = Field(50_000_000, ge=256, description="Larger images are rejected before they are decoded.")

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes a GPU where there is one.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Of the prior's network; the rectification always runs in float32."
    )
    batch: int = Field(4, ge=1, description="Pairs of one size that go through the network together.")
    chunk_pairs: int = Field(16, ge=1, description="Pairs committed together: the most that a kill can cost twice.")
    shard_pairs: int | None = Field(
        None,
        ge=1,
        description="Pairs per dispatched flow run. Default: what took ten minutes at the rate of the last runs with "
        "these settings, there or else in one process; 256 where there are none.",
    )
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
    window: int | None = Field(
        None,
        ge=1,
        description="Shards at a time on the work pool. Default: one more than its limit or, without one, than its "
        "online workers; five on Kubernetes and ECS, whose workers start any number of machines.",
    )
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
    privacy: Literal["auto", "strict", "off"] = Field(
        "auto",
        description="strict: whatever lies below the roots is written as keyed pseudonyms (needs a secret in "
        f"{SECRET_VARIABLE}). off: paths are kept readable. auto: strict for volumes.",
    )
    pseudonym_block: str | None = Field(
        None,
        description=f"Name of a Prefect Secret block with the secret of the pseudonyms, instead of {SECRET_VARIABLE}.",
    )
    private: str | None = Field(
        None,
        description=f"Where to keep the table that leads from pseudonyms to files. Default: OUT/_ddfm/private. {PLACE}",
    )
    volumes: VolumeOptions = Field(VolumeOptions(), description="What concerns medical volumes only.")
    failed_share: float = Field(
        0.05, ge=0, le=1, description="The run counts as failed when a larger share of its pairs failed."
    )

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Self:
        # Before any other sentence repeats a place.
        for name in ("first", "second", "pairs", "archive", "private", "out"):
            refuse_credentials(name, getattr(self, name))
        folders = (self.first is not None, self.second is not None)
        given = [name for name in ("pairs", "archive") if getattr(self, name) is not None]
        if not given and not all(folders):
            raise ValueError("give both first and second, or pairs, or archive")
        if len(given) > 1 or (given and any(folders)):
            raise ValueError("give first and second, or pairs, or archive, not both")
        if self.archive is not None and not (self.modality_first and self.modality_second):
            raise ValueError("archive: say with modality_first and modality_second what to pair, such as CT and MR")
        for name in ("first", "second", "archive"):
            source = getattr(self, name)
            for target in ("out", "private"):
                place = getattr(self, target)
                if source is not None and place is not None and _lies_inside(place, source):
                    raise ValueError(f"{target}: {place} lies inside {name}, so that it would be taken for a source")
        for name in ("first_range", "second_range"):
            value = getattr(self, name)
            if isinstance(value, str):
                if value not in CT_WINDOWS:
                    raise ValueError(f"{name}: there is no window {value}; the names are {', '.join(CT_WINDOWS)}")
            elif value is not None and not (value[0] < value[1] and all(map(math.isfinite, value))):
                raise ValueError(f"{name}: the low value must lie below the high one, both finite, got {value}")
        self._check_kind()
        self.fusion_config()
        return self

    def _check_kind(self) -> None:
        allowed = {"images": get_args(ImageRegistration), "volumes": get_args(VolumeRegistration)}.get(self.kind)
        if allowed and self.register_method is not None and self.register_method not in allowed:
            raise ValueError(
                f"register: {self.register_method} is not for {self.kind}; allowed are {', '.join(allowed)}"
            )
        for pattern, numbers in self.homographies.items():
            a, b, c, d, e, f, g, h, i = numbers
            determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
            if not math.isfinite(determinant) or determinant == 0:
                raise ValueError(f"homographies: the matrix of {pattern} has no inverse")
        if self.register_method == "homography" and not self.homographies:
            raise ValueError(
                'homographies: give the matrix of each camera pair, such as {"*": [1, 0, 0, 0, 1, 0, 0, 0, 1]}'
            )
        if self.kind == "images" and self.archive is not None:
            raise ValueError("archive: is for volumes; name the folders of pictures with first and second")
        if self.pairing == "bids" and self.archive is None:
            raise ValueError("pairing: bids is for an archive; name its root there")
        if self.volumes.identity == "keep" and "dicom" not in self.volumes.also_write:
            raise ValueError("volumes.identity: keep is for derived DICOM; add dicom to volumes.also_write")
        if self.volumes.palette != "none" and "png" not in self.volumes.also_write:
            raise ValueError("volumes.palette: is for the PNG pictures; add png to volumes.also_write")
        if self.kind == "images" and (isinstance(self.first_range, str) or isinstance(self.second_range, str)):
            raise ValueError("first_range, second_range: windows have names for CT volumes only; give [low, high]")

    @property
    def method_name(self) -> str:
        """Name of the configuration, a folder below OUT/fused."""
        return self.method or self.mode

    @property
    def algorithm(self) -> str:
        """What is done to a pair, in words."""
        config = self.fusion_config()
        if config.of_baseline:
            return self.mode
        parts = [self.mode, f"{config.num_steps} steps"]
        if config.start_timestep is not None:
            parts.append(f"from timestep {config.start_timestep}")
        if self.samples > 1:
            parts.append(f"{self.samples} samples")
        if self.phi is not None:
            parts.append(f"phi {self.phi:g}")
        if not self.use_prior:
            parts.append("no prior")
        return ", ".join(parts)

    @property
    def of_volumes(self) -> bool:
        """Whether the sources are medical volumes; known once :func:`tasks.source_kind.settle_kind` was asked."""
        return self.kind == "volumes"

    @property
    def strict(self) -> bool:
        """Whether pseudonyms are written instead of what lies below the roots."""
        return self.privacy == "strict" or (self.privacy == "auto" and self.of_volumes)

    @property
    def has_private_table(self) -> bool:
        """Whether the files of a pair are found by the private table of its run, not by the URIs of its row."""
        return self.strict or self.of_volumes

    @property
    def needs_pseudonyms(self) -> bool:
        """Whether anything that is written needs the secret of the pseudonyms."""
        return self.strict or (
            self.of_volumes and "dicom" in self.volumes.also_write and self.volumes.identity == "pseudonym"
        )

    def private_folder(self, dest: str) -> str:
        """Where what leads from pseudonyms to files is kept, for the destination as this machine reaches it."""
        return absolute(self.private) if self.private else join(dest, OWN_FOLDER, "private")

    @property
    def sources_in_words(self) -> str:
        """The sources as the user gave them, for a message."""
        return self.pairs or self.archive or f"{self.first} or {self.second}"

    @property
    def roots(self) -> tuple[str | None, str | None]:
        """The folders below which the first and the second sources lie; None for those of a table."""
        if self.archive is not None:
            return absolute(self.archive), absolute(self.archive)
        return self.first and absolute(self.first), self.second and absolute(self.second)

    @property
    def registration(self) -> RegisterMethod:
        """The method of registration, by default that of the kind."""
        return self.register_method or ("auto" if self.of_volumes else "none")

    @property
    def scope(self) -> tuple[object, ...]:
        """Which pairs the job is about, by which keys: its sources, what it selects of them, and what names them."""
        places = tuple(source and absolute(source) for source in (self.first, self.second, self.pairs, self.archive))
        named_by = (self.kind, self.pairing, self.modality_first, self.modality_second, self.strict, self.private)
        return (*places, *named_by, self.only, self.limit, self.since)

    @property
    def selects(self) -> bool:
        """Whether it is about a part of the archive only."""
        return bool(self.only) or self.limit is not None or self.since is not None

    def fusion_config(self) -> FusionConfig:
        """The algorithm's part of the job."""
        return FusionConfig(
            mode=self.mode,
            steps=self.steps,
            start=self.start,
            update=self.update,
            eta=self.eta,
            tv_weight=self.tv_weight,
            penalty=self.penalty,
            phi=self.phi,
            use_prior=self.use_prior,
            output=self.output,
            seed=self.seed,
            samples=self.samples,
        )

    def resolved(self) -> Job:
        """The same job with the steps and the start that its mode has by default written out."""
        config = self.fusion_config()
        return self.model_copy(update={"steps": config.num_steps, "start": config.start_timestep})

    def core_config(self) -> FusionConfig:
        """What the core is to do with a picture or a slice; the output rule of a volume is applied to all of it."""
        return replace(self.fusion_config(), output="none") if self.of_volumes else self.fusion_config()

    def config_hash(self, prior_sha256: str) -> str:
        """16 hexadecimal digits that change exactly when the pictures of a pair may change."""
        pixels = self.resolved().model_dump(
            mode="json",
            include={"mode", "steps", "start", "update", "eta", "tv_weight", "penalty", "phi", "use_prior", "output",
                     "seed", "samples", "bit_depth", "first_range", "second_range", "max_pixels", "precision"},
            exclude=self._settings_without_effect(),
        )  # fmt: skip
        pixels["register_method"] = self.registration
        if self.registration == "homography":
            pixels["homographies"] = {name: list(matrix) for name, matrix in sorted(self.homographies.items())}
        if self.of_volumes:
            pixels["modalities"] = [modality_of(self.modality_first), modality_of(self.modality_second)]
            pixels["volumes"] = self.volumes.pixels()
        prior = prior_sha256 if self.fusion_config().draws else None
        pixels |= {"prior_sha256": prior, "algorithm_version": ALGORITHM_VERSION}
        return hashlib.sha256(json.dumps(pixels, sort_keys=True).encode()).hexdigest()[:16]

    def _settings_without_effect(self) -> set[str]:
        """Of those that change pixels, the ones that this kind of source or this method has no use for."""
        config = self.fusion_config()
        unused = set(config.without_effect)
        if not config.draws:
            unused |= {"precision"}
        if self.of_volumes:
            # The registration of volumes draws by the seed as well.
            unused = unused - {"seed"} | {"bit_depth", "max_pixels"}
        return unused


def _lies_inside(place: str, folder: str) -> bool:
    return f"{absolute(place)}/".startswith(f"{absolute(folder)}/")
