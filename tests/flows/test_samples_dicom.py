from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.spatial import get_series_volume_positions
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
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
    write_enhanced,
    write_report,
)
from flows.samples.grids import rigid_motion, slices_grid, tilted
from flows.samples.head import head_ct, head_mr, head_pet

SHAPE = (8, 36, 32)
GRID = slices_grid(SHAPE, (12, 6, 7), (0, 5, -5), rigid_motion((1, 2, 3), 17))
VOXELS = {
    "CT": head_ct(SHAPE, GRID),
    "MR": head_mr(SHAPE, GRID),
    "PT": head_pet(SHAPE, GRID) * np.float32(bqml_per_suv()),
}
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(folder: Path, scan: DicomScan, affine: NDArray[np.float64] = GRID) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in write_dicom_series(folder, VOXELS[scan.modality], affine, scan)]


def with_trouble(**troubles: Any) -> DicomScan:
    return DicomScan("CT", troubles=DicomTroubles(**troubles))


def positions(instances: list[pydicom.Dataset]) -> NDArray[np.float64]:
    return np.array([instance.ImagePositionPatient for instance in instances], float)


@pytest.mark.parametrize("slopes", ["one", "each", "integer_first"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_values_and_geometry_read_back(tmp_path: Path, modality: str, slopes: str) -> None:
    instances = write(tmp_path, DicomScan(modality, slopes=slopes))
    values = np.stack([apply_modality_lut(instance.pixel_array, instance) for instance in instances])
    steps = np.array([float(instance.get("RescaleSlope", 1)) for instance in instances])
    assert (np.abs(values - VOXELS[modality].clip(-1024)).max((1, 2)) <= steps / 2 * 1.001).all()
    if modality == "MR":
        assert "RescaleSlope" not in instances[0]
    else:
        assert (len(set(steps)) > 1) == (slopes != "one")
        assert (steps[0] == int(steps[0])) == (slopes == "integer_first" or (modality, slopes) == ("CT", "one"))
    expected = [(TO_LPS @ GRID @ [index, 0, 0, 1])[:3] for index in range(len(instances))]
    np.testing.assert_allclose(positions(instances), expected, atol=1e-6)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_simpleitk_and_highdicom_see_the_grid_that_was_asked_for(tmp_path: Path, plane: str) -> None:
    grid = slices_grid(SHAPE, (12, 6, 7), (0, 5, -5), rigid_motion((1, 2, 3), 17), plane)
    paths = write_dicom_series(tmp_path, VOXELS["CT"], grid, DicomScan("CT"))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    spacing, order = get_series_volume_positions([pydicom.dcmread(path) for path in paths])
    assert spacing == pytest.approx(12, abs=1e-4)
    assert order is not None
    assert sorted(order) == list(range(8))
    volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    corner = np.array([7, 35, 31])
    values = VOXELS["CT"].clip(-1024)
    for index in (np.zeros(3, int), corner):
        point = TO_LPS @ grid @ [*index, 1]
        k, row, column = image.TransformPhysicalPointToIndex(point[:3])[::-1]
        assert np.allclose(image.TransformIndexToPhysicalPoint((column, row, k)), point[:3], atol=1e-4)
        assert image[column, row, k] == pytest.approx(values[tuple(index)], abs=0.51)
        there = np.linalg.inv(volume.affine) @ point
        np.testing.assert_allclose(there[:3], np.rint(there[:3]), atol=1e-4)
        assert volume.array[tuple(np.rint(there[:3]).astype(int))] == pytest.approx(values[tuple(index)], abs=0.51)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
        HTJ2KLossless,
    ],
)
def test_each_transfer_syntax_holds_the_same_pixels(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    plain = write(tmp_path / "plain", DicomScan("CT"))
    coded = write(tmp_path / "coded", DicomScan("CT", transfer_syntax=syntax))
    assert {instance.file_meta.TransferSyntaxUID for instance in coded} == {syntax}
    if syntax in (HTJ2KLossless, JPEGLosslessSV1):
        # pydicom needs plugins for these, SimpleITK brings its own codecs.
        read = SimpleITK.ReadImage(str(sorted((tmp_path / "coded").iterdir())[3]))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read)[0], plain[3].pixel_array - 1024.0)
        return
    for one, other in zip(plain, coded, strict=True):
        np.testing.assert_array_equal(one.pixel_array, other.pixel_array)


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    for scan in (DicomScan("PT"), DicomScan("CT", PatientFacts(text="CANARY"), transfer_syntax=RLELossless)):
        first, second = (
            write_dicom_series(tmp_path / name, VOXELS[scan.modality], GRID, scan) for name in ("first", "second")
        )
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_series_share_what_they_are_told_to_share(tmp_path: Path) -> None:
    ct = DicomScan("CT", series="ct", frame_of_reference="one")
    mr = DicomScan("MR", series="mr", frame_of_reference="one")
    other = replace(mr, patient=PatientFacts(identifier="OTHER"))
    one, two, three = (write(tmp_path / str(number), scan)[0] for number, scan in enumerate((ct, mr, other)))
    assert one.StudyInstanceUID == two.StudyInstanceUID != three.StudyInstanceUID
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID != three.FrameOfReferenceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert "FrameOfReferenceUID" not in write(tmp_path / "none", replace(ct, frame_of_reference=""))[0]


