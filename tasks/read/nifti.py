"""NIfTI files to volumes: versions 1 and 2, plain or gzip, either byte order.

References: the NIfTI-1 header (nifti1.h, nifti.nimh.nih.gov) and the NIfTI-2 header (nifti2.h). The kind of file is
told from its bytes, never from its name. What the header promises is checked against the limits and for sense before
voxels are read. Free text (descrip, aux_file, db_name, intent_name) and extensions are never looked at, as they can
name a person.

Where the standard leaves a choice or libraries differ:

- With both sform and qform set, they must agree; then the sform counts, as it holds more digits.
- With neither set, the spacing counts and nothing else: the volume is flagged and not in scanner space.
- scl_slope of 0, NaN or infinity means that stored values are real ones.
- The unit of length is millimetres when the header does not say; flagged.
- Values that are not finite are taken for missing: marked invalid, and given the lowest valid value.
- 64-bit integers and floats become 32-bit floats, as everything does.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import nibabel
import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.read.inflate import inflated_parts, is_gzip
from tasks.read.nifti_affine import Grid, grid_of
from tasks.volume import Flag, Volume, VolumeLimits

_PART: Final = 1 << 20
_MOST_TRAILING: Final = 64 << 10
"""Bytes behind the voxels that are taken for padding; more means that the header describes another image."""

_NIFTI_1: Final[Callable[..., Any]] = nibabel.Nifti1Header
_NIFTI_2: Final[Callable[..., Any]] = nibabel.Nifti2Header
_RGB_CODES: Final = (128, 2304)
_STORED_KINDS: Final = frozenset("iuf")


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the voxels of one volume lie in the inflated file, and how they are stored.

    Attributes:
        shape: of the volume, three axes.
        volumes: in the file, one after another.
        offset: bytes before the first volume.
        line: (slope, intercept) from stored to real values; None: they are the same.
    """

    shape: tuple[int, int, int]
    volumes: int
    offset: int
    stored: np.dtype[Any]
    line: tuple[float, float] | None

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def volume_bytes(self) -> int:
        return self.voxels * self.stored.itemsize

    @property
    def end(self) -> int:
        return self.offset + self.volumes * self.volume_bytes


class _Stream:
    """Bytes that come in parts, taken in other parts."""

    def __init__(self, parts: Iterator[bytes | memoryview]) -> None:
        self._parts = parts
        self._part: bytes | memoryview = b""
        self._used = 0
        self.taken = 0

    def parts(self, count: int) -> Iterator[bytes | memoryview]:
        """The next ``count`` bytes.

        Raises:
            PairError: TRUNCATED.
        """
        while count:
            piece = self._part[self._used : self._used + count]
            if not piece:
                following = next(self._parts, None)
                if following is None:
                    raise PairError(Code.TRUNCATED, f"{count} bytes are missing after {self.taken}")
                self._part, self._used = following, 0
                continue
            self._used += len(piece)
            self.taken += len(piece)
            count -= len(piece)
            yield piece

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes in one piece, which the caller knows to be few."""
        return b"".join(self.parts(count))

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        for _ in self.parts(count):
            pass

    def count_rest(self, most: int) -> int:
        """How many bytes follow; it looks no further than ``most`` allows."""
        rest = len(self._part) - self._used
        for part in self._parts:
            rest += len(part)
            if rest > most:
                break
        return rest


def read_nifti(content: bytes, limits: VolumeLimits, *, volume_index: int | None = None) -> Volume:
    """The volume in a NIfTI file, voxels in the order of the file (i, j, k); its modality and unit are "".

    The slice axis is the one of the largest spacing; among those within 1 % of it, the last. An image of one slice
    has that slice's axis.

    Args:
        content: the whole file.
        volume_index: which one to read when the file holds several along its fourth axis, from 0.

    Raises:
        PairError: TOO_LARGE, TRUNCATED, DECODE_FAILED (no NIfTI, a .hdr/.img pair, damaged), FOUR_D,
            COLOUR_UNEXPECTED, PIXELS_UNSUPPORTED (complex and 128-bit values), NO_GEOMETRY, AFFINE_CONFLICT,
            AFFINE_SINGULAR, SHEARED, NOT_FINITE, OUT_OF_MEMORY.
        ValueError: ``volume_index`` is negative.
    """
    if volume_index is not None and volume_index < 0:
        raise ValueError(f"volume_index must be 0 or more, not {volume_index}")
    if len(content) > limits.object_bytes:
        raise PairError(Code.TOO_LARGE, f"{len(content)} bytes, object_bytes is {limits.object_bytes}")
    stream = _Stream(_parts_of(content, limits))
    header = _read_header(stream)
    dimensions = _dimensions(header)
    grid = grid_of(header, dimensions[:3])
    layout = _layout(header, dimensions, limits)
    chosen = _chosen_volume(layout, volume_index)
    if dimensions[grid.slice_axis] > limits.slices:
        raise PairError(Code.TOO_LARGE, f"{dimensions[grid.slice_axis]} slices, slices is {limits.slices}")
    try:
        stream.skip(layout.offset - stream.taken + chosen * layout.volume_bytes)
        voxels, valid = _read_voxels(stream, layout)
    except MemoryError:
        raise PairError(Code.OUT_OF_MEMORY, f"{layout.voxels} voxels") from None
    stream.skip(layout.end - stream.taken)
    if stream.count_rest(_MOST_TRAILING) > _MOST_TRAILING:
        raise PairError(Code.DECODE_FAILED, f"the header describes {layout.end} bytes, many more follow")
    return _volume(content, voxels, valid, grid)


def _volume(content: bytes, voxels: NDArray[np.float32], valid: NDArray[np.bool_] | None, grid: Grid) -> Volume:
    single = {Flag.SINGLE_SLICE} if voxels.shape[grid.slice_axis] == 1 else set()
    return Volume(
        voxels=voxels,
        affine=grid.affine,
        slice_axis=grid.slice_axis,
        modality="",
        unit="",
        content_sha256=hashlib.sha256(content).digest(),
        valid=valid,
        in_scanner_space=Flag.NO_ORIENTATION not in grid.flags,
        flags=grid.flags | single,
    )


def _parts_of(content: bytes, limits: VolumeLimits) -> Iterator[bytes | memoryview]:
    if is_gzip(content):
        return inflated_parts(content, limits.inflated_bytes)
    whole = memoryview(content)
    return (whole[start : start + _PART] for start in range(0, len(content), _PART))


def _read_header(stream: _Stream) -> Any:
    """nibabel's Nifti1Header or Nifti2Header, unchecked and without extensions."""
    start = stream.take(348)
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", start)
        if size == 540 and start[4:12] == b"n+2\0\r\n\x1a\n":
            return _NIFTI_2(start + stream.take(192), order, check=False)
        if size == 348 and start[344:348] == b"n+1\0":
            return _NIFTI_1(start, order, check=False)
        if size in (348, 540):
            raise PairError(Code.DECODE_FAILED, "the header of a .hdr/.img pair; convert the pair to one .nii file")
    raise PairError(Code.DECODE_FAILED, "no NIfTI header; of a .hdr/.img pair convert both to one .nii file")


