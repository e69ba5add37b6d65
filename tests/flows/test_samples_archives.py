import hashlib
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from flows.samples.archives import SampleStudy, make_study_archive, make_volume_demo
from flows.samples.canary import CanaryArchive, make_canary_archive
from tasks.codes import Code

NAME = "SMITHCANARY"


def digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]


def test_the_demo_holds_an_aligned_dicom_pair_and_a_nifti_pair_to_register(tmp_path: Path) -> None:
    heads, brains = make_volume_demo(tmp_path / "one")
    ct, mri = headers(heads.first / heads.stem), headers(heads.second / heads.stem)
    assert (len(ct), len(mri)) == (24, 20)
    assert {each.FrameOfReferenceUID for each in ct} == {each.FrameOfReferenceUID for each in mri}
    assert {each.PatientID for each in (*ct, *mri)} == {"DEMO"}
    assert (heads.aligned, brains.aligned) == (True, False)
    for side, shape in ((brains.first, (80, 80, 30)), (brains.second, (96, 96, 20))):
        assert [path.name for path in side.iterdir()] == ["head.nii.gz"]
        assert nibabel.load(side / "head.nii.gz").shape == shape
    make_volume_demo(tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SampleStudy]]:
    folder = tmp_path_factory.mktemp("studies")
    return folder, make_study_archive(folder, shape=(8, 32, 32))


def test_four_of_twenty_studies_are_bad_in_different_ways(archive: tuple[Path, list[SampleStudy]]) -> None:
    _, studies = archive
    assert len(studies) == 20
    codes = Counter(study.code for study in studies)
    assert codes == {
        None: 16,
        Code.MISSING_SLICES: 1,
        Code.SHEARED: 1,
        Code.AMBIGUOUS_SERIES: 1,
        Code.TRUNCATED: 1,
    }
    assert Counter(study.first for study in studies) == {"CT": 10, "PT": 10}
    assert Counter(study.registration for study in studies if study.code is None) == {"header": 12, "rigid": 4}


def test_a_study_is_what_it_is_said_to_be(archive: tuple[Path, list[SampleStudy]]) -> None:
    folder, studies = archive
    assert sorted(path for side in folder.iterdir() for path in side.iterdir()) == sorted(
        study.folder for study in studies
    )
    syntaxes = set()
    for study in studies:
        first, second = headers(study.folder / study.first), headers(study.folder / study.second)
        assert {each.PatientID for each in (*first, *second)} == {study.patient}
        assert {each.Modality for each in first} == {study.first}
        shared = first[0].FrameOfReferenceUID == second[0].FrameOfReferenceUID
        assert shared == (study.registration == "header") == np.array_equal(study.motion, np.eye(4))
        expected = {Code.MISSING_SLICES: 7, Code.AMBIGUOUS_SERIES: 16}.get(study.code or Code.NOT_IMAGE, 8)
        assert len(second) == expected
        assert len(list(study.folder.iterdir())) == 2 + len(study.skipped)
        syntaxes |= {first[0].file_meta.TransferSyntaxUID, second[0].file_meta.TransferSyntaxUID}
    assert len(syntaxes) == 8


def test_fewer_studies_and_none_bad(tmp_path: Path) -> None:
    assert [study.code for study in make_study_archive(tmp_path, 2, 0, (4, 16, 16))] == [None, None]
    with pytest.raises(ValueError, match="studies"):
        make_study_archive(tmp_path, 4, 1)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> CanaryArchive:
    return make_canary_archive(tmp_path_factory.mktemp("canary"), NAME)


def test_the_name_stands_in_every_path_and_file(canary: CanaryArchive) -> None:
    for root in (canary.dicom, canary.nifti_first, canary.nifti_second):
        for path in root.rglob("*"):
            assert NAME in str(path.relative_to(root))
            if path.is_file() and path.suffix != ".gz":
                assert NAME.encode() in path.read_bytes()
    secrets = set(canary.secrets)
    header = headers(canary.dicom / f"{NAME}_whole" / "CT")[0]
    assert {NAME, header.StudyInstanceUID, header.SOPInstanceUID, header.StudyDate, header.PatientBirthDate} <= secrets


def test_every_case_of_the_canary_lies_where_it_is_said_to_lie(canary: CanaryArchive) -> None:
    for place, code in canary.expected.items():
        root = canary.dicom
        if place.startswith(f"{NAME}/"):
            root, place = canary.nifti_first, f"{place}.nii.gz"
        path = root / place
        assert path.is_symlink() if code is Code.MISSING_SOURCE else path.exists()
    assert {code for code in canary.expected.values() if code} >= {
        Code.CODEC_MISSING,
        Code.MISSING_SLICES,
        Code.MISSING_SOURCE,
        Code.NOT_DICOM,
        Code.REGISTRATION_FAILED,
        Code.TRUNCATED,
    }
    cut = pydicom.dcmread(sorted((canary.dicom / f"{NAME}_cut" / "CT").iterdir())[5])
    with pytest.raises(ValueError, match="less than expected"):
        _ = cut.pixel_array
    one, other = canary.table.read_text().splitlines()[1].split(",")
    assert headers(Path(one))[0].PatientID != headers(Path(other))[0].PatientID
