import gzip
import hashlib
import io
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.read.inflate import inflated_parts
from tasks.read.nifti import read_nifti
from tasks.volume import Flag, Volume, VolumeLimits

BUNDLED = Path(nibabel.__file__).parent / "tests" / "data"
LIMITS = VolumeLimits()
SHAPE = (6, 5, 4)
Change = Callable[[Any], None]


def values(shape: tuple[int, ...] = SHAPE, kind: str = "int16") -> NDArray[Any]:
    generator = np.random.default_rng(7)
    if np.dtype(kind).kind == "f":
        return generator.normal(size=shape).astype(kind)
    return generator.integers(0, 100, shape).astype(kind)


def oblique(spacing: tuple[float, float, float] = (1.0, 1.5, 3.0), degrees: float = 18) -> NDArray[np.float64]:
    angle = math.radians(degrees)
    affine = np.diag([*spacing, 1.0])
    turn = [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
    affine[:3, :3] = np.array(turn) @ affine[:3, :3]
    affine[:3, 3] = (-30, 12.5, 7)
    return affine


def put(**fields: Any) -> Change:
    def change(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


def nifti(
    voxels: NDArray[Any] | None = None,
    affine: NDArray[np.float64] | None = None,
    *,
    version: int = 1,
    codes: tuple[int, int] = (1, 1),
    big_endian: bool = False,
    units: str = "mm",
    change: Change = put(),  # noqa: B008 - changes nothing
) -> bytes:
    """A .nii file with (sform_code, qform_code) ``codes``; ``change`` has the last word on its header."""
    voxels = values() if voxels is None else voxels
    affine = oblique() if affine is None else affine
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    header = kind(endianness=">" if big_endian else "<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_xyzt_units(units)
    header.set_qform(affine, code=codes[1], strip_shears=True)
    header.set_sform(affine, code=codes[0])
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    header["scl_slope"] = 1
    change(header)
    data = voxels.astype(voxels.dtype.newbyteorder(">" if big_endian else "<"))
    return bytes(header.binaryblock + bytes(4) + data.tobytes(order="F"))


def refused(content: bytes, limits: VolumeLimits = LIMITS, volume_index: int | None = None) -> PairError:
    with pytest.raises(PairError) as caught:
        read_nifti(content, limits, volume_index=volume_index)
    return caught.value


def code_of(content: bytes, limits: VolumeLimits = LIMITS, volume_index: int | None = None) -> Code:
    return refused(content, limits, volume_index).code


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
def test_voxels_and_affine_are_those_of_the_file(kind: str, version: int, big_endian: bool, compressed: bool) -> None:
    voxels = values(kind=kind)
    content = nifti(voxels, version=version, big_endian=big_endian)
    content = gzip.compress(content) if compressed else content
    volume = read_nifti(content, LIMITS)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, voxels.astype(np.float32))
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-5)
    assert (volume.slice_axis, volume.modality, volume.unit, volume.valid) == (2, "", "", None)
    assert volume.content_sha256 == hashlib.sha256(content).digest()
    assert volume.in_scanner_space
    assert not volume.flags


@pytest.mark.parametrize("name", ["anatomical.nii", "standard.nii.gz", "reoriented_anat_moved.nii"])
def test_bundled_files_are_read_as_nibabel_reads_them(name: str) -> None:
    image = nibabel.load(BUNDLED / name)
    volume = read_nifti((BUNDLED / name).read_bytes(), LIMITS)
    np.testing.assert_array_equal(volume.voxels, image.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(volume.affine, image.affine)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz"])
def test_bundled_files_of_several_volumes_need_an_index(name: str) -> None:
    content = (BUNDLED / name).read_bytes()
    image = nibabel.load(BUNDLED / name)
    count = image.shape[3]
    assert code_of(content) == Code.FOUR_D
    assert code_of(content, volume_index=count) == Code.FOUR_D
    for index in (0, count - 1):
        volume = read_nifti(content, LIMITS, volume_index=index)
        np.testing.assert_array_equal(volume.voxels, image.get_fdata(dtype=np.float32)[..., index])
        np.testing.assert_array_equal(volume.affine, image.affine)
    with pytest.raises(ValueError, match="volume_index"):
        read_nifti(content, LIMITS, volume_index=-1)


def test_missing_values_of_a_bundled_file_are_marked() -> None:
    name = "resampled_anat_moved.nii"
    expected = nibabel.load(BUNDLED / name).get_fdata(dtype=np.float32)
    volume = read_nifti((BUNDLED / name).read_bytes(), LIMITS)
    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid, np.isfinite(expected))
    np.testing.assert_array_equal(volume.voxels[volume.valid], expected[volume.valid])
    assert (volume.voxels[~volume.valid] == expected[volume.valid].min()).all()


@pytest.mark.parametrize("name", ["nifti1.hdr", "nifti2.hdr", "analyze.hdr"])
def test_halves_of_a_pair_of_files_are_refused_with_advice(name: str) -> None:
    error = refused((BUNDLED / name).read_bytes())
    assert error.code == Code.DECODE_FAILED
    assert "convert" in error.detail


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"DICM" * 20, gzip.compress(b"short")])
def test_a_file_too_short_for_a_header_is_truncated(content: bytes) -> None:
    assert code_of(content) == Code.TRUNCATED


