"""A volume that an archive holds: one NIfTI file or one DICOM series, known by its name and its headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.codes import Code
from tasks.index import Source, together
from tasks.volume_index.sources import Kind


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume before it has a partner.

    Attributes:
        root: the number of the folder or cell below which it was found.
        kind: as what it is stored.
        stem: the path below its root that names it: of a NIfTI file without suffix, of a DICOM series the folder that
            holds all its files, of a multi-frame DICOM file without suffix.
        uri: the file, or that folder.
        number: by which its files are found, see :class:`~tasks.volume_index.series.FoundSeries`; None where ``uri``
            is its only file.
        fingerprint: changes when one of its files does, or their number; "" where there is no file.
        size: bytes of all its files.
        modified: the latest time of its files, seconds since 1970 (UTC); 0 where it is not known.
        modality: as DICOM names it, "" where nothing says.
        patient_id: with ``issuer`` who it is, or the subject of a BIDS-like name; "" where it is not known.
        study: StudyInstanceUID, as ``series`` and ``frame_of_reference`` "" where it is not known.
        code: why it cannot be used, None for one that can.
        detail: what was found, without names.
    """

    root: int
    kind: Kind
    stem: str
    uri: str
    fingerprint: str
    size: int
    modified: float = 0.0
    number: int | None = None
    modality: str = ""
    issuer: str = ""
    patient_id: str = ""
    study: str = ""
    series: str = ""
    frame_of_reference: str = ""
    code: Code | None = None
    detail: str = ""

    @property
    def patient(self) -> str:
        """``issuer|PatientID`` of DICOM, else the bare ``patient_id``; "" where the patient is not known."""
        is_dicom = self.kind == Kind.DICOM and self.patient_id
        return f"{self.issuer}|{self.patient_id}" if is_dicom else self.patient_id

    @property
    def source(self) -> Source:
        """One side of an index's row."""
        return Source(self.uri, self.fingerprint, self.size, self.modified) if self.fingerprint else Source(self.uri)


def source_of(volumes: Sequence[FoundVolume]) -> Source:
    """One side of a row that has any number of volumes there: the fingerprint covers all, the rest is the first's."""
    if len(volumes) < 2:
        return volumes[0].source if volumes else Source()
    first = min(volumes, key=lambda volume: (volume.uri, volume.fingerprint))
    fingerprint = together(len(volumes), "\0".join(sorted(volume.fingerprint for volume in volumes)))
    return Source(first.uri, fingerprint, first.size, max(volume.modified for volume in volumes))


def are_of_different_patients(first: FoundVolume, second: FoundVolume) -> bool:
    """Whether both name a patient, and not the same one; an issuer that only one side names decides nothing."""
    if not (first.patient_id and second.patient_id):
        return False
    issuers_differ = bool(first.issuer and second.issuer) and first.issuer != second.issuer
    return issuers_differ or first.patient_id != second.patient_id


def fault_of(first: FoundVolume, second: FoundVolume) -> tuple[Code | None, str]:
    """Why two volumes that belong together cannot be fused: code and detail, (None, "") if they can."""
    for side, volume in (("first", first), ("second", second)):
        if volume.code is not None:
            return volume.code, f"the {side} source" + (f": {volume.detail}" if volume.detail else "")
    if are_of_different_patients(first, second):
        return Code.PATIENT_MISMATCH, "their PatientID or its issuer differ"
    return None, ""
