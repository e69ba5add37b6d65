"""DICOM series to volumes: the same voxels and geometry as other readers on good series."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, dcmread
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

from flows.samples.dicom_files import DicomScan, DicomTroubles, bqml_per_suv, write_dicom_series, write_enhanced
from tasks.codes import Code, PairError
from tasks.volume import Flag, VolumeLimits
from tests.tasks.dicom_files import (
    SHAPE,
    Archive,
    bundled,
    encoded,
    grid,
    phantom,
    series,
)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("oblique", [False, True])
def test_voxels_and_affine_come_back(tmp_path: Path, plane: str, oblique: bool) -> None:
    affine = grid(oblique=oblique, plane=plane)
    volume = series(tmp_path, affine=affine).volume()
    voxels = phantom()
    if plane != "axial":
        # Their slices are written against the normal of row and column.
        affine = affine @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        voxels = voxels[::-1]
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert (volume.modality, volume.unit, volume.slice_axis, volume.valid) == ("CT", "HU", 0, None)
    assert volume.voxels.dtype == np.float32
    assert not volume.flags


def test_highdicom_and_simpleitk_see_the_same_grid_and_values(tmp_path: Path) -> None:
    paths = write_dicom_series(tmp_path, phantom(), grid(oblique=True), DicomScan("CT"))
    volume = Archive({str(path): path.read_bytes() for path in paths}).volume()

    theirs = highdicom.get_volume_from_series([dcmread(path) for path in paths], atol=0.1)
    corner = theirs.affine @ [theirs.shape[0] - 1, 0, 0, 1]
    np.testing.assert_array_equal(volume.voxels, theirs.array[::-1].astype(np.float32))
    np.testing.assert_allclose(volume.affine[:, 3] * [-1, -1, 1, 1], corner, atol=1e-4)
    np.testing.assert_allclose(volume.affine[:3, 1:3] * [[-1], [-1], [1]], theirs.affine[:3, 1:3], atol=1e-6)

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.affine[:3, 3] * [-1, -1, 1], image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(volume.spacing[::-1], image.GetSpacing(), atol=1e-4)


def test_shuffled_names_and_reversed_instance_numbers_give_the_same_volume(tmp_path: Path) -> None:
    plain = series(tmp_path / "a").volume()
    other = series(tmp_path / "b", DicomScan("CT", names="shuffled", numbers="reversed"))
    shuffled = Archive(dict(sorted(other.files.items(), reverse=True))).volume(readers=3)
    np.testing.assert_array_equal(plain.voxels, shuffled.voxels)
    np.testing.assert_array_equal(plain.affine, shuffled.affine)
    renamed = Archive({str(len(other.files) - k): content for k, content in enumerate(other.files.values())})
    assert renamed.volume().content_sha256 == shuffled.content_sha256
    assert plain.dicom is not None
    assert shuffled.dicom is not None
    assert plain.dicom.slices[0].sop_instance_uid == shuffled.dicom.slices[0].sop_instance_uid


def test_pet_with_an_integer_first_slope_keeps_its_fractions(tmp_path: Path) -> None:
    activity = phantom(low=0, high=30000) + np.float32(0.25)
    scan = DicomScan("PT", slopes="integer_first")
    archive = series(tmp_path, scan, activity)
    volume = archive.volume()
    assert (volume.unit, volume.rescale_varies) == ("SUVbw", True)
    np.testing.assert_allclose(volume.voxels * bqml_per_suv(), activity, atol=0.6)
    assert np.any(np.abs(volume.voxels * bqml_per_suv() % 1 - 0.5) < 0.3)

    theirs = highdicom.get_volume_from_series([dcmread(io.BytesIO(one)) for one in archive.files.values()], atol=0.1)
    np.testing.assert_allclose(volume.voxels * bqml_per_suv(), theirs.array[::-1], rtol=1e-5)


def test_pet_without_what_suv_needs_stays_in_bqml(tmp_path: Path) -> None:
    activity = phantom(low=0, high=30000)
    volume = series(tmp_path, DicomScan("PT", attributes={"PatientWeight": None}), activity).volume()
    assert volume.unit == "BQML"
    assert Flag.SUV_UNAVAILABLE in volume.flags
    np.testing.assert_allclose(volume.voxels, activity, atol=0.6)


def test_monochrome1_keeps_its_hounsfield_units(tmp_path: Path) -> None:
    volume = series(tmp_path, DicomScan("CT", monochrome1=True)).volume()
    np.testing.assert_array_equal(volume.voxels, phantom())
    assert volume.inverted_display
    assert Flag.INVERTED_DISPLAY in volume.flags


def test_padding_is_masked_before_the_rescale(tmp_path: Path) -> None:
    voxels = phantom()
    voxels[:, :4] = np.nan
    volume = series(tmp_path, DicomScan("CT", padding=-2000), voxels).volume()
    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid, ~np.isnan(voxels))
    np.testing.assert_array_equal(volume.voxels[volume.valid], voxels[volume.valid])
    assert volume.voxels[~volume.valid].max() == voxels[volume.valid].min()


def test_a_padding_value_written_unsigned_means_the_signed_one(tmp_path: Path) -> None:
    voxels = phantom()
    voxels[:, :4] = np.nan
    archive = series(tmp_path, DicomScan("CT", padding=-2000), voxels)
    for name, content in archive.files.items():
        dataset = dcmread(io.BytesIO(content))
        dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
        archive.files[name] = encoded(dataset)
    volume = archive.volume()
    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid, ~np.isnan(voxels))


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
def test_every_lossless_syntax_gives_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    volume = series(tmp_path, DicomScan("CT", transfer_syntax=syntax)).volume()  # type: ignore[arg-type]
    np.testing.assert_array_equal(volume.voxels, phantom())
    assert volume.voxels.dtype.isnative
    assert volume.transfer_syntaxes == (str(syntax),)


def test_the_bundled_mr_is_the_same_in_all_its_codecs() -> None:
    plain = bundled("MR_small.dcm").volume().voxels
    for name in ("RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit", "padded", "expb"):
        np.testing.assert_array_equal(bundled(f"MR_small_{name}.dcm").volume().voxels, plain)


def test_a_wrong_sign_in_a_j2k_stream_is_repaired_and_lossy_pixels_are_flagged() -> None:
    repaired = bundled("J2K_pixelrep_mismatch.dcm").volume()
    assert (repaired.voxels.min(), repaired.voxels.max()) == (-2000, 1896)
    assert Flag.LOSSY_SOURCE in bundled("693_J2KI.dcm").volume().flags


@pytest.mark.parametrize(("modality", "unit"), [("CT", "HU"), ("MR", ""), ("PT", "")])
def test_a_multi_frame_file_is_the_same_volume_as_its_slices(tmp_path: Path, modality: str, unit: str) -> None:
    scan = DicomScan(modality, slopes="each")
    voxels = phantom(low=0)
    slices = series(tmp_path / "a", scan, voxels, grid(oblique=True)).volume()
    path = write_enhanced(tmp_path / "one", voxels, grid(oblique=True), scan)
    whole = Archive({"one": path.read_bytes()}).volume()
    factor = bqml_per_suv() if modality == "PT" else 1.0
    np.testing.assert_allclose(whole.voxels, slices.voxels * factor, rtol=1e-6)
    np.testing.assert_allclose(whole.affine, slices.affine, atol=1e-6)
    assert whole.unit == unit
    assert whole.dicom is not None
    assert len({one.sop_instance_uid for one in whole.dicom.slices}) == 1
    assert len(whole.dicom.slices) == SHAPE[0]

    theirs = highdicom.imread(path).get_volume(atol=0.1)
    np.testing.assert_allclose(whole.voxels, theirs.array[::-1], rtol=1e-6)
    np.testing.assert_allclose(whole.affine[:3, 1:3] * [[-1], [-1], [1]], theirs.affine[:3, 1:3], atol=1e-5)


def test_the_philips_multi_frame_file_lies_where_highdicom_says() -> None:
    path = Path(nibabel.__file__).parent / "nicom/tests/data/philips_mprage.dcm.gz"
    content = gzip.decompress(path.read_bytes())
    volume = Archive({"one": content}).volume()
    theirs = highdicom.imread(io.BytesIO(content)).get_volume(atol=0.1)
    assert volume.voxels.shape == theirs.shape
    first = theirs.affine @ [theirs.shape[0] - 1, 0, 0, 1]
    np.testing.assert_allclose(volume.affine[:3, 3] * [-1, -1, 1], first[:3], atol=1e-3)


def test_frames_at_one_place_are_four_dimensions(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "one", phantom(low=0), grid(), DicomScan("MR"))
    dataset = dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = frames[0].PlanePositionSequence
    with pytest.raises(PairError, match="1 of 6 frames") as refused:
        Archive({"one": encoded(dataset)}).volume()
    assert refused.value.code is Code.FOUR_D


@pytest.mark.parametrize("step", [3.0, -3.0])
def test_nuclear_medicine_counts_on_from_its_first_frame(tmp_path: Path, step: float) -> None:
    counts = phantom(low=0).astype(np.uint16)
    dataset = dcmread(io.BytesIO(next(iter(series(tmp_path, DicomScan("MR")).files.values()))))
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    dataset.NumberOfFrames = dataset.NumberOfSlices = len(counts)
    dataset.SliceVector = list(range(1, len(counts) + 1))
    dataset.SpacingBetweenSlices = step
    dataset.DetectorInformationSequence = [detector]
    dataset.PixelData = counts.tobytes()
    volume = Archive({"one": encoded(dataset)}).volume()
    assert (volume.modality, volume.unit) == ("NM", "CNTS")
    ascending = counts if step > 0 else counts[::-1]
    np.testing.assert_array_equal(volume.voxels, ascending)
    np.testing.assert_allclose(volume.affine[:3, 3], [-1, -2, 3 if step > 0 else 3 - 3.0 * (len(counts) - 1)])

    dataset.NumberOfSlices = len(counts) // 2
    with pytest.raises(PairError) as refused:
        Archive({"one": encoded(dataset)}).volume()
    assert refused.value.code is Code.FOUR_D


def test_a_real_world_map_takes_precedence(tmp_path: Path) -> None:
    archive = series(tmp_path, DicomScan("MR"), phantom(low=0))
    for name in archive.files:
        item = Dataset()
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 0.5, 7.0
        item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 5000
        archive.change(name, {"RealWorldValueMappingSequence": [item]})
    np.testing.assert_array_equal(archive.volume().voxels, phantom(low=0) * 0.5 + 7)


def test_slices_missing_at_the_ends_are_told_by_the_scanners_count(tmp_path: Path) -> None:
    archive = series(tmp_path, DicomScan("CT", attributes={"ImagesInAcquisition": 6}))
    assert Flag.ENDS_UNVERIFIED not in archive.volume().flags
    archive.files.popitem()
    assert Flag.ENDS_UNVERIFIED in archive.volume().flags


def test_a_lone_slice_takes_its_thickness_and_a_flag(tmp_path: Path) -> None:
    archive = series(tmp_path, voxels=phantom((1, 20, 20)))
    volume = archive.volume()
    assert volume.flags == {Flag.SINGLE_SLICE}
    np.testing.assert_allclose(volume.spacing, (3.0, 0.9, 0.7))
    archive.change(next(iter(archive.files)), {"SliceThickness": None})
    with pytest.raises(PairError) as refused:
        archive.volume()
    assert refused.value.code is Code.NO_GEOMETRY


def test_a_filled_gap_is_an_empty_slice_that_is_not_valid(tmp_path: Path) -> None:
    volume = series(tmp_path, DicomScan("CT", troubles=DicomTroubles(missing=(2, 3)))).volume(fill_gaps=True)
    assert Flag.GAP_FILLED in volume.flags
    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid.all(axis=(1, 2)), [True, True, False, False, True, True])
    np.testing.assert_array_equal(volume.voxels[volume.valid], phantom()[volume.valid])
    np.testing.assert_allclose(volume.affine, grid(), atol=1e-6)
    assert volume.dicom is not None
    assert len(volume.dicom.slices) == 6


def test_a_removed_tilt_leaves_an_upright_stack_of_the_same_field(tmp_path: Path) -> None:
    from flows.samples.grids import tilted

    shape = (8, 30, 24)
    sheared = tilted(grid(shape), 15)
    indices = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)

    def field(affine: np.ndarray, at: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        points = at @ affine[:3, :3].T + affine[:3, 3]
        return np.rint(points @ [7.0, 11.0, -5.0])  # type: ignore[no-any-return]

    voxels = field(sheared, indices).astype(np.float32)
    volume = series(tmp_path, voxels=voxels, affine=sheared).volume(remove_tilt=True)
    assert Flag.TILT_REMOVED in volume.flags
    assert volume.valid is not None
    assert volume.voxels.shape[1] > shape[1]
    assert volume.voxels.shape[2] == shape[2]
    axes = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    places = np.stack(np.meshgrid(*(np.arange(size) for size in volume.voxels.shape), indexing="ij"), axis=-1)
    expected = field(volume.affine, places)
    assert volume.valid.mean() > 0.6
    np.testing.assert_allclose(volume.voxels[volume.valid], expected[volume.valid], atol=1.5)


def test_the_origin_holds_the_allow_listed_attributes_only(tmp_path: Path) -> None:
    attributes = {"PatientName": "Müller^Ä", "InstitutionName": "Hospital", "StudyDescription": "Head", "KVP": "90"}
    volume = series(tmp_path, DicomScan("CT", attributes=attributes)).volume()
    assert volume.dicom is not None
    header = volume.dicom.header
    assert str(header.PatientName) == "Müller^Ä"
    assert header.StudyDescription == "Head"
    assert "InstitutionName" not in header
    assert "KVP" not in header
    assert volume.frame_of_reference == header.FrameOfReferenceUID
    assert [one.sop_class_uid for one in volume.dicom.slices] == ["1.2.840.10008.5.1.4.1.1.2"] * SHAPE[0]


def test_a_localizer_among_the_files_is_left_out(tmp_path: Path) -> None:
    archive = series(tmp_path)
    scout = dcmread(io.BytesIO(archive.files["IM00000"]))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SOPInstanceUID += ".1"
    archive.files["scout"] = encoded(scout)
    np.testing.assert_array_equal(archive.volume().voxels, phantom())
    with pytest.raises(PairError) as refused:
        Archive({"scout": archive.files["scout"]}).volume()
    assert refused.value.code is Code.LOCALIZER


def test_limits_are_checked_before_memory_is_spent(tmp_path: Path) -> None:
    archive = series(tmp_path)
    voxels = 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    for limits in (
        VolumeLimits(files=5),
        VolumeLimits(slices=5),
        VolumeLimits(volume_bytes=voxels - 1),
        VolumeLimits(object_bytes=500),
    ):
        with pytest.raises(PairError) as refused:
            archive.volume(limits)
        assert refused.value.code is Code.TOO_LARGE
    archive.volume(VolumeLimits(files=6, slices=6, volume_bytes=voxels))


def test_what_the_reader_of_files_raises_is_passed_on(tmp_path: Path) -> None:
    archive = series(tmp_path)
    del archive.files["IM00003"]
    names = [*archive.files, "IM00003"]
    from tasks.read.dicom import read_dicom_volume

    for readers in (1, 4):
        with pytest.raises(KeyError):
            read_dicom_volume(names, archive.files.__getitem__, VolumeLimits(), readers=readers)