def test_a_pet_series_holds_what_suv_needs(tmp_path: Path) -> None:
    instance = write(tmp_path, DicomScan("PT", PatientFacts(weight_kg=80), slopes="each"))[4]
    isotope = instance.RadiopharmaceuticalInformationSequence[0]
    assert instance.Units == "BQML"
    assert {"ATTN", "DECY"} <= set(instance.CorrectedImage)
    assert instance.DecayCorrection == "START"
    assert (isotope.RadiopharmaceuticalStartTime, instance.SeriesTime) == ("110000", "120000")
    dose = float(isotope.RadionuclideTotalDose) * 0.5 ** (3600 / float(isotope.RadionuclideHalfLife))
    assert bqml_per_suv(80) == pytest.approx(dose / (float(instance.PatientWeight) * 1000))


def test_slices_that_are_missing_repeated_conflicting_or_copied(tmp_path: Path) -> None:
    missing = write(tmp_path / "missing", with_trouble(missing=(3,)))
    assert len(missing) == 7
    with pytest.raises(ValueError, match="regularly-spaced"):
        highdicom.get_volume_from_series(missing)
    for trouble in ("repeated", "conflicting"):
        twice = write(tmp_path / trouble, with_trouble(**{trouble: (3,)}))
        assert len({instance.SOPInstanceUID for instance in twice}) == len(twice) == 9
        assert len(np.unique(positions(twice), axis=0)) == 8
        assert (twice[3].PixelData == twice[4].PixelData) == (trouble == "repeated")
    copied = write_dicom_series(tmp_path / "copied", VOXELS["CT"], GRID, with_trouble(copied=(3,)))
    assert len({path.read_bytes() for path in copied}) == 8 == len(copied) - 1


def test_slices_that_are_shifted_turned_or_cut(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", DicomScan("CT"))
    shifted = write(tmp_path / "shifted", with_trouble(shifted={3: 0.05}))
    distance = np.linalg.norm(positions(shifted) - positions(plain), axis=1)
    np.testing.assert_allclose(distance, [0, 0, 0, 0.05, 0, 0, 0, 0], atol=1e-6)
    turned = write(tmp_path / "turned", with_trouble(turned=1e-6))
    change = np.array(turned[1].ImageOrientationPatient) - np.array(plain[1].ImageOrientationPatient)
    assert np.linalg.norm(change) == pytest.approx(1e-6, rel=1e-2)
    assert turned[0].ImageOrientationPatient == plain[0].ImageOrientationPatient
    cut = write_dicom_series(tmp_path / "cut", VOXELS["CT"], GRID, with_trouble(truncated=(3,)))
    with pytest.raises(ValueError, match="less than expected"):
        _ = pydicom.dcmread(cut[3]).pixel_array


def test_a_tilted_gantry_shears_the_stack(tmp_path: Path) -> None:
    instances = write(tmp_path, DicomScan("CT"), tilted(GRID, 5))
    along = positions(instances)[1] - positions(instances)[0]
    row, column = np.array(instances[0].ImageOrientationPatient, float).reshape(2, 3)
    angle = np.degrees(np.arccos(along @ np.cross(row, column) / np.linalg.norm(along)))
    assert min(angle, 180 - angle) == pytest.approx(5, abs=1e-3)
    assert float(instances[0].SliceThickness) == pytest.approx(12)


def test_padding_is_stored_where_there_is_no_value(tmp_path: Path) -> None:
    voxels = VOXELS["CT"].copy()
    voxels[:, :5] = np.nan
    scan = DicomScan("CT", padding=-2000, monochrome1=True)
    instance = pydicom.dcmread(write_dicom_series(tmp_path, voxels, GRID, scan)[2])
    assert instance.PixelPaddingValue == -2000
    assert instance.PixelRepresentation == 1
    assert instance.PhotometricInterpretation == "MONOCHROME1"
    assert ((instance.pixel_array == -2000) == np.isnan(voxels[2])).all()
    values = apply_modality_lut(instance.pixel_array, instance)[5:]
    assert np.abs(values - voxels[2, 5:].clip(-1024)).max() <= 0.5


def test_numbers_and_names_need_not_follow_the_slices(tmp_path: Path) -> None:
    instances = write(tmp_path / "reversed", DicomScan("CT", numbers="reversed"))
    assert [instance.InstanceNumber for instance in instances] == list(range(8, 0, -1))
    assert "InstanceNumber" not in write(tmp_path / "none", DicomScan("CT", numbers="none"))[0]
    paths = write_dicom_series(tmp_path / "names", VOXELS["CT"], GRID, DicomScan("CT", names="shuffled"))
    assert len(set(paths)) == 8
    assert paths != sorted(paths)


def test_attributes_are_set_as_given_even_forbidden_ones(tmp_path: Path) -> None:
    attributes = {
        "ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"],
        "BurnedInAnnotation": "YES",
        "PixelSpacing": None,
        "AcquisitionDate": "CANARY",
    }
    path = write_dicom_series(tmp_path, VOXELS["MR"], GRID, DicomScan("MR", attributes=attributes))[0]
    instance = pydicom.dcmread(path)
    assert instance.ImageType == ["ORIGINAL", "PRIMARY", "MOSAIC"]
    assert instance.BurnedInAnnotation == "YES"
    assert "PixelSpacing" not in instance
    assert b"CANARY" in path.read_bytes()


