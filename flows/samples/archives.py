"""Small medical archives: two pairs of volumes for ``ddfm demo``, and studies of many kinds for tests and benchmarks.

Everything is computed: no download, no licence, no person; the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from flows.samples.dicom_files import (
    DicomScan,
    DicomTroubles,
    PatientFacts,
    bqml_per_suv,
    write_dicom_series,
    write_report,
)
from flows.samples.grids import axes_grid, random_motion, rigid_motion, slices_grid, tilted
from flows.samples.head import head_ct, head_mr, head_pet
from flows.samples.nifti_files import write_nifti
from tasks.codes import Code

Shape = tuple[int, int, int]
_SYNTAXES: Final = (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    JPEGLosslessSV1,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


@dataclass(frozen=True)
class VolumeDemoSet:
    """One pair of volumes of the demo.

    Attributes:
        name: of the data set.
        first, second: the folders of its two sources, named as their modalities; the volumes pair by stem.
        stem: of the one pair.
        aligned: whether both lie in one frame of reference; if not, they have to be registered.
    """

    name: str
    first: Path
    second: Path
    stem: str
    aligned: bool


@dataclass(frozen=True, eq=False)
class SampleStudy:
    """A study of the archive and what should become of it.

    Attributes:
        patient: PatientID.
        folder: of its series and other objects.
        first, second: the modalities of its two series (CT or PT, and MR).
        code: None where the pair can be fused, else the code of the series that cannot.
        trouble: in words.
        registration: ``header`` where the two series share a frame of reference, else ``rigid``.
        motion: [4, 4], from the second's scanner space to the first's, in RAS mm: the truth for a registration.
        skipped: codes of the objects of the study that are not meant to be fused.
    """

    patient: str
    folder: Path
    first: str
    second: str
    code: Code | None
    trouble: str
    registration: str
    motion: NDArray[np.float64] = field(repr=False)
    skipped: tuple[Code, ...] = ()


def make_volume_demo(folder: Path) -> list[VolumeDemoSet]:
    """Write two pairs of volumes of 96 x 96 voxels and some 20 slices; files of the same names are replaced.

    ``ct_mri_volumes/ct, mri``: a patient DEMO as DICOM, one series each, one frame of reference, the MR oblique.
    ``pet_mri_volumes/pet, mri``: a head as NIfTI; the PET lies 7 degrees and some 9 mm off.
    """
    ct_mri = VolumeDemoSet(
        "ct_mri_volumes", folder / "ct_mri_volumes" / "ct", folder / "ct_mri_volumes" / "mri", "DEMO", True
    )
    pose = rigid_motion((1, 0.3, 0), 6, (2, -4, 3))
    ct_scan = DicomScan("CT", study="demo", series="ct", frame_of_reference="demo")
    mr_scan = replace(ct_scan, modality="MR", series="mr")
    shape, centre = (20, 96, 96), (0.0, 5.0, 8.0)
    ct_grid = slices_grid((24, 96, 96), (5, 2.4, 2.4), centre)
    mr_grid = slices_grid(shape, (5.5, 2.3, 2.3), centre, rigid_motion((1, 0, 0), 9))
    write_dicom_series(ct_mri.first / "DEMO", head_ct((24, 96, 96), ct_grid, pose), ct_grid, ct_scan)
    write_dicom_series(ct_mri.second / "DEMO", head_mr(shape, mr_grid, pose), mr_grid, mr_scan)

    pet_mri = VolumeDemoSet(
        "pet_mri_volumes", folder / "pet_mri_volumes" / "pet", folder / "pet_mri_volumes" / "mri", "head", False
    )
    mr_shape, pet_shape = (96, 96, 20), (80, 80, 30)
    mr_affine = axes_grid(mr_shape, (2.3, 2.3, 5.5), centre)
    pet_affine = axes_grid(pet_shape, (2.9, 2.9, 4), centre, axes="LAS")
    motion = rigid_motion((0.4, 0.2, 1), 7, (5, -6, 4)) @ pose
    write_nifti(pet_mri.first / "head.nii.gz", head_pet(pet_shape, pet_affine, motion, seed=5), pet_affine)
    write_nifti(pet_mri.second / "head.nii.gz", head_mr(mr_shape, mr_affine, pose, seed=5), mr_affine)
    return [ct_mri, pet_mri]


def make_study_archive(folder: Path, studies: int = 20, bad: int = 4, shape: Shape = (20, 96, 96)) -> list[SampleStudy]:
    """Write a DICOM archive ``<folder>/ct_mri or pet_mri/<patient>/<modality>/...``; what should become of each study.

    Every second study is CT and MR, the others PET and MR. Of three studies two share the frame of reference; in the
    third the second series is of another visit, up to 8 degrees and 15 mm off. Every third MR is oblique. The
    transfer syntaxes take turns; PET slices have slopes of their own. Some studies hold a localizer and a report.

    Args:
        folder: made if missing.
        studies: how many, each of a patient of its own.
        bad: how many of them are bad, 0 to 4: a slice is missing, the gantry was tilted, one series holds two
            volumes (echoes), a file ends early; spread over the archive.
        shape: slices, rows and columns of each series.
    """
    if bad and studies < 8:
        raise ValueError("studies: bad ones are spread over at least 8")
    quarter = studies // 4
    # The tilt needs a CT, which has an even number.
    places = (quarter - 1, (2 * quarter - 1) // 2 * 2, 3 * quarter - 1, 4 * quarter - 1)
    kept = dict(zip(places[:bad], (_missing, _tilt, _two_echoes, _cut_short)[:bad], strict=True))
    return [_write_study(folder, number, shape, kept.get(number)) for number in range(studies)]


@dataclass(frozen=True, eq=False)
class _Source:
    """One series before it is written."""

    scan: DicomScan
    affine: NDArray[np.float64]
    pose: NDArray[np.float64]
    seed: int


_Trouble = Callable[[Path, Shape, _Source, _Source], tuple[_Source, _Source, Code, str]]


def _write_study(folder: Path, number: int, shape: Shape, trouble: _Trouble | None) -> SampleStudy:
    generator = np.random.default_rng((11, number))
    patient = PatientFacts(f"SAMPLE^{number:03d}", f"S{number:03d}")
    modality = "CT" if number % 2 == 0 else "PT"
    shared = number % 3 != 2
    pose = random_motion(generator, 8, 10)
    motion = np.eye(4) if shared else random_motion(generator, 8, 15)
    spacing = (120 / shape[0], 230 / shape[1], 230 / shape[2])
    oblique = random_motion(generator, 15, 0) if number % 3 == 1 else None
    common = DicomScan(modality, patient, f"study {number}", modality, frame_of_reference="one" if shared else None)
    first = _Source(
        replace(
            common,
            transfer_syntax=_SYNTAXES[number % len(_SYNTAXES)],
            slopes=("one" if modality == "CT" else "integer_first" if number % 4 == 1 else "each"),
            numbers="reversed" if number % 5 == 0 else "ascending",
            names="shuffled" if number % 4 == 0 else "numbered",
        ),
        slices_grid(shape, spacing, (0, 5, 0)),
        motion @ pose,
        number,
    )
    second = _Source(
        replace(common, modality="MR", series="MR", transfer_syntax=_SYNTAXES[(number + 3) % len(_SYNTAXES)]),
        slices_grid(shape, spacing, (0, 5, 0), oblique),
        pose,
        number,
    )
    code, words = None, ""
    root = folder / ("ct_mri" if modality == "CT" else "pet_mri") / patient.identifier
    if trouble is not None:
        first, second, code, words = trouble(root, shape, first, second)
    for source in (first, second):
        _write_source(root / source.scan.modality, shape, source)
    skipped: tuple[Code, ...] = ()
    if number % 5 == 1:
        localizer = replace(
            first.scan, series="localizer", slopes="one", attributes={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
        )
        grid = slices_grid((1, *shape[1:]), (10, *spacing[1:]), (0, 5, 0), plane="sagittal")
        _write_source(root / "localizer", (1, *shape[1:]), _Source(localizer, grid, first.pose, number))
        write_report(root / "report", first.scan)
        skipped = (Code.LOCALIZER, Code.NON_IMAGE_SOP)
    registration = "header" if shared else "rigid"
    return SampleStudy(patient.identifier, root, modality, "MR", code, words, registration, motion, skipped)


def _write_source(folder: Path, shape: Shape, source: _Source) -> None:
    write_dicom_series(folder, _see(shape, source), source.affine, source.scan)


def _see(shape: Shape, source: _Source) -> NDArray[np.float32]:
    """What the scanner of the source's modality measures, in the unit in which it is written."""
    if source.scan.modality == "PT":
        suv = head_pet(shape, source.affine, source.pose, seed=source.seed, noise_seed=source.seed)
        return suv * np.float32(bqml_per_suv(source.scan.patient.weight_kg))
    see = head_ct if source.scan.modality == "CT" else head_mr
    return see(shape, source.affine, source.pose, seed=source.seed, noise_seed=source.seed)