def _dimensions(header: Any) -> tuple[int, int, int, int]:
    """(i, j, k, volumes); missing ones are 1."""
    dim = [int(size) for size in header["dim"]]
    if not 2 <= dim[0] <= 7:
        raise PairError(Code.DECODE_FAILED, f"{dim[0]} dimensions")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise PairError(Code.DECODE_FAILED, f"a dimension of {min(sizes)}")
    sizes += [1] * (7 - len(sizes))
    if max(sizes[4:]) > 1:
        raise PairError(Code.FOUR_D, "more than four dimensions: " + " x ".join(map(str, sizes)))
    return sizes[0], sizes[1], sizes[2], sizes[3]


def _layout(header: Any, dimensions: tuple[int, int, int, int], limits: VolumeLimits) -> _Layout:
    stored = _stored_type(header)
    shape, volumes = dimensions[:3], dimensions[3]
    if 4 * math.prod(shape) > limits.volume_bytes:
        sides = " x ".join(map(str, shape))
        raise PairError(Code.TOO_LARGE, f"{sides} voxels as float32, volume_bytes is {limits.volume_bytes}")
    smallest = int(header.single_vox_offset)
    offset = float(header["vox_offset"])
    if offset != 0 and not (offset >= smallest and offset.is_integer()):
        raise PairError(Code.DECODE_FAILED, f"voxels begin at byte {offset:g}")
    layout = _Layout(shape, volumes, max(int(offset), smallest), stored, _line(header))
    if layout.end > limits.inflated_bytes:
        raise PairError(Code.TOO_LARGE, f"{layout.end} bytes uncompressed, inflated_bytes is {limits.inflated_bytes}")
    return layout


def _stored_type(header: Any) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code in _RGB_CODES:
        raise PairError(Code.COLOUR_UNEXPECTED, "RGB voxels")
    try:
        stored: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except KeyError:
        raise PairError(Code.PIXELS_UNSUPPORTED, f"data type code {code}") from None
    if stored.kind not in _STORED_KINDS or stored.itemsize > 8:
        advice = "; save the magnitude" if stored.kind == "c" else ""
        raise PairError(Code.PIXELS_UNSUPPORTED, f"data type code {code}{advice}")
    return stored


def _line(header: Any) -> tuple[float, float] | None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return None
    if not math.isfinite(intercept):
        raise PairError(Code.NOT_FINITE, "scl_inter beside a finite scl_slope")
    return None if (slope, intercept) == (1, 0) else (slope, intercept)


def _chosen_volume(layout: _Layout, volume_index: int | None) -> int:
    if volume_index is None:
        if layout.volumes > 1:
            raise PairError(Code.FOUR_D, f"{layout.volumes} volumes")
        return 0
    if volume_index >= layout.volumes:
        raise PairError(Code.FOUR_D, f"volume_index {volume_index}, and {layout.volumes} volumes counted from 0")
    return volume_index


def _read_voxels(stream: _Stream, layout: _Layout) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """The next volume as real values [i, j, k], i varying fastest; and where it is finite, None: everywhere."""
    flat = np.empty(layout.voxels, np.float32)
    finite: NDArray[np.bool_] | None = None
    per_part = _PART // layout.stored.itemsize
    for start in range(0, layout.voxels, per_part):
        count = min(per_part, layout.voxels - start)
        values: NDArray[Any] = np.frombuffer(stream.take(count * layout.stored.itemsize), layout.stored)
        with np.errstate(over="ignore", invalid="ignore"):
            if layout.line is not None:
                values = values.astype(np.float64) * layout.line[0] + layout.line[1]
            flat[start : start + count] = values
        good = np.isfinite(flat[start : start + count])
        if not good.all():
            if finite is None:
                finite = np.ones(layout.voxels, np.bool_)
            finite[start : start + count] = good
    if finite is None:
        return flat.reshape(layout.shape, order="F"), None
    bad = layout.voxels - int(np.count_nonzero(finite))
    if 2 * bad > layout.voxels:
        raise PairError(Code.NOT_FINITE, f"{bad} of {layout.voxels} voxels")
    # A number that background has in every modality: it cannot spread as NaN does where a mask is forgotten.
    flat[~finite] = np.min(flat, where=finite, initial=np.inf)
    return flat.reshape(layout.shape, order="F"), finite.reshape(layout.shape, order="F")