def test_other_bytes_are_no_nifti() -> None:
    assert code_of(os.urandom(64) * 20) == Code.DECODE_FAILED
    assert code_of(bytes(1000)) == Code.DECODE_FAILED


def test_truncated_nii_gz_at_five_cut_points() -> None:
    content = gzip.compress(nifti(values((20, 20, 20), "float32")))
    for kept in (5, len(content) // 100, len(content) // 2, len(content) - 9, len(content) - 1):
        assert code_of(content[:kept]) == Code.TRUNCATED


@pytest.mark.parametrize("kept", [100, 347, 350, 352, 400, -1])
def test_truncated_nii(kept: int) -> None:
    assert code_of(nifti()[:kept]) == Code.TRUNCATED


def test_a_missing_later_volume_is_noticed() -> None:
    content = nifti(values((6, 5, 4, 3)))
    assert code_of(content[:-1], volume_index=0) == Code.TRUNCATED


def test_a_flipped_bit_in_gzip_is_noticed() -> None:
    content = bytearray(gzip.compress(nifti(values((20, 20, 20), "float32"))))
    content[len(content) // 2] ^= 4
    assert code_of(bytes(content)) in (Code.DECODE_FAILED, Code.TRUNCATED)
    content = bytearray(gzip.compress(nifti()))
    content[-7] ^= 4
    assert code_of(bytes(content)) == Code.DECODE_FAILED


def test_gzip_in_blocks_is_one_file() -> None:
    content = nifti(values((30, 30, 30)))
    blocks = b"".join(gzip.compress(content[start : start + 1000]) for start in range(0, len(content), 1000))
    np.testing.assert_array_equal(read_nifti(blocks, LIMITS).voxels, values((30, 30, 30)))


def test_a_gzip_bomb_is_stopped() -> None:
    program = """
import resource, sys, zlib
from tasks.codes import Code, PairError
from tasks.read.nifti import read_nifti
from tasks.volume import VolumeLimits

stream = zlib.compressobj(1, zlib.DEFLATED, 31)
parts = [stream.compress(sys.stdin.buffer.read())]
parts += [stream.compress(bytes(1 << 20)) for _ in range(int(sys.argv[1]))]
content = b"".join(parts) + stream.flush()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    read_nifti(content, VolumeLimits())
except PairError as error:
    print(error.code, len(content), peak() - before)
"""
    # What follows a small volume is a bomb, or the volume itself is one: its header says 8 GiB.
    small = nifti()
    large = nifti(change=put(dim=[3, 2048, 1024, 1024, 1, 1, 1, 1]))
    for header, expected in ((small, Code.DECODE_FAILED), (large, Code.TOO_LARGE)):
        ran = subprocess.run([sys.executable, "-c", program, "300"], input=header, capture_output=True, check=True)
        code, stored, grown = ran.stdout.decode().split()
        assert code == expected
        assert int(stored) < 4 << 20
        assert int(grown) < 64 << 10  # KiB


def inflated(content: bytes, most: int) -> bytes:
    return b"".join(inflated_parts(content, most))


def test_inflate_stops_at_its_bound() -> None:
    content = gzip.compress(bytes(3 << 20))
    assert inflated(content + b"\0", 3 << 20) == bytes(3 << 20)
    with pytest.raises(PairError) as caught:
        inflated(content, (3 << 20) - 1)
    assert caught.value.code == Code.TOO_LARGE
    for cut in (1, 8, 9):
        with pytest.raises(PairError) as caught:
            inflated(content[:-cut], 3 << 20)
        assert caught.value.code == Code.TRUNCATED
    with pytest.raises(PairError) as caught:
        inflated(b"\x07" + content, 3 << 20)
    assert caught.value.code == Code.DECODE_FAILED


def test_what_zlib_holds_back_at_the_end_is_not_missing() -> None:
    for size in range((1 << 20) - 300, (1 << 20) + 300, 7):
        assert len(inflated(gzip.compress(bytes(size), 1), size)) == size


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=5000), st.integers(1, 9), st.integers(0, 3))
def test_inflate_undoes_deflate(data: bytes, level: int, repeats: int) -> None:
    data = data * (1 + repeats * 300)
    assert inflated(gzip.compress(data, level), len(data)) == data


