"""What the sample head consists of: its tissues, their values in each modality, and where they lie.

The head is a list of ellipsoids in millimetres, from the outside in; its own axes are RAS+ with the origin in the
middle of the brain. Ears, nose, sinuses, ventricles, eyes and the tumour differ between left and right: no mirror
image and no half turn is a match.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import Final

import numpy as np
from numpy.typing import NDArray

HEAD_BOX: Final = ((-90.0, -105.0, -100.0), (90.0, 118.0, 98.0))
"""Lowest and highest corner of the head, in its own RAS mm; of the neck only what lies above the lower one."""


class Tissue(IntEnum):
    """What a point of the head, or beside it, is made of."""

    AIR = 0
    SKIN = auto()
    MUSCLE = auto()
    FAT = auto()
    BONE = auto()
    MARROW = auto()
    CSF = auto()
    GREY = auto()
    WHITE = auto()
    NUCLEUS = auto()
    CEREBELLUM = auto()
    TUMOUR_RIM = auto()
    TUMOUR_CORE = auto()
    OEDEMA = auto()
    VITREOUS = auto()
    LENS = auto()
    CALCIUM = auto()
    COUCH = auto()


VALUES: Final[dict[Tissue, tuple[float, float, float]]] = {
    Tissue.AIR: (-1000, 4, 0.02),
    Tissue.SKIN: (20, 420, 0.9),
    Tissue.MUSCLE: (55, 380, 1.3),
    Tissue.FAT: (-95, 920, 0.5),
    Tissue.BONE: (1150, 40, 0.5),
    Tissue.MARROW: (480, 520, 1.1),
    Tissue.CSF: (6, 150, 1.0),
    Tissue.GREY: (38, 540, 8.5),
    Tissue.WHITE: (29, 780, 2.8),
    Tissue.NUCLEUS: (37, 610, 9.8),
    Tissue.CEREBELLUM: (35, 580, 6.6),
    Tissue.TUMOUR_RIM: (52, 960, 12.5),
    Tissue.TUMOUR_CORE: (18, 300, 1.6),
    Tissue.OEDEMA: (21, 460, 2.0),
    Tissue.VITREOUS: (9, 130, 0.7),
    Tissue.LENS: (75, 400, 0.8),
    Tissue.CALCIUM: (210, 260, 1.0),
    Tissue.COUCH: (-180, 4, 0.02),
}
"""HU, signal of a T1-weighted gradient echo, and SUV of FDG; typical values."""

_BRAIN: Final = (Tissue.GREY, Tissue.WHITE)


@dataclass(frozen=True)
class Part:
    """An ellipsoid of one tissue.

    Attributes:
        tissue: what it is painted with.
        centre, half_axes: mm.
        turn: degrees about the head's x axis, then about its z axis.
        folds: by how much its radius, as a share, goes in and out.
        over: the tissues that it replaces; empty: all.
    """

    tissue: Tissue
    centre: tuple[float, float, float]
    half_axes: tuple[float, float, float]
    turn: tuple[float, float] = (0.0, 0.0)
    folds: float = 0.0
    over: tuple[Tissue, ...] = ()


_HEAD: Final = (
    Part(Tissue.SKIN, (0, -28, -125), (54, 58, 85)),
    Part(Tissue.MUSCLE, (0, -28, -125), (49, 53, 85)),
    Part(Tissue.SKIN, (0, 40, -58), (58, 56, 62)),
    Part(Tissue.MUSCLE, (0, 38, -58), (53, 53, 57)),
    Part(Tissue.SKIN, (5, 97, -42), (14, 17, 22), (18, -8)),
    Part(Tissue.SKIN, (-80, -6, -32), (7, 19, 30), (10, 14)),
    Part(Tissue.SKIN, (79, 3, -25), (8, 15, 26), (-6, -20)),
    Part(Tissue.SKIN, (0, 0, 0), (77, 97, 91)),
    Part(Tissue.FAT, (0, 0, 0), (74.5, 94.5, 88.5)),
    Part(Tissue.MUSCLE, (-70, 2, -14), (7, 34, 36)),
    Part(Tissue.MUSCLE, (70, 6, -18), (6, 32, 33)),
    Part(Tissue.BONE, (0.5, 0, 0), (71, 91, 85)),
    Part(Tissue.BONE, (0, 40, -88), (40, 40, 17), (-8, 0)),
    Part(Tissue.MUSCLE, (0, 34, -87), (32, 38, 20), (-8, 0)),
    Part(Tissue.BONE, (-38, 50, -42), (20, 26, 18)),
    Part(Tissue.BONE, (39, 50, -41), (20, 26, 18)),
    Part(Tissue.BONE, (0, -34, -112), (17, 15, 62)),
    Part(Tissue.MARROW, (0, -32, -112), (13, 11, 60)),
    Part(Tissue.MARROW, (0.8, -1, 0.5), (69.2, 88.5, 83), over=(Tissue.BONE,)),
    Part(Tissue.BONE, (1, -1.5, 0.5), (66.8, 86, 80.6), over=(Tissue.MARROW,)),
    Part(Tissue.CSF, (1.2, -2, -1.5), (64, 82, 77)),
    Part(Tissue.MUSCLE, (0, 46, -66), (40, 38, 30), over=(Tissue.CSF, Tissue.MARROW)),
    Part(Tissue.BONE, (0, 28, -49), (50, 44, 9), (-12, 0), over=(Tissue.CSF,)),
    Part(Tissue.BONE, (-40, -18, -46), (26, 11, 11), (0, -32), over=(Tissue.CSF,)),
    Part(Tissue.BONE, (41, -16, -45), (26, 12, 10), (0, 30), over=(Tissue.CSF,)),
    Part(Tissue.GREY, (1.2, -2, -1), (61, 79, 74), folds=0.04, over=(Tissue.CSF,)),
    Part(Tissue.WHITE, (1.2, -2, 0), (55.5, 73, 67.5), folds=0.25, over=(Tissue.GREY,)),
    Part(Tissue.GREY, (1.5, -3, 16), (4.5, 76, 68), folds=0.2, over=(Tissue.WHITE,)),
    Part(Tissue.CSF, (1.5, -3, 16), (1.4, 84, 76), (0, 1), over=_BRAIN),
    Part(Tissue.GREY, (-52, 12, -2), (17, 25, 7), (-18, 0), folds=0.3, over=(Tissue.WHITE,)),
    Part(Tissue.GREY, (54, 9, 0), (17, 23, 7), (-24, 0), folds=0.3, over=(Tissue.WHITE,)),
    Part(Tissue.CSF, (-55, 12, -2), (19, 22, 2.2), (-18, 0), over=_BRAIN),
    Part(Tissue.CSF, (57, 9, 0), (17, 20, 1.8), (-24, 0), over=_BRAIN),
    Part(Tissue.WHITE, (0, 2, 14), (16, 34, 9), (8, 0), over=(*_BRAIN, Tissue.CSF)),
    Part(Tissue.CSF, (0, -51, -47), (50, 35, 23.5), (12, 0), over=_BRAIN),
    Part(Tissue.CEREBELLUM, (0, -52, -48), (47, 31, 21), (12, 0), folds=0.04, over=(Tissue.CSF, Tissue.BONE)),
    Part(Tissue.WHITE, (-17, -50, -47), (18, 16, 11), (12, 20), folds=0.3, over=(Tissue.CEREBELLUM,)),
    Part(Tissue.WHITE, (19, -49, -46), (17, 17, 10), (12, -20), folds=0.3, over=(Tissue.CEREBELLUM,)),
    Part(Tissue.WHITE, (0, -22, -46), (13, 14, 36), (14, 0)),
    Part(Tissue.NUCLEUS, (-12, -12, 4), (9, 16, 10), (0, 24)),
    Part(Tissue.NUCLEUS, (13, -12, 4), (9, 15, 10), (0, -24)),
    Part(Tissue.NUCLEUS, (-26, 6, 2), (6.5, 19, 11), (0, 10)),
    Part(Tissue.NUCLEUS, (27, 5, 2), (6.5, 18, 11), (0, -10)),
    Part(Tissue.CSF, (-13, 20, 15), (6, 24, 9), (14, 12)),
    Part(Tissue.CSF, (12, 18, 14), (4.5, 21, 7), (14, -10)),
    Part(Tissue.CSF, (-19, -24, 14), (7.5, 24, 9.5), (-16, -14)),
    Part(Tissue.CSF, (18, -22, 13), (5, 20, 7), (-16, 12)),
    Part(Tissue.CSF, (0.5, -6, 0), (2.6, 14, 9)),
    Part(Tissue.CSF, (0, -38, -40), (6, 5, 10)),
    Part(Tissue.CALCIUM, (1, -27, 5), (3, 3.5, 3)),
    Part(Tissue.CALCIUM, (-22, -34, 12), (3, 4, 2.5)),
    Part(Tissue.OEDEMA, (36, 34, 27), (17, 21, 15), (20, 30), over=(Tissue.WHITE,)),
    Part(Tissue.TUMOUR_RIM, (37, 35, 28), (11.5, 14, 10.5), (20, 30)),
    Part(Tissue.TUMOUR_CORE, (38, 36, 28), (7, 9, 6), (20, 30)),
    Part(Tissue.FAT, (-32, 66, -26), (17, 24, 17), (0, 16)),
    Part(Tissue.FAT, (32, 66, -25), (17, 24, 17), (0, -16)),
    Part(Tissue.MUSCLE, (-27, 54, -25), (3.5, 20, 8), (0, 16)),
    Part(Tissue.MUSCLE, (28, 54, -24), (3.5, 20, 8), (0, -16)),
    Part(Tissue.VITREOUS, (-33, 77, -26), (12.5, 12.5, 12)),
    Part(Tissue.VITREOUS, (33, 78, -25), (12, 12, 12)),
    Part(Tissue.LENS, (-31, 87, -25), (5, 2.5, 5), (0, -18)),
    Part(Tissue.LENS, (36, 88, -24), (5, 2.5, 5), (0, -22)),
    Part(Tissue.AIR, (9, 82, -6), (16, 5, 10), (-12, 6)),
    Part(Tissue.AIR, (-8, 83, -9), (9, 4, 6), (-12, 0)),
    Part(Tissue.AIR, (-25, 60, -52), (12, 15, 14), (0, 8)),
    Part(Tissue.AIR, (26, 59, -50), (15, 14, 13), (0, -12)),
    Part(Tissue.AIR, (2, 62, -48), (6, 24, 17), (14, 3)),
    Part(Tissue.AIR, (3, 34, -42), (10, 10, 7)),
    Part(Tissue.AIR, (1, 10, -82), (9, 7, 36), (-6, 0)),
    Part(Tissue.AIR, (-57, -26, -50), (8, 10, 12), (0, 12), folds=0.4),
    Part(Tissue.AIR, (58, -23, -47), (10, 11, 9), (0, -9), folds=0.4),
    Part(Tissue.AIR, (-68, -6, -34), (13, 2.5, 2.5)),
    Part(Tissue.AIR, (67, -3, -31), (13, 2.5, 2.5)),
)
_LANDMARKS: Final = (
    Tissue.NUCLEUS,
    Tissue.CSF,
    Tissue.CALCIUM,
    Tissue.TUMOUR_CORE,
    Tissue.VITREOUS,
    Tissue.CEREBELLUM,
)


def head_landmarks(seed: int = 0) -> NDArray[np.float64]:
    """Points inside the head at which a registration's error counts: [n, 3], in the head's own RAS mm."""
    return np.array([part.centre for part in anatomy(seed) if part.tissue in _LANDMARKS])


def head_corners() -> NDArray[np.float64]:
    """The corners of :data:`HEAD_BOX`: [8, 3]."""
    return np.array(np.meshgrid(*np.array(HEAD_BOX).T)).reshape(3, 8).T


def anatomy(seed: int) -> tuple[Part, ...]:
    """The parts of the head number ``seed``: all scaled and bent alike, each varied a little, the tumour moved."""
    if seed == 0:
        return _HEAD
    generator = np.random.default_rng(seed)
    scale = generator.normal(1, 0.05, 3).clip(0.88, 1.12)
    tumour = generator.uniform((-20, -75, -22), (20, 5, 12)) + ((-74, 0, 0) if generator.random() < 0.5 else 0)
    ventricles = generator.uniform(0.7, 1.6)
    parts = []
    for part in _HEAD:
        centre = np.array(part.centre)
        size = np.array(part.half_axes)
        deep = float(np.linalg.norm(centre / 80)) < 0.7 and max(part.half_axes) < 40
        if part.tissue in (Tissue.TUMOUR_CORE, Tissue.TUMOUR_RIM, Tissue.OEDEMA):
            centre = centre + tumour
        elif deep:
            centre = centre + generator.normal(0, 1.2, 3)
            size = size * generator.normal(1, 0.06, 3) * (ventricles if part.tissue == Tissue.CSF else 1)
        x, y, z = centre * scale
        a, b, c = size * scale
        parts.append(replace(part, centre=(float(x), float(y), float(z)), half_axes=(float(a), float(b), float(c))))
    return tuple(parts)