def _with_troubles(source: _Source, troubles: DicomTroubles) -> _Source:
    return replace(source, scan=replace(source.scan, troubles=troubles))


def _missing(_: Path, shape: Shape, first: _Source, second: _Source) -> tuple[_Source, _Source, Code, str]:
    second = _with_troubles(second, DicomTroubles(missing=(shape[0] // 2,)))
    return first, second, Code.MISSING_SLICES, "a slice inside the MR is missing"


def _tilt(_: Path, _shape: Shape, first: _Source, second: _Source) -> tuple[_Source, _Source, Code, str]:
    first = replace(first, affine=tilted(first.affine, 12))
    return first, second, Code.SHEARED, "the CT's gantry was tilted by 12 degrees"


def _two_echoes(root: Path, shape: Shape, first: _Source, second: _Source) -> tuple[_Source, _Source, Code, str]:
    echo = replace(second.scan, part="echo 2", prefix="E2_", attributes={"EchoTime": "90"})
    _write_source(root / "MR", shape, replace(second, scan=echo))
    return first, second, Code.AMBIGUOUS_SERIES, "the MR series holds two echoes"


def _cut_short(_: Path, shape: Shape, first: _Source, second: _Source) -> tuple[_Source, _Source, Code, str]:
    # Uncompressed, so that it is the pixel data that is seen to end early.
    whole = replace(first, scan=replace(first.scan, transfer_syntax=ExplicitVRLittleEndian))
    first = _with_troubles(whole, DicomTroubles(truncated=(shape[0] // 3,)))
    return first, second, Code.TRUNCATED, f"a file of the {first.scan.modality} ends early"
