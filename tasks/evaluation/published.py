"""Rows that papers published, as data: what a table of ours stands beside.

They compare within limits. Papers chose their own pairs of each collection, which mostly cannot be told any more; most
stretch each result to the full range before they save it, which changes EN and SD; and later papers that ran DDFM's
code did not reach its own tables. MI is in nats and VIF and SSIM are summed over the two sources, SSIM with data range
2, as in our columns; figures of other conventions are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tasks.evaluation.datasets import Family


class Role(StrEnum):
    """What a published row is to a method of ours."""

    PAPER = "DDFM in its own paper"
    RERUN = "DDFM as later papers ran it"
    ABLATION = "a part of DDFM in its own paper"
    TRAINED = "a network trained on pairs"


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        family: the collection; None for the Harvard collection as a whole, whose row averages three modalities.
        method: as a table of ours shows it.
        source: the paper and its table.
        figures: by the name of the metric; what the source does not give is absent.
    """

    family: Family | None
    method: str
    role: Role
    source: str
    figures: Mapping[str, float]


_DDFM: Final = "Zhao et al., DDFM, ICCV 2023"
_EMMA: Final = "Zhao et al., Equivariant Multi-Modality Image Fusion (EMMA), CVPR 2024"
_FILM: Final = "Zhao et al., Image Fusion via Vision-Language Model (FILM), ICML 2024"
_LATER: Final = f"{_EMMA}; {_FILM}"
_DRMF: Final = "Tang et al., DRMF, ACM MM 2024"
_CDDFUSE: Final = "Zhao et al., CDDFuse, CVPR 2023"
_CDDFUSE_README: Final = "README of the CDDFuse repository (test_MIF.py)"
_PAPER_METRICS: Final = ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")


def _own(family: Family | None, table: int, *figures: float) -> PublishedRow:
    source = f"{_DDFM}, Table {table}"
    return PublishedRow(family, "DDFM", Role.PAPER, source, dict(zip(_PAPER_METRICS, figures, strict=True)))


def _rerun(family: Family | None, source: str, **figures: float) -> PublishedRow:
    return PublishedRow(family, "DDFM, run again", Role.RERUN, source, figures)


def _trained(family: Family | None, method: str, source: str, **figures: float) -> PublishedRow:
    return PublishedRow(family, method, Role.TRAINED, source, figures)