@pytest.mark.parametrize(
    ("dim", "code"),
    [
        ([3, 32767, 32767, 32767, 1, 1, 1, 1], Code.TOO_LARGE),
        ([3, 600, 600, 600, 1, 1, 1, 1], Code.TRUNCATED),
        ([3, 6, 5, 40, 1, 1, 1, 1], Code.TRUNCATED),
        ([3, -6, 5, 4, 1, 1, 1, 1], Code.DECODE_FAILED),
        ([3, 0, 5, 4, 1, 1, 1, 1], Code.DECODE_FAILED),
        ([0, 6, 5, 4, 1, 1, 1, 1], Code.DECODE_FAILED),
        ([8, 6, 5, 4, 1, 1, 1, 1], Code.DECODE_FAILED),
        ([1, 6, 5, 4, 1, 1, 1, 1], Code.DECODE_FAILED),
        ([4, 6, 5, 2, 2, 1, 1, 1], Code.FOUR_D),
        ([5, 6, 5, 2, 1, 2, 1, 1], Code.FOUR_D),
    ],
)
def test_sizes_that_lie(dim: list[int], code: Code) -> None:
    assert code_of(nifti(change=put(dim=dim))) == code


def test_far_more_data_than_the_header_says_is_refused() -> None:
    content = nifti(values((60, 60, 60)), change=put(dim=[3, 60, 60, 10, 1, 1, 1, 1]))
    assert code_of(content) == Code.DECODE_FAILED
    assert read_nifti(nifti() + bytes(1000), LIMITS).voxels.shape == SHAPE


def test_limits() -> None:
    content = nifti(values((10, 11, 12), "float32"))
    size = 10 * 11 * 12 * 4
    read_nifti(content, VolumeLimits(len(content), len(content), size, 1, 12))
    assert code_of(content, VolumeLimits(object_bytes=len(content) - 1)) == Code.TOO_LARGE
    assert code_of(content, VolumeLimits(inflated_bytes=len(content) - 1)) == Code.TOO_LARGE
    assert code_of(content, VolumeLimits(volume_bytes=size - 1)) == Code.TOO_LARGE
    assert code_of(content, VolumeLimits(slices=11)) == Code.TOO_LARGE
    # Of four volumes one is held, of the file all are passed over.
    several = nifti(values((10, 11, 12, 4), "float32"))
    read_nifti(several, VolumeLimits(volume_bytes=size), volume_index=3)
    assert code_of(several, VolumeLimits(inflated_bytes=len(several) - 1), 0) == Code.TOO_LARGE


@pytest.mark.parametrize("offset", [np.nan, np.inf, -352, 100, 352.5])
def test_an_offset_that_lies(offset: float) -> None:
    assert code_of(nifti(change=put(vox_offset=offset))) == Code.DECODE_FAILED


