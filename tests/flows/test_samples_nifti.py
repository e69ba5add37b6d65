from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.orientations import aff2axcodes

from flows.samples.grids import axes_grid, rigid_motion
from flows.samples.head import head_mr
from flows.samples.nifti_files import NiftiFile, write_nifti

SHAPE = (20, 24, 12)
TURN = rigid_motion((1, 2, 3), 17)
GRID = axes_grid(SHAPE, (9, 8, 11), (0, 5, -5), TURN)
HEAD = head_mr(SHAPE, GRID)
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("file", "error"),
    [
        (NiftiFile(), 0),
        (NiftiFile(version=2), 0),
        (NiftiFile(big_endian=True), 0),
        (NiftiFile(big_endian=True, kind="int16", scaling=(0.5, -10)), 0.2501),
        (NiftiFile(kind="uint8", scaling=(6, 0)), 3.001),
        (NiftiFile(kind="int16", slope_field=0), 0.5001),
        (NiftiFile(kind="int16", slope_field=float("nan")), 0.5001),
        (NiftiFile(qform_code=0), 0),
        (NiftiFile(sform_code=0), 0),
    ],
)
def test_values_and_geometry_read_back(tmp_path: Path, file: NiftiFile, error: float, suffix: str) -> None:
    path = write_nifti(tmp_path / "new" / f"head{suffix}", HEAD, GRID, file)
    image = nibabel.load(path)
    assert np.abs(image.get_fdata(dtype=np.float32) - HEAD).max() <= error
    np.testing.assert_allclose(image.affine, GRID, atol=1e-4)
    if file.version == 1:
        other = SimpleITK.ReadImage(str(path))
        assert np.abs(SimpleITK.GetArrayFromImage(other).T - HEAD).max() <= error
        corner = other.TransformIndexToPhysicalPoint([19, 23, 11])
        np.testing.assert_allclose(corner, (TO_LPS @ GRID @ [19, 23, 11, 1])[:3], atol=1e-3)
    assert path.read_bytes() == write_nifti(tmp_path / f"again{suffix}", HEAD, GRID, file).read_bytes()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "SAL", "PIR"])
def test_axes_lie_as_asked_for(tmp_path: Path, axes: str) -> None:
    grid = axes_grid(SHAPE, (9, 8, 11), turn=rigid_motion((1, 2, 3), 9), axes=axes)
    image = nibabel.load(write_nifti(tmp_path / "head.nii", HEAD, grid))
    assert "".join(aff2axcodes(image.affine)) == axes
    np.testing.assert_allclose(image.affine, grid, atol=1e-4)


def test_conflicting_singular_and_absent_orientations_are_in_the_header(tmp_path: Path) -> None:
    def header(file: NiftiFile) -> nibabel.Nifti1Header:
        return nibabel.load(write_nifti(tmp_path / "head.nii", HEAD, GRID, file)).header

    mirrored = GRID @ np.diag([-1.0, 1, 1, 1])
    conflict = header(NiftiFile(qform=mirrored))
    np.testing.assert_allclose(conflict.get_sform(), GRID, atol=1e-4)
    np.testing.assert_allclose(conflict.get_qform(), mirrored, atol=1e-4)
    assert np.linalg.det(header(NiftiFile(sform=np.zeros((4, 4)))).get_sform()) == 0
    assert np.isnan(header(NiftiFile(sform=np.full((4, 4), np.nan))).get_sform()[:3]).all()
    absent = header(NiftiFile(sform_code=0, qform_code=0, units="unknown"))
    assert (int(absent["sform_code"]), int(absent["qform_code"])) == (0, 0)
    assert absent.get_xyzt_units()[0] == "unknown"


@pytest.mark.parametrize("version", [1, 2])
def test_a_text_stands_in_every_text_field(tmp_path: Path, version: int) -> None:
    path = write_nifti(tmp_path / "head.nii", HEAD, GRID, NiftiFile(version=version, text="CANARY"))
    image = nibabel.load(path)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), HEAD)
    assert image.header.extensions[0].get_content() == b"CANARY"
    assert path.read_bytes().count(b"CANARY") == (5 if version == 1 else 4)


def test_several_volumes_and_a_truncated_file(tmp_path: Path) -> None:
    both = np.stack([HEAD, HEAD * 2], -1)
    image = nibabel.load(write_nifti(tmp_path / "times.nii.gz", both, GRID))
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), both)
    short = write_nifti(tmp_path / "short.nii.gz", HEAD, GRID, NiftiFile(kept=0.6))
    with pytest.raises(EOFError):
        nibabel.load(short).get_fdata()
