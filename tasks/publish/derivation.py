"""What a derived DICOM series says of how it came to be, of whom it is, and by which identifiers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias

from pydicom.uid import UID, generate_uid

from tasks.volume import DicomOrigin

SERIES_NUMBER: Final = 9000
"""Of derived series when the caller has none: above what scanners count to."""


@dataclass(frozen=True)
class PatientPseudonym:
    """Whom a derived series is of, without saying who that is.

    Attributes:
        patient: stands for both Patient's Name and Patient ID.
        uid_key: secret under which the source's UIDs become others, the same ones in every series of the patient.
    """

    patient: str
    uid_key: str = field(repr=False)


@dataclass(frozen=True, eq=False)
class DerivationFacts:
    """How a fused volume came to be.

    Attributes:
        key: of the pair and its configuration; what is new in the series (its UIDs) is derived from it.
        method: such as "paper, 100 steps".
        versions: of the software and the prior.
        seed: of the noise.
        fixed_modality: CT or MR.
        moving_modality: of the other source.
        moving: of the other source, None where it was no DICOM.
        lossy: whether one of the sources was lossily compressed, beside what their headers say.
        display: values in the fixed volume's unit shown as black and white; None: the lowest and highest.
        inverted_display: whether low values are shown bright, as in a source with MONOCHROME1.
        created: content date and time; written only with ``identity "keep"``.
        series_number: of the derived series.
    """

    key: str
    method: str
    versions: str
    seed: int
    fixed_modality: str
    moving_modality: str
    moving: DicomOrigin | None = None
    lossy: bool = False
    display: tuple[float, float] | None = None
    inverted_display: bool = False
    created: datetime | None = None
    series_number: int = SERIES_NUMBER


Identity: TypeAlias = Literal["keep"] | PatientPseudonym
"""Patient, study and dates as in the source; or a pseudonym, no date, no free text, and none of the source's UIDs."""


class Uids:
    """New UIDs of a derived series, and what the UIDs of its sources are written as; the same ones on every run.

    Args:
        key: of the pair and its configuration.
        uid_key: secret under which the sources' UIDs are replaced, None to keep them.
    """

    def __init__(self, key: str, uid_key: str | None) -> None:
        self._key = key
        self._uid_key = uid_key

    def new(self, *purpose: str) -> UID:
        """A UID of the derived series itself."""
        return generate_uid(entropy_srcs=["\0".join((self._uid_key or "", self._key, *purpose))])

    def of_source(self, uid: str) -> UID:
        """What stands for a UID of a source."""
        if self._uid_key is None:
            return UID(uid)
        return generate_uid(entropy_srcs=["\0".join((self._uid_key, uid))])