def test_an_offset_beyond_the_file_is_truncated_and_beyond_the_limit_too_large() -> None:
    assert code_of(nifti(change=put(vox_offset=1e6))) == Code.TRUNCATED
    assert code_of(nifti(change=put(vox_offset=1e30))) == Code.TOO_LARGE


def test_a_trailing_axis_of_one_is_no_fourth_dimension() -> None:
    voxels = values((6, 5, 4, 1, 1))
    volume = read_nifti(nifti(voxels), LIMITS)
    np.testing.assert_array_equal(volume.voxels, voxels[..., 0, 0])
    assert read_nifti(nifti(voxels), LIMITS, volume_index=0).voxels.shape == SHAPE


def test_two_dimensions_are_one_slice() -> None:
    voxels = values((8, 8))
    volume = read_nifti(nifti(voxels), LIMITS)
    np.testing.assert_array_equal(volume.voxels, voxels[..., None])
    assert volume.flags == {Flag.SINGLE_SLICE}
    assert volume.slice_axis == 2


@pytest.mark.parametrize(
    ("spacing", "shape", "axis"),
    [
        ((1, 1, 3), SHAPE, 2),
        ((3, 1, 1), SHAPE, 0),
        ((1, 3, 1), SHAPE, 1),
        ((1, 1, 1), SHAPE, 2),
        ((3, 3, 1), SHAPE, 1),
        ((2, 1, 1.99), SHAPE, 2),
        ((2, 1, 1.9), SHAPE, 0),
        ((1, 1, 3), (6, 1, 4), 1),
    ],
)
def test_slices_lie_across_the_largest_spacing(
    spacing: tuple[float, float, float], shape: tuple[int, ...], axis: int
) -> None:
    volume = read_nifti(nifti(values(shape), oblique(spacing)), LIMITS)
    assert volume.slice_axis == axis
    assert (Flag.SINGLE_SLICE in volume.flags) == (1 in shape)
    assert volume.spacing == pytest.approx(spacing, rel=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [(2, 1), (0.1, -1024), (-1, 0), (1, 5)])
def test_stored_values_are_scaled(slope: float, intercept: float) -> None:
    voxels = values(kind="int16")
    volume = read_nifti(nifti(voxels, change=put(scl_slope=slope, scl_inter=intercept)), LIMITS)
    exact = voxels * float(np.float32(slope)) + intercept
    np.testing.assert_array_equal(volume.voxels, exact.astype(np.float32))


@pytest.mark.parametrize("slope", [0, np.nan, np.inf, -np.inf])
def test_a_slope_that_is_none_scales_nothing(slope: float) -> None:
    voxels = values()
    volume = read_nifti(nifti(voxels, change=put(scl_slope=slope, scl_inter=100)), LIMITS)
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_an_intercept_that_is_not_finite_is_refused() -> None:
    assert code_of(nifti(change=put(scl_slope=2, scl_inter=np.nan))) == Code.NOT_FINITE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_marked_invalid(bad: float) -> None:
    voxels = values(kind="float32")
    voxels[1:3, 2] = bad
    volume = read_nifti(nifti(voxels), LIMITS)
    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid, np.isfinite(voxels))
    assert np.isfinite(volume.voxels).all()
    voxels[:4] = bad
    assert code_of(nifti(voxels)) == Code.NOT_FINITE


def test_a_double_beyond_float32_is_not_finite() -> None:
    voxels = values(kind="float64")
    voxels[0, 0, 0] = 1e300
    volume = read_nifti(nifti(voxels), LIMITS)
    assert volume.valid is not None
    assert np.count_nonzero(~volume.valid) == 1


def test_colour_and_odd_types_are_refused() -> None:
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert code_of(nifti(colour)) == Code.COLOUR_UNEXPECTED
    assert code_of(nifti(change=put(datatype=2304))) == Code.COLOUR_UNEXPECTED
    assert code_of(nifti(values(kind="float32").astype(np.complex64))) == Code.PIXELS_UNSUPPORTED
    for datatype in (0, 1, 1536, 1792, 999):
        assert code_of(nifti(change=put(datatype=datatype))) == Code.PIXELS_UNSUPPORTED


