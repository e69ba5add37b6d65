"""What a sample DICOM series is to be: whose, of what kind, and with which troubles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid


@dataclass(frozen=True)
class PatientFacts:
    """Whom a series is of.

    Attributes:
        name, identifier, issuer: PatientName, PatientID, IssuerOfPatientID; an empty issuer is left out.
        birth_date, study_date: YYYYMMDD or "".
        weight_kg: PatientWeight.
        text: written into every text attribute of the standard that is not set otherwise, into private attributes,
            a nested sequence and the preamble; "": none of it.
    """

    name: str = "DEMO^"
    identifier: str = "DEMO"
    issuer: str = ""
    birth_date: str = ""
    study_date: str = "20200102"
    weight_kg: float = 70.0
    text: str = ""


@dataclass(frozen=True)
class DicomTroubles:
    """What is wrong with a series; slices are counted as the voxels' first axis is.

    A tilted gantry needs no word here: give :func:`write_dicom_series` the affine of
    :func:`flows.samples.grids.tilted`. Neither does what a single attribute says (a mosaic, a localizer, burned-in
    annotation, a second echo): see ``DicomScan.attributes``.

    Attributes:
        missing: slices that are not written; InstanceNumber goes on counting as if they were.
        repeated: slices written a second time, as another instance with the same position and pixels.
        conflicting: slices written a second time, as another instance with the same position and other pixels.
        copied: slices whose file lies there twice, byte for byte.
        shifted: millimetres, per slice, by which its position is off along the normal.
        turned: by which the row direction of each second slice differs (the last digits that some scanners vary).
        truncated: slices whose file ends in the middle of its pixel data.
    """

    missing: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    conflicting: tuple[int, ...] = ()
    copied: tuple[int, ...] = ()
    shifted: Mapping[int, float] = field(default_factory=dict)
    turned: float = 0.0
    truncated: tuple[int, ...] = ()


@dataclass(frozen=True)
class DicomScan:
    """How voxels are written as a DICOM series.

    Attributes:
        modality: CT (voxels in HU), MR (arbitrary, 0..65535) or PT (Bq/ml, with all that SUV needs).
        patient: see :class:`PatientFacts`.
        study, series: names that StudyInstanceUID and SeriesInstanceUID are derived from.
        frame_of_reference: likewise; series that share the name share the frame. None: one of the study's and
            series' own, "": the attribute is absent.
        part: tells instances apart that are written into the same series by several calls.
        transfer_syntax: native, deflated, RLE, JPEG lossless, JPEG-LS, JPEG 2000 or HTJ2K lossless.
        slopes: ``one`` for the series, ``each`` slice its own, or ``integer_first``: each its own, and the first one
            a whole number. MR series have none.
        padding: the stored value of voxels that are NaN (PixelPaddingValue); below 0 the pixels are signed.
        monochrome1: low values are shown bright; the values stay what they are.
        numbers: InstanceNumber ``ascending`` with the slices, ``reversed``, ``shuffled`` or ``none``.
        names: files ``numbered`` by slice or ``shuffled``; both without a suffix that says DICOM.
        prefix: of the files' names.
        attributes: keyword -> value, set in every instance at the end; None removes the attribute.
        troubles: see :class:`DicomTroubles`.
    """

    modality: str
    patient: PatientFacts = PatientFacts()
    study: str = "study"
    series: str = "series"
    frame_of_reference: str | None = None
    part: str = ""
    transfer_syntax: UID = ExplicitVRLittleEndian
    slopes: str = "one"
    padding: int | None = None
    monochrome1: bool = False
    numbers: str = "ascending"
    names: str = "numbered"
    prefix: str = "IM"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    troubles: DicomTroubles = field(default_factory=DicomTroubles)

    def uid(self, *sources: str) -> UID:
        """An identifier of this patient's, derived from ``sources``."""
        return generate_uid(entropy_srcs=["sample", self.patient.identifier, *sources])

    @property
    def study_uid(self) -> UID:
        """StudyInstanceUID."""
        return self.uid("study", self.study)

    @property
    def series_uid(self) -> UID:
        """SeriesInstanceUID."""
        return self.uid("series", self.study, self.series)

    @property
    def frame_uid(self) -> UID:
        """FrameOfReferenceUID."""
        return self.uid("frame", self.frame_of_reference or f"{self.study} {self.series}")