def test_two_volumes_in_one_series_are_told_apart_by_their_part(tmp_path: Path) -> None:
    first = write(tmp_path, DicomScan("MR", prefix="A"))
    second = write(tmp_path, DicomScan("MR", prefix="B", part="2", attributes={"EchoTime": "90"}))
    assert first[0].SeriesInstanceUID == second[0].SeriesInstanceUID
    assert not {each.SOPInstanceUID for each in first} & {each.SOPInstanceUID for each in second}
    assert len(list(tmp_path.iterdir())) == 16


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_multi_frame_file_holds_the_same_volume(tmp_path: Path, modality: str) -> None:
    scan = DicomScan(modality, slopes="each")
    path = write_enhanced(tmp_path / "new" / "enhanced", VOXELS[modality], GRID, scan)
    volume = highdicom.imread(path).get_volume()
    index = np.rint(np.linalg.inv(volume.affine) @ TO_LPS @ GRID @ [1, 2, 3, 1]).astype(int)[:3]
    tolerance = float(VOXELS[modality].max()) / 60000 + 0.5
    assert volume.array.shape == SHAPE
    assert volume.array[tuple(index)] == pytest.approx(float(VOXELS[modality][1, 2, 3]), abs=tolerance)
    np.testing.assert_allclose(volume.affine @ [*index, 1], TO_LPS @ GRID @ [1, 2, 3, 1], atol=1e-4)
    assert path.read_bytes() == write_enhanced(tmp_path / "again", VOXELS[modality], GRID, scan).read_bytes()


def test_a_report_is_dicom_without_pixels(tmp_path: Path) -> None:
    scan = DicomScan("CT")
    report = pydicom.dcmread(write_report(tmp_path / "new" / "report", scan))
    assert report.SOPClassUID.name == "Basic Text SR Storage"
    assert report.StudyInstanceUID == write(tmp_path, scan)[0].StudyInstanceUID
    assert "PixelData" not in report


def test_a_text_stands_in_every_text_attribute(tmp_path: Path) -> None:
    scan = DicomScan("MR", PatientFacts("CANARY^", "CANARY-1", text="CANARY"))
    path = write_dicom_series(tmp_path, VOXELS["MR"], GRID, scan)[0]
    instance = pydicom.dcmread(path)
    for keyword in ("SeriesDescription", "StudyID", "InstitutionName", "OperatorsName", "ImageComments", "StationName"):
        assert "CANARY" in str(instance[keyword].value)
    assert instance.private_block(0x0009, "CANARY")[0x01].value == "CANARY"
    assert instance.RequestAttributesSequence[0].PatientName == "CANARY"
    assert instance.file_meta.SourceApplicationEntityTitle == "CANARY"
    assert path.read_bytes().startswith(b"CANARY")
    assert path.read_bytes().count(b"CANARY") > 500