@pytest.mark.parametrize(
    ("unit", "scale", "flags"),
    [("mm", 1, set()), ("meter", 1000, set()), ("micron", 0.001, set()), ("unknown", 1, {Flag.UNITS_UNKNOWN})],
)
def test_lengths_become_millimetres(unit: str, scale: float, flags: set[Flag]) -> None:
    volume = read_nifti(nifti(units=unit), LIMITS)
    expected = oblique()
    expected[:3] *= scale
    np.testing.assert_allclose(volume.affine, expected, rtol=1e-5, atol=1e-5 * scale)
    assert volume.flags == flags


def test_a_unit_that_does_not_exist_is_refused() -> None:
    assert code_of(nifti(change=put(xyzt_units=5))) == Code.NO_GEOMETRY
    assert read_nifti(nifti(change=put(xyzt_units=2 | 8)), LIMITS).flags == set()


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (4, 4), (2, 1)])
def test_either_form_gives_the_affine(codes: tuple[int, int]) -> None:
    volume = read_nifti(nifti(codes=codes), LIMITS)
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-5)
    assert volume.in_scanner_space


def test_without_either_form_only_the_spacing_is_known() -> None:
    content = nifti(codes=(0, 0))
    volume = read_nifti(content, LIMITS)
    assert volume.flags == {Flag.NO_ORIENTATION}
    assert not volume.in_scanner_space
    assert volume.spacing == pytest.approx((1, 1.5, 3))
    np.testing.assert_allclose(volume.affine, nibabel.Nifti1Image.from_bytes(content).affine)


def moved_sform(change: Callable[[NDArray[np.float64]], None]) -> Change:
    affine = oblique()
    change(affine)
    return lambda header: header.set_sform(affine, code=1)


def scale_axis(affine: NDArray[np.float64], axis: int, factor: float) -> None:
    affine[:3, axis] *= factor


def turn(affine: NDArray[np.float64], degrees: float) -> None:
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    affine[:2, :3] = rotation @ affine[:2, :3]


def shift(affine: NDArray[np.float64], by: float) -> None:
    affine[0, 3] += by


def test_qform_sform_conflict_is_refused() -> None:
    conflicts: list[Callable[[NDArray[np.float64]], None]] = [
        lambda affine: scale_axis(affine, 0, -1),
        lambda affine: scale_axis(affine, 2, 1.002),
        lambda affine: turn(affine, 0.2),
        lambda affine: turn(affine, 90),
        lambda affine: shift(affine, 0.5),
    ]
    for conflict in conflicts:
        error = refused(nifti(change=moved_sform(conflict)))
        assert error.code == Code.AFFINE_CONFLICT
        # Each alone is a good file.
        read_nifti(nifti(change=lambda h, c=conflict: (moved_sform(c)(h), put(qform_code=0)(h))), LIMITS)  # type: ignore[misc]
        read_nifti(nifti(change=lambda h, c=conflict: (moved_sform(c)(h), put(sform_code=0)(h))), LIMITS)  # type: ignore[misc]


def test_small_differences_of_rounding_are_no_conflict() -> None:
    for agreement in (
        lambda affine: scale_axis(affine, 2, 1.0005),
        lambda affine: turn(affine, 0.02),
        lambda affine: shift(affine, 0.001),
    ):
        read_nifti(nifti(change=moved_sform(agreement)), LIMITS)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-4, 3e-4, 1e-3, 0.1, 3.0]))
