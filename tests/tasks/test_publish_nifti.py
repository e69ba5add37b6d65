import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows.samples.grids import axes_grid, rigid_motion, slices_grid
from tasks.codes import Code, PairError
from tasks.publish.nifti import column_row_slice, encode_nifti, nifti_parts
from tasks.read.nifti import read_nifti
from tasks.volume import Flag, VolumeLimits

SHAPE = (7, 6, 5)
LIMITS = VolumeLimits()
OBLIQUE = rigid_motion((1, 2, 3), 25, (4, 5, 6))
ORIENTATIONS = ["".join(axes) for triple in ("RAS", "LAS", "LPI") for axes in itertools.permutations(triple)]


def voxels(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, 500, shape).astype(np.float32)


def grid(orientation: str = "LAS", turn: NDArray[np.float64] | None = OBLIQUE) -> NDArray[np.float64]:
    return axes_grid(SHAPE, (0.9, 1.1, 3.3), (5, -6, 7), turn, orientation)


@pytest.mark.parametrize("turn", [None, OBLIQUE])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_three_libraries_read_the_same_grid(orientation: str, turn: NDArray[np.float64] | None, tmp_path: Path) -> None:
    affine = grid(orientation, turn)
    path = tmp_path / "fused.nii.gz"
    path.write_bytes(encode_nifti(voxels(), affine))

    ours = read_nifti(path.read_bytes(), LIMITS)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(ours.voxels, voxels())
    assert not ours.flags

    image = nibabel.load(path)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), voxels())
    for form in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(form, affine, atol=1e-4)

    # SimpleITK: indices in the same order, millimetres in LPS+ axes.
    itk = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk).transpose(2, 1, 0), voxels())
    for index in itertools.product((0, 4), repeat=3):
        expected = (np.diag([-1, -1, 1, 1]) @ affine @ (*index, 1))[:3]
        np.testing.assert_allclose(itk.TransformIndexToPhysicalPoint(index), expected, atol=1e-4)


def test_the_header_says_what_is_needed_and_nothing_else() -> None:
    content = gzip.decompress(encode_nifti(voxels(), grid()))
    header = nibabel.Nifti1Image.from_bytes(content).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == np.float32
    assert not header.extensions
    for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        assert header[field].item() == b""
    assert content[348:352] == bytes(4)
    assert len(content) == 352 + voxels().nbytes
    # Values are stored as they are.
    assert np.frombuffer(content, "<f4", 2, 112).tolist() == [1, 0]


def test_gzip_says_neither_name_nor_time_and_bytes_repeat() -> None:
    content = encode_nifti(voxels(), grid())
    assert content[3:8] == bytes(5)
    assert content == encode_nifti(np.asfortranarray(voxels()), grid())
    assert content == b"".join(nifti_parts(voxels()[::-1][::-1], grid().copy()))


def test_a_source_without_orientation_gets_none() -> None:
    content = encode_nifti(voxels(), grid(), in_scanner_space=False)
    header = nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    volume = read_nifti(content, LIMITS)
    assert volume.flags == {Flag.NO_ORIENTATION}
    assert volume.spacing == pytest.approx((0.9, 1.1, 3.3))
    # Written and read once more it is the same.
    again = read_nifti(encode_nifti(volume.voxels, volume.affine, in_scanner_space=False), LIMITS)
    np.testing.assert_array_equal(again.affine, volume.affine)


def test_a_slightly_sheared_source_keeps_its_affine() -> None:
    affine = grid()
    affine[:3, 2] += 0.02 * affine[:3, 0]
    content = encode_nifti(voxels(), affine)
    header = nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(read_nifti(content, LIMITS).affine, affine, atol=1e-4)


def test_a_long_side_needs_version_two() -> None:
    long = np.zeros((40_000, 2, 1), np.float32)
    content = encode_nifti(long, grid())
    assert gzip.decompress(content)[:4] == (540).to_bytes(4, "little")
    volume = read_nifti(content, VolumeLimits(slices=50_000))
    assert volume.voxels.shape == long.shape
    np.testing.assert_allclose(volume.affine, grid(), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-1000, 1000))
def test_any_rotation_comes_back(seed: int, spacing: float, origin: float) -> None:
    generator = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(generator.normal(size=(3, 3)))[0] * (spacing, 1, 3.3)
    affine[:3, 3] = (origin, -origin, 7)
    volume = read_nifti(encode_nifti(voxels(), affine), LIMITS)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)


def test_a_dicom_volume_in_the_usual_order_stays_where_it_is() -> None:
    affine = slices_grid(SHAPE, (3, 1, 1.2), (1, 2, 3), OBLIQUE)
    turned, other = column_row_slice(voxels(), affine)
    assert turned.shape == (5, 6, 7)
    assert np.shares_memory(turned, column_row_slice(turned, other)[0])
    source = voxels()
    turned, other = column_row_slice(source, affine)
    for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
        assert turned[index[::-1]] == source[index]
        np.testing.assert_allclose(other @ (*index[::-1], 1), affine @ (*index, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    broken = voxels()
    broken[1, 2, 3] = bad
    with pytest.raises(PairError) as caught:
        encode_nifti(broken, grid())
    assert caught.value.code == Code.FUSION_FAILED


def test_other_arrays_are_refused() -> None:
    for other in (voxels()[0], voxels().astype(np.float64)):
        with pytest.raises(ValueError, match="float32"):
            encode_nifti(other, grid())
