"""Names of medical modalities, as people and BIDS write them, in DICOM's terms."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Side: TypeAlias = Literal["first", "second"]

CT: Final = "CT"
MR: Final = "MR"
PT: Final = "PT"
NM: Final = "NM"

_NAMES: Final = {
    CT: ("ct",),
    # With BIDS' suffixes of anatomical MR.
    MR: ("mr", "mri", "t1", "t2", "t1w", "t2w", "t1rho", "t1map", "t2map", "t2star", "t2starw", "t2starmap", "flair",
         "flash", "pd", "pdw", "pdmap", "pdt2", "inplanet1", "inplanet2", "angio", "unit1", "mtw", "mtr", "mtsat",
         "mprage", "mp2rage", "swi"),
    PT: ("pt", "pet"),
    NM: ("nm", "spect"),
}  # fmt: skip
_BY_NAME: Final = {name: modality for modality, names in _NAMES.items() for name in names}


def modality_of(name: str) -> str:
    """CT, MR, PT (PET) or NM (SPECT) for a name such as "mri" or "T1w"; "" for any other name."""
    return _BY_NAME.get(name.lower(), "")


def fixed_side(first: str, second: str) -> Side:
    """Which of two modalities lends its grid to the result: MR, else CT, else the first."""
    for wanted in (MR, CT):
        # The second source is the anatomical one by convention, so it wins a tie.
        if second == wanted:
            return "second"
        if first == wanted:
            return "first"
    return "first"