def test_no_rotation_is_a_conflict_with_its_own_quaternion(seed: int, angle: float) -> None:
    generator = np.random.default_rng(seed)
    axis = generator.normal(size=3)
    axis /= np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    # Turned by nearly half a turn, where quaternions in float32 are at their worst.
    rotation = np.eye(3) + math.sin(math.pi - angle) * cross + (1 - math.cos(math.pi - angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation * generator.uniform(0.3, 5, 3) * generator.choice([-1, 1], 3)
    affine[:3, 3] = generator.uniform(-500, 500, 3)
    volume = read_nifti(nifti(affine=affine), LIMITS)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)


def test_pixdim_and_sform_of_different_spacing_are_a_conflict() -> None:
    change = put(pixdim=[1, 1, 1, 1, 1, 1, 1, 1])
    assert code_of(nifti(codes=(1, 0), change=change)) == Code.AFFINE_CONFLICT
    # Some programs round pixdim.
    read_nifti(
        nifti(affine=oblique((1.004, 1.5, 3)), codes=(1, 0), change=put(pixdim=[1, 1, 1.5, 3] + [1] * 4)), LIMITS
    )


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("pixdim", [0, -1, np.nan, np.inf])
def test_a_senseless_spacing_is_refused(pixdim: float, codes: tuple[int, int]) -> None:
    content = nifti(codes=codes, change=put(pixdim=[1, 1, 1.5, pixdim, 1, 1, 1, 1]))
    assert code_of(content) == Code.NO_GEOMETRY


def test_an_affine_without_inverse_is_refused() -> None:
    def flat(header: Any) -> None:
        header["srow_z"] = header["srow_y"]

    for change in (flat, put(srow_x=[0, 0, 0, 5], srow_y=[0] * 4, srow_z=[0] * 4), put(srow_x=[np.nan] * 4)):
        assert code_of(nifti(codes=(1, 0), change=change)) == Code.AFFINE_SINGULAR
    for field in ("quatern_b", "qoffset_y"):
        assert code_of(nifti(codes=(0, 1), change=put(**{field: np.nan}))) == Code.AFFINE_SINGULAR
    assert code_of(nifti(codes=(0, 1), change=put(quatern_b=0.9, quatern_c=0.9))) == Code.AFFINE_SINGULAR
    assert code_of(nifti(codes=(0, 1), change=put(pixdim=[5, 1, 1.5, 3, 1, 1, 1, 1]))) == Code.AFFINE_SINGULAR


def test_a_handedness_of_zero_is_one() -> None:
    content = nifti(codes=(0, 1), change=put(pixdim=[0, 1, 1.5, 3, 1, 1, 1, 1]))
    np.testing.assert_allclose(read_nifti(content, LIMITS).affine, oblique(), atol=1e-5)


@pytest.mark.parametrize(("degrees", "code"), [(0.3, None), (0.6, Code.SHEARED), (15, Code.SHEARED)])
def test_shear(degrees: float, code: Code | None) -> None:
    affine = oblique()
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    one, other = affine[:3, 0] / lengths[0], affine[:3, 2] / lengths[2]
    affine[:3, 2] = lengths[2] * (math.cos(math.radians(degrees)) * other + math.sin(math.radians(degrees)) * one)
    content = nifti(affine=affine, codes=(1, 0))
    if code is None:
        np.testing.assert_allclose(read_nifti(content, LIMITS).affine, affine, atol=1e-5)
    else:
        assert code_of(content) == code


def test_text_and_extensions_of_a_file_go_nowhere() -> None:
    image = nibabel.Nifti1Image(values(), oblique())
    image.header.set_xyzt_units("mm")
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = b"SMITHCANARY"
    image.header.extensions.append(Nifti1Extension("comment", b"SMITHCANARY" * 100))
    volume = read_nifti(image.to_bytes(), LIMITS)
    np.testing.assert_array_equal(volume.voxels, values())
    assert "SMITH" not in repr({name: getattr(volume, name) for name in Volume.__dataclass_fields__})
    cut = refused(image.to_bytes()[:-1])
    assert "SMITH" not in str(cut)
    assert cut.__cause__ is None


def test_streams_and_files_of_nibabel_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti2Image(values((6, 5, 4), "float32"), oblique())
    stream = io.BytesIO()
    image.to_stream(stream)
    volume = read_nifti(stream.getvalue(), LIMITS)
    assert volume.flags == {Flag.UNITS_UNKNOWN}
    image.to_filename(tmp_path / "image.nii.gz")
    again = read_nifti((tmp_path / "image.nii.gz").read_bytes(), LIMITS)
    np.testing.assert_array_equal(volume.voxels, again.voxels)
    np.testing.assert_array_equal(volume.affine, again.affine)