PUBLISHED: Final[tuple[PublishedRow, ...]] = (
    # DDFM's own tables: 1 for infrared and visible, 3 for medical pairs (50 of three kinds in one row).
    _own(Family.MSRS, 1, 6.88, 40.75, 2.35, 0.81, 0.58, 0.94),
    _own(Family.ROADSCENE, 1, 7.41, 52.61, 2.35, 0.75, 0.65, 0.98),
    _own(Family.M3FD, 1, 6.86, 38.95, 2.52, 0.80, 0.49, 0.95),
    _own(Family.TNO, 1, 7.06, 51.42, 2.21, 0.81, 0.49, 0.95),
    _own(None, 3, 4.64, 63.11, 1.99, 0.76, 0.60, 1.41),
    PublishedRow(
        Family.ROADSCENE, "DDFM without its prior (Exp. I)", Role.ABLATION, f"{_DDFM}, Table 2",
        {"EN": 7.19, "SD": 41.82, "MI": 2.11, "VIF": 0.60, "Qabf": 0.42, "SSIM": 0.92},
    ),
    # What later papers measured for DDFM.
    _rerun(Family.MSRS, _LATER, EN=6.19, SD=29.26, VIF=0.73, Qabf=0.48, SF=7.44, AG=2.51),
    _rerun(Family.MSRS, _DRMF, SD=29.24, VIF=0.79, SF=7.46),
    _rerun(Family.ROADSCENE, _EMMA, EN=7.24, SD=42.43, VIF=0.62, SF=10.68, AG=4.15),
    _rerun(Family.ROADSCENE, _FILM, EN=7.27, SD=42.94, VIF=0.63, Qabf=0.50, SF=10.89, AG=4.20),
    _rerun(Family.M3FD, _EMMA, EN=6.82, SD=32.68, VIF=0.60, SF=10.07, AG=3.71),
    _rerun(Family.M3FD, _FILM, EN=6.72, SD=31.15, VIF=0.63, Qabf=0.47, SF=9.84, AG=3.42),
    _rerun(None, _EMMA, EN=3.97, SD=59.81, VIF=0.63, SF=16.43, AG=4.11),
    _rerun(None, _FILM, EN=3.82, SD=56.47, VIF=0.68, Qabf=0.65, SF=16.17, AG=4.16),
    _rerun(Family.HARVARD_CT, _DRMF, SD=65.44, VIF=0.47, SF=18.11),
    # Networks that were trained for the task.
    _trained(Family.MSRS, "CDDFuse", _CDDFUSE, EN=6.70, SD=43.38, MI=3.47, VIF=1.05, Qabf=0.69, SSIM=1.00, SF=11.56,
             SCD=1.62),
    _trained(Family.MSRS, "EMMA", _EMMA, EN=6.71, SD=44.13, VIF=0.97, SF=11.56, AG=3.76, SCD=1.63),
    _trained(Family.MSRS, "FILM", _FILM, EN=6.72, SD=43.17, VIF=1.06, Qabf=0.73, SF=11.70),
    _trained(Family.MSRS, "SegMiF", _FILM, EN=5.95, SD=37.28, VIF=0.88, Qabf=0.63, SF=11.10),
    _trained(Family.MSRS, "DRMF", _DRMF, SD=54.26, VIF=0.97, SF=12.05),
    _trained(Family.ROADSCENE, "CDDFuse", _CDDFUSE, EN=7.44, SD=54.67, MI=2.30, VIF=0.69, Qabf=0.52, SSIM=0.98,
             SF=16.36, SCD=1.81),
    _trained(Family.ROADSCENE, "EMMA", _EMMA, EN=7.52, SD=54.81, VIF=0.66, SF=15.21, AG=5.83, SCD=1.69),
    _trained(Family.ROADSCENE, "FILM", _FILM, EN=7.43, SD=49.25, VIF=0.69, Qabf=0.62, SF=17.34, AG=6.60),
    _trained(Family.M3FD, "CDDFuse", _LATER, EN=7.08, SD=41.29, VIF=0.78, Qabf=0.63, SF=16.49),
    _trained(Family.M3FD, "EMMA", _EMMA, EN=7.12, SD=44.01, VIF=0.66, SF=16.92),
    _trained(Family.M3FD, "FILM", _FILM, EN=7.09, SD=41.53, VIF=0.83, Qabf=0.67, SF=16.77),
    _trained(Family.TNO, "CDDFuse", "README of the CDDFuse repository", EN=7.12, SD=46.00, MI=2.19, VIF=0.77, Qabf=0.54,
             SSIM=1.03, SF=13.15, SCD=1.76),
    _trained(None, "CDDFuse", _LATER, EN=4.00, SD=70.58, VIF=0.71, Qabf=0.69, SF=22.84),
    _trained(None, "EMMA", _EMMA, EN=4.81, SD=69.42, VIF=0.66, SF=22.15),
    _trained(None, "FILM", _FILM, EN=4.74, SD=65.26, VIF=0.78, Qabf=0.76, SF=23.36),
    _trained(None, "GeSeNet", _LATER, EN=4.31, SD=62.47, VIF=0.76, Qabf=0.76, SF=22.72),
    _trained(Family.HARVARD_CT, "CDDFuse (medical)", _CDDFUSE_README, EN=4.88, SD=79.17, VIF=0.61, Qabf=0.68, SF=38.14),
    _trained(Family.HARVARD_PET, "CDDFuse (medical)", _CDDFUSE_README, EN=4.22, SD=70.74, VIF=0.71, Qabf=0.71,
             SF=29.57),
    _trained(Family.HARVARD_SPECT, "CDDFuse (medical)", _CDDFUSE_README, EN=3.90, SD=58.31, VIF=0.97, Qabf=0.78,
             SF=20.87),
    _trained(Family.HARVARD_CT, "DRMF", _DRMF, SD=87.74, VIF=0.54, SF=26.42),
)  # fmt: skip


def published_rows(family: Family | None) -> tuple[PublishedRow, ...]:
    """The rows of a collection, DDFM's own first; ``None``: those of the Harvard collection as a whole."""
    order = list(Role)
    rows = (row for row in PUBLISHED if row.family == family)
    return tuple(sorted(rows, key=lambda row: order.index(row.role)))
