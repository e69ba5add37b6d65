"""What a job may say of medical volumes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.form_order import in_order
from tasks.slices import EMPTY_SHARE
from tasks.volume import VolumeLimits

_LIMITS = VolumeLimits()


class VolumeOptions(BaseModel):
    """The group ``volumes`` of a job. Field descriptions are the documentation of a job file."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=in_order)

    fixed: Literal["auto", "first", "second"] = Field(
        default="auto", description="Whose grid the result has. auto: MR, else CT, else the first source."
    )
    noise: Literal["shared", "independent"] = Field(
        default="shared",
        description="shared: all slices of a volume start from the same noise, which keeps them alike.",
    )
    empty_share: float = Field(
        default=EMPTY_SHARE, ge=0, lt=1,
        description="A slice is passed through unfused when less than this share of it is foreground in both sources.",
    )  # fmt: skip
    also_write: tuple[Literal["dicom", "png"], ...] = Field(
        default=(), description="Beside the NIfTI file: a derived DICOM series, PNG pictures of the slices for review."
    )
    identity: Literal["pseudonym", "keep"] = Field(
        default="pseudonym",
        description="Of derived DICOM: keyed pseudonyms, or the patient and study of the fixed source.",
    )
    palette: Literal["none", "hot_iron", "hot_metal_blue", "pet", "pet_20_step"] = Field(
        default="none",
        description="Colours of a PET or SPECT source in the PNG pictures, by the name of a DICOM palette.",
    )
    volume_index: int | None = Field(
        default=None,
        ge=0,
        description="Which volume of 4-D NIfTI files to take, counted from 0; without it they are rejected.",
    )
    fill_gaps: bool = Field(
        default=False, description="Missing slices become slices without values, instead of a rejection."
    )
    remove_tilt: bool = Field(
        default=False, description="Tilted stacks are resampled to straight ones instead of rejected."
    )
    shard_volumes: int | None = Field(
        default=None,
        ge=1,
        description="Pairs of volumes per dispatched flow run. Default: as shard_pairs, 8 where nothing was measured.",
    )
    max_rotation_deg: float = Field(
        default=30, gt=0, le=180, description="Registrations that turn further are refused."
    )
    max_translation_mm: float = Field(default=60, gt=0, description="Registrations that shift further are refused.")
    min_overlap: float = Field(
        default=0.6, gt=0, le=1, description="Share of the smaller body that must lie in the other."
    )
    max_registration_seconds: float = Field(
        default=600, gt=0, description="Registrations that take longer are refused."
    )
    max_object_bytes: int = Field(default=_LIMITS.object_bytes, ge=1, description="Larger files are rejected unread.")
    max_inflated_bytes: int = Field(
        default=_LIMITS.inflated_bytes, ge=1, description="Compressed files that grow beyond this are rejected."
    )
    max_volume_bytes: int = Field(
        default=_LIMITS.volume_bytes, ge=1, description="Volumes of more bytes as float32 are rejected before decoding."
    )
    max_files: int = Field(default=_LIMITS.files, ge=1, description="Series of more files are rejected.")
    max_slices: int = Field(default=_LIMITS.slices, ge=1, description="Volumes of more slices are rejected.")

    @property
    def limits(self) -> VolumeLimits:
        """The limits of reading."""
        return VolumeLimits(
            object_bytes=self.max_object_bytes,
            inflated_bytes=self.max_inflated_bytes,
            volume_bytes=self.max_volume_bytes,
            files=self.max_files,
            slices=self.max_slices,
        )

    def pixels(self) -> dict[str, object]:
        """The options that change what a fused volume shows or what is written of it, for a hash."""
        limits = {"max_object_bytes", "max_inflated_bytes", "max_volume_bytes", "max_files", "max_slices"}
        return self.model_dump(mode="json", exclude=limits | {"max_registration_seconds", "shard_volumes"})
