import gzip
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from flows.samples.dicom_files import DicomScan, PatientFacts, write_dicom_series
from flows.samples.grids import rigid_motion, slices_grid
from tasks.codes import Code, PairError
from tasks.publish.derivation import DerivationFacts, Identity, PatientPseudonym
from tasks.publish.dicom import can_be_derived, derived_series
from tasks.publish.nifti import column_row_slice, encode_nifti
from tasks.read.dicom import read_dicom_volume
from tasks.read.nifti import read_nifti
from tasks.volume import DicomOrigin, DicomSlice, Volume, VolumeLimits

SHAPE = (5, 18, 20)
SPACING = (3.5, 0.9, 1.1)
OBLIQUE = rigid_motion((1, -2, 3), 23, (0, 0, 0))
LIMITS = VolumeLimits()
PSEUDONYM = PatientPseudonym("patient-7f3a", "5ec2e7")
PLANES = [(plane, turn) for plane in ("axial", "coronal", "sagittal") for turn in (None, OBLIQUE)]


def grid(plane: str = "axial", turn: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    return slices_grid(SHAPE, SPACING, (12.5, -30.25, 100), turn, plane)


def voxels(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-900, 1800, SHAPE).astype(np.float32)


def origin(
    sop_class: str = CTImageStorage, study: str = "1.2.840.1", series: str = "1.2.840.1.7", **header: Any
) -> DicomOrigin:
    kept = Dataset()
    kept.StudyInstanceUID = study
    kept.FrameOfReferenceUID = "1.2.840.1.99"
    kept.PatientName = "SMITHCANARY^Zoë"
    kept.PatientID = "SMITHCANARY-1"
    kept.PatientBirthDate = "19700102"
    kept.StudyDate = "20200304"
    kept.StudyDescription = "SMITHCANARY head"
    kept.ReferringPhysicianName = "SMITHCANARY"
    kept.PositionReferenceIndicator = "SMITHCANARY"
    kept.BodyPartExamined = "HEAD"
    kept.PatientPosition = "HFS"
    kept.SliceThickness = "3"
    for keyword, value in header.items():
        setattr(kept, keyword, value)
    return DicomOrigin(kept, series, tuple(DicomSlice(sop_class, f"{series}.{index}") for index in range(SHAPE[0])))


def facts(**changes: Any) -> DerivationFacts:
    base = DerivationFacts("pair/key 1f", "paper, 100 steps", "ddfm-pipeline 0.1.0", 7, "CT", "MR")
    return replace(base, **changes)


def derive(
    values: NDArray[np.float32] | None = None,
    affine: NDArray[np.float64] | None = None,
    source: DicomOrigin | None = None,
    identity: Identity = PSEUDONYM,
    **changes: Any,
) -> dict[str, bytes]:
    return dict(
        derived_series(
            voxels() if values is None else values,
            grid() if affine is None else affine,
            source or origin(),
            identity=identity,
            facts=facts(**changes),
        )
    )


def datasets(files: dict[str, bytes]) -> list[Dataset]:
    return [pydicom.dcmread(BytesIO(content)) for content in files.values()]


def our_volume(files: dict[str, bytes]) -> Volume:
    return read_dicom_volume(list(files), files.__getitem__, LIMITS)


@pytest.mark.parametrize(("plane", "turn"), PLANES)
def test_four_readers_agree_on_grid_and_values(plane: str, turn: NDArray[np.float64] | None, tmp_path: Path) -> None:
    affine = grid(plane, turn)
    files = derive(affine=affine)
    step = (voxels().max() - voxels().min()) / 65535

    for index, instance in enumerate(datasets(files)):
        values = pydicom.pixels.apply_rescale(instance.pixel_array, instance)
        assert np.abs(values - voxels()[index]).max() <= step / 2 * 1.001
        place = (np.diag([-1, -1, 1, 1]) @ affine @ (index, 0, 0, 1))[:3]
        np.testing.assert_allclose(instance.ImagePositionPatient, place, atol=1e-4)

    placed = highdicom.get_volume_from_series(datasets(files))
    corners = list(itertools.product(*((0, size - 1) for size in SHAPE)))
    for corner in corners:
        place = (np.diag([-1, -1, 1, 1]) @ affine @ (*corner, 1))[:3]
        index = placed.map_reference_to_indices(place[None])[0]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        value = placed.array[tuple(np.rint(index).astype(int))]
        assert abs(value - voxels()[corner]) <= step

    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    itk = reader.Execute()
    for corner in corners:
        place = (np.diag([-1, -1, 1, 1]) @ affine @ (*corner, 1))[:3]
        index = itk.TransformPhysicalPointToContinuousIndex(place)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        assert abs(itk.GetPixel([round(part) for part in index]) - voxels()[corner]) <= step

    ours = our_volume(files)
    for corner in corners:
        index = np.linalg.inv(ours.affine) @ affine @ (*corner, 1)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        assert abs(ours.voxels[tuple(np.rint(index[:3]).astype(int))] - voxels()[corner]) <= step
    assert (ours.modality, ours.unit) == ("CT", "HU")


@pytest.mark.parametrize(("plane", "turn"), PLANES)
def test_sagittal_and_oblique_round_trip_nifti_dicom(
    plane: str, turn: NDArray[np.float64] | None, tmp_path: Path
) -> None:
    affine = grid(plane, turn)
    whole = np.rint(voxels()).astype(np.float32)
    paths = write_dicom_series(tmp_path, whole, affine, DicomScan("CT"))
    source = read_dicom_volume([str(path) for path in paths], lambda uri: Path(uri).read_bytes(), LIMITS)
    assert source.dicom is not None

    # DICOM -> NIfTI -> DICOM -> NIfTI
    first = read_nifti(encode_nifti(*column_row_slice(source.voxels, source.affine)), LIMITS)
    back, back_affine = column_row_slice(first.voxels, first.affine)
    files = derive(back, back_affine, source.dicom)
    derived = our_volume(files)
    second = nibabel.Nifti1Image.from_bytes(
        gzip.decompress(encode_nifti(*column_row_slice(derived.voxels, derived.affine)))
    )
    np.testing.assert_allclose(first.affine[:, [2, 1, 0, 3]], source.affine, atol=1e-4)
    np.testing.assert_allclose(derived.affine, source.affine, atol=1e-4)
    np.testing.assert_allclose(second.affine, first.affine, atol=1e-4)
    step = (whole.max() - whole.min()) / 65535
    assert np.abs(derived.voxels - source.voxels).max() <= step
    np.testing.assert_array_equal(first.voxels, source.voxels.transpose(2, 1, 0))
    # Each slice names the source that lies where it does.
    positions = {one.SOPInstanceUID: one.ImagePositionPatient for one in map(pydicom.dcmread, paths)}
    kept = derive(back, back_affine, source.dicom, "keep")
    for instance in datasets(kept):
        (item,) = instance.SourceImageSequence
        np.testing.assert_allclose(instance.ImagePositionPatient, positions[item.ReferencedSOPInstanceUID], atol=1e-4)


@pytest.mark.parametrize("identity", ["keep", PSEUDONYM])
@pytest.mark.parametrize("sop_class", [CTImageStorage, MRImageStorage])
def test_every_required_attribute_is_there(sop_class: str, identity: Identity) -> None:
    name = {CTImageStorage: "ct-image", MRImageStorage: "mr-image"}[pydicom.uid.UID(sop_class)]
    modules = {part["key"] for part in get_iod_module_map()[name] if part["usage"] == "M"}
    modules |= {"general-reference", "common-instance-reference", "voi-lut"}
    moving = origin(MRImageStorage, study="1.2.840.2", series="1.2.840.2.8")
    for instance in datasets(derive(source=origin(sop_class), identity=identity, moving=moving)):
        for module in modules:
            for attribute in get_module_attribute_map()[module]:
                for item in items_at(instance, attribute["path"]):
                    if attribute["type"] in ("1", "2"):
                        assert attribute["keyword"] in item, (module, attribute)
                    if attribute["type"] == "1":
                        assert item[attribute["keyword"]].value not in (None, ""), (module, attribute)
        assert instance.file_meta.MediaStorageSOPInstanceUID == instance.SOPInstanceUID
        for element in instance.iterall():
            assert not element.tag.is_private


def items_at(instance: Dataset, path: list[str]) -> Iterator[Dataset]:
    if not path:
        yield instance
    elif path[0] in instance:
        for item in instance[path[0]].value or []:
            yield from items_at(item, path[1:])


@pytest.mark.parametrize(
    ("source_class", "expected", "modality"),
    [
        (CTImageStorage, CTImageStorage, "CT"),
        (LegacyConvertedEnhancedCTImageStorage, CTImageStorage, "CT"),
        (MRImageStorage, MRImageStorage, "MR"),
        (EnhancedMRImageStorage, MRImageStorage, "MR"),
    ],
)
def test_the_object_is_like_the_fixed_one(source_class: str, expected: str, modality: str) -> None:
    for instance in datasets(derive(source=origin(source_class))):
        assert instance.SOPClassUID == expected
        assert instance.Modality == modality
        assert instance.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert instance.RescaleType == ("HU" if modality == "CT" else "US")
        assert instance.BurnedInAnnotation == "NO"
        assert instance.SliceThickness == 3
        assert instance.SpacingBetweenSlices == pytest.approx(3.5)


def test_what_cannot_be_derived_is_refused() -> None:
    nameless = origin()
    del nameless.header.StudyInstanceUID
    for source in (origin(PositronEmissionTomographyImageStorage), nameless):
        assert not can_be_derived(source)
        with pytest.raises(ValueError, match="CT or MR"):
            derive(source=source)
    assert not can_be_derived(None)
    assert can_be_derived(origin())


def test_a_series_is_refused_before_its_first_file() -> None:
    with pytest.raises(PairError) as caught:
        derived_series(voxels()[:-1], grid(), origin(), identity="keep", facts=facts())
    assert caught.value.code == Code.RESTACK_INCOMPLETE
    broken = voxels()
    broken[4, 0, 0] = np.nan
    with pytest.raises(PairError) as caught:
        derived_series(broken, grid(), origin(), identity="keep", facts=facts())
    assert caught.value.code == Code.FUSION_FAILED


@pytest.mark.parametrize("identity", ["keep", PSEUDONYM])
def test_the_same_call_gives_the_same_bytes(identity: Identity) -> None:
    assert derive(identity=identity) == derive(identity=identity)
    assert list(derive()) == [f"{number:04d}.dcm" for number in range(1, 6)]


def test_identifiers_differ_by_slice_and_by_configuration() -> None:
    one, other = datasets(derive()), datasets(derive(key="pair/key 20"))
    assert len({instance.SOPInstanceUID for instance in one + other}) == 10
    assert len({instance.SeriesInstanceUID for instance in one}) == 1
    assert one[0].SeriesInstanceUID != other[0].SeriesInstanceUID
    assert one[0].StudyInstanceUID == other[0].StudyInstanceUID
    assert [instance.InstanceNumber for instance in one] == [1, 2, 3, 4, 5]


def test_identity_is_kept_only_when_asked_for() -> None:
    created = datetime(2026, 5, 6, 7, 8, 9)
    for instance in datasets(derive(identity="keep", created=created)):
        assert str(instance.PatientName) == "SMITHCANARY^Zoë"
        assert instance.PatientID == "SMITHCANARY-1"
        assert (instance.StudyDate, instance.PatientBirthDate) == ("20200304", "19700102")
        assert instance.StudyInstanceUID == "1.2.840.1"
        assert instance.FrameOfReferenceUID == "1.2.840.1.99"
        assert (instance.ContentDate, instance.ContentTime) == ("20260506", "070809")
        assert "PatientIdentityRemoved" not in instance


def test_a_pseudonym_hides_name_dates_text_and_identifiers() -> None:
    moving = origin(MRImageStorage, study="1.2.840.2", series="1.2.840.2.8")
    named = {"AccessionNumber": "SMITHCANARY", "StudyID": "SMITHCANARY", "IssuerOfPatientID": "SMITHCANARY"}
    source = origin(**named, BodyPartExamined="SMITHCANARY", PatientPosition="SMITHCANARY", Laterality="SMITHCANARY")
    files = derive(source=source, moving=moving, created=datetime(2026, 5, 6, 7, 8, 9))
    for content in files.values():
        for secret in (b"SMITH", b"1.2.840.1", b"1.2.840.2", b"1970", b"2020", b"202605", PSEUDONYM.uid_key.encode()):
            without_pixels = content[: content.rindex(b"\xe0\x7f\x10\x00OW")]
            assert secret not in without_pixels.replace(b"1.2.840.10008.", b""), secret
    for instance in datasets(files):
        assert instance.PatientName == instance.PatientID == PSEUDONYM.patient
        assert instance.PatientIdentityRemoved == "YES"
        assert instance.ContentDate == instance.ContentTime == instance.StudyDate == ""
    assert PSEUDONYM.uid_key not in repr(PSEUDONYM)


def test_identifiers_of_sources_are_replaced_alike_in_every_series_of_a_patient() -> None:
    one = datasets(derive())[0]
    other = datasets(derive(source=origin(MRImageStorage, series="1.2.840.1.8"), key="another"))[0]
    stranger = datasets(derive(identity=PatientPseudonym("b", "another secret")))[0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value == other[keyword].value != stranger[keyword].value
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


def test_references_lead_to_both_sources() -> None:
    near = origin(MRImageStorage, series="1.2.840.1.8")
    for index, instance in enumerate(datasets(derive(identity="keep", moving=near))):
        (item,) = instance.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == f"1.2.840.1.7.{index}"
        assert item.ReferencedSOPClassUID == CTImageStorage
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert [series.SeriesInstanceUID for series in instance.ReferencedSeriesSequence] == [
            "1.2.840.1.7", "1.2.840.1.8",
        ]  # fmt: skip
        moving = instance.ReferencedSeriesSequence[1].ReferencedInstanceSequence
        assert [one.ReferencedSOPInstanceUID for one in moving] == [f"1.2.840.1.8.{number}" for number in range(5)]
        assert "paper, 100 steps" in instance.DerivationDescription
        assert "seed 7" in instance.DerivationDescription
    far = origin(MRImageStorage, study="1.2.840.2", series="1.2.840.2.8")
    for instance in datasets(derive(identity="keep", moving=far)):
        (study,) = instance.StudiesContainingOtherReferencedInstancesSequence
        assert study.StudyInstanceUID == "1.2.840.2"
        assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.840.2.8"
        assert len(instance.ReferencedSeriesSequence) == 1


def test_a_multi_frame_source_is_referenced_once() -> None:
    frames = replace(origin(EnhancedMRImageStorage), slices=(DicomSlice(EnhancedMRImageStorage, "1.2.3.4"),) * SHAPE[0])
    for instance in datasets(derive(source=frames, identity="keep")):
        (series,) = instance.ReferencedSeriesSequence
        (item,) = series.ReferencedInstanceSequence
        assert item.ReferencedSOPInstanceUID == "1.2.3.4"


def test_lossy_compression_of_a_source_is_told() -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12.5"}
    from_fixed = origin(**lossy, LossyImageCompressionMethod="ISO_15444_1")
    from_moving = origin(MRImageStorage, **lossy, LossyImageCompressionMethod="SMITHCANARY")
    assert datasets(derive())[0].LossyImageCompression == "00"
    first = datasets(derive(source=from_fixed))[0]
    assert (first.LossyImageCompression, first.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert first.LossyImageCompressionRatio == 12.5
    second = datasets(derive(moving=from_moving))[0]
    assert second.LossyImageCompression == "01"
    assert "LossyImageCompressionMethod" not in second
    assert datasets(derive(lossy=True))[0].LossyImageCompression == "01"


def test_display_window_and_inversion() -> None:
    instance = datasets(derive(display=(-200, 1000), inverted_display=True))[0]
    assert (instance.WindowCenter, instance.WindowWidth) == (400, 1200)
    assert instance.PhotometricInterpretation == "MONOCHROME1"
    ours = our_volume(derive(inverted_display=True))
    assert ours.inverted_display
    assert np.abs(ours.voxels - our_volume(derive()).voxels).max() == 0


@pytest.mark.parametrize("level", [0, -1000, 0.1, 1e-12, 1e12])
def test_a_constant_volume_keeps_its_value(level: float) -> None:
    values = np.full(SHAPE, level, np.float32)
    ours = our_volume(derive(values))
    np.testing.assert_allclose(ours.voxels, level, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1, 1e6, 1e20])
def test_any_range_is_written_to_half_a_step(scale: float) -> None:
    values = voxels() * np.float32(scale)
    step = (float(values.max()) - float(values.min())) / 65535
    for index, instance in enumerate(datasets(derive(values))):
        exact = instance.pixel_array * float(instance.RescaleSlope) + float(instance.RescaleIntercept)
        assert np.abs(exact - values[index]).max() <= step * 0.5001


def test_a_single_slice_says_how_thick_it_is() -> None:
    source = replace(origin(), slices=origin().slices[:1])
    (instance,) = datasets(derive(voxels()[:1], source=source))
    assert instance.SliceThickness == pytest.approx(3.5)
    ours = our_volume(derive(voxels()[:1], source=source))
    np.testing.assert_allclose(ours.affine, grid(), atol=1e-4)


def test_nothing_is_warned_of_what_a_source_says(tmp_path: Path) -> None:
    odd = {"PatientBirthDate": "SMITHCANARY", "PatientSex": "SMITHCANARY and much more", "StudyTime": "SMITHCANARY"}
    patient = PatientFacts(name="SMITHCANARY", study_date="SMITH")
    paths = write_dicom_series(tmp_path, voxels(), grid(), DicomScan("CT", patient))
    for path in paths:
        instance = pydicom.dcmread(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for keyword, value in odd.items():
                setattr(instance, keyword, value)
            instance.save_as(path)
    source = read_dicom_volume([str(path) for path in paths], lambda uri: Path(uri).read_bytes(), LIMITS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = derive(source=source.dicom, identity="keep", moving=source.dicom)
        derive(source=source.dicom, moving=source.dicom)
    assert b"SMITHCANARY and much more" in kept["0001.dcm"]
