"""A DICOM series to a volume: every file read once, judged anew, decoded and put into its place.

What an index said of the files may be old, so nothing of it is taken for granted. Several slices are never one by
their names or numbers: positions along the normal decide, and what does not make one regular grid is refused.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from tasks.codes import Code, PairError
from tasks.read.dicom_facts import SliceFacts, distinct_slices, flags_of, origin_header, unit_of
from tasks.read.dicom_geometry import SliceGrid, check_plane, grid_of
from tasks.read.dicom_header import MULTI_FRAME_STORAGE, InstanceHeader
from tasks.read.dicom_series import group_series
from tasks.read.dicom_slices import DecodedFile, DecodedSlice, FileFacts, decode_file
from tasks.read.dicom_tilt import straighten
from tasks.volume import DicomOrigin, DicomSlice, Flag, Volume, VolumeLimits

_NOT_SLICES: Final = frozenset({Code.LOCALIZER, Code.PROJECTION})
Reader = Callable[[str], bytes]


def read_dicom_volume(
    uris: Sequence[str],
    read: Reader,
    limits: VolumeLimits,
    *,
    fill_gaps: bool = False,
    remove_tilt: bool = False,
    readers: int = 1,
) -> Volume:
    """Read a DICOM series: files of one slice each, or one file of many frames.

    Each file is read once and decoded at once, so that memory holds the float32 volume, a mask if there is padding,
    and the files in flight. The result does not depend on the order or the names of the files.

    Voxels are [slice, row, column]; slices ascend along cross(row, column) (highdicom's ascend along the opposite).
    Stored values go through each slice's own modality transform, MONOCHROME1 is not inverted, PET becomes SUVbw where
    the header allows it. Padding, and places without a slice, are not valid and hold the smallest valid value.

    Args:
        uris: of the series' files. Localizers and projections among them are left out if there are others.
        read: the bytes of a file; may be called from ``readers`` threads at once. What it raises is passed on.
        limits: checked before memory is spent.
        fill_gaps: put an empty slice, not valid, where one is missing between others, instead of refusing.
        remove_tilt: resample slices within their planes so that they stand above each other, instead of refusing.
        readers: threads that read and decode; at most twice as many files are in flight.

    Raises:
        PairError: NOT_DICOM, NON_IMAGE_SOP, LOCALIZER, PROJECTION, DICOMDIR, MOSAIC, BURNED_IN, COLOUR_UNEXPECTED,
            HEADER_INCOMPLETE, NO_GEOMETRY, AMBIGUOUS_SERIES, PATIENT_MISMATCH, FOUR_D, DUPLICATE_CONFLICT,
            MISSING_SLICES, IRREGULAR_SPACING, SHEARED, CODEC_MISSING, PIXELS_UNSUPPORTED, NOT_FINITE, TRUNCATED,
            TOO_LARGE, DECODE_FAILED, OUT_OF_MEMORY, MISSING_SOURCE (no file).
    """
    if not uris:
        raise PairError(Code.MISSING_SOURCE, "a series without files")
    if len(uris) > limits.files:
        raise PairError(Code.TOO_LARGE, f"{len(uris)} files, {limits.files} are allowed")
    try:
        stack = _Stack(len(uris), limits)
        refused: PairError | None = None
        for outcome in _in_flight(uris, lambda uri: _decoded(read(uri), limits), readers):
            if isinstance(outcome, PairError):
                refused = outcome
            else:
                stack.add(outcome)
        if refused is not None and stack.empty:
            raise refused
        return stack.volume(fill_gaps=fill_gaps, remove_tilt=remove_tilt)
    except MemoryError:
        raise PairError(Code.OUT_OF_MEMORY, f"a series of {len(uris)} files") from None


def _in_flight(
    uris: Sequence[str], work: Callable[[str], DecodedFile | PairError], readers: int
) -> Iterator[DecodedFile | PairError]:
    """The files in the order of their uris, read by threads that are never far ahead."""
    if readers <= 1:
        yield from map(work, uris)
        return
    executor = ThreadPoolExecutor(readers, thread_name_prefix="dicom")
    try:
        waiting: deque[Future[DecodedFile | PairError]] = deque()
        for uri in uris:
            waiting.append(executor.submit(work, uri))
            if len(waiting) >= 2 * readers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _decoded(content: bytes, limits: VolumeLimits) -> DecodedFile | PairError:
    """One file; a localizer or projection is returned as its refusal."""
    try:
        return decode_file(content, limits)
    except PairError as error:
        if error.code in _NOT_SLICES:
            return error
        raise


class _Stack:
    """The files of one series as they come in, and the volume they make."""

    def __init__(self, count: int, limits: VolumeLimits) -> None:
        self._count = count
        self._limits = limits
        self._entries: list[tuple[FileFacts, DecodedSlice]] = []
        self._reference: tuple[str, Dataset] | None = None
        self._voxels: NDArray[np.float32] | None = None
        self._valid: NDArray[np.bool_] | None = None

    @property
    def empty(self) -> bool:
        return not self._entries

    def add(self, file: DecodedFile) -> None:
        """Take in a file; its voxels are copied unless it is the only one."""
        header = file.facts.header
        if header.sop_class_uid in MULTI_FRAME_STORAGE and any(
            facts.digest == file.facts.digest for facts, _ in self._entries
        ):
            return
        if self._voxels is None:
            self._begin(file)
        voxels = self._voxels
        place = len(self._entries)
        self._entries.extend((file.facts, one) for one in file.slices)
        if self._reference is None or header.sop_instance_uid < self._reference[0]:
            self._reference = header.sop_instance_uid, file.dataset
        if voxels is None or voxels is file.voxels or voxels.shape[1:] != file.voxels.shape[1:] or place >= len(voxels):
            # Of another shape than the first: the series will be refused, once all headers are known.
            return
        voxels[place] = file.voxels[0]
        if file.valid is not None:
            if self._valid is None:
                self._valid = np.ones(voxels.shape, np.bool_)
            self._valid[place] = file.valid[0]

    def _begin(self, file: DecodedFile) -> None:
        if self._count == 1 or file.facts.header.sop_class_uid in MULTI_FRAME_STORAGE:
            self._voxels, self._valid = file.voxels, file.valid
            return
        shape = (self._count, *file.voxels.shape[1:])
        size = 4 * shape[0] * shape[1] * shape[2]
        if size > self._limits.volume_bytes:
            raise PairError(Code.TOO_LARGE, f"{size} bytes as 32-bit values, {self._limits.volume_bytes} are allowed")
        self._voxels = np.empty(shape, np.float32)

    def volume(self, *, fill_gaps: bool, remove_tilt: bool) -> Volume:
        """Judge the series as a whole and put its slices in order."""
        rows = self._rows()
        indices = distinct_slices(rows)
        kept = [rows[index] for index in indices]
        grid = grid_of([one.plane for one in kept], fill_gaps=fill_gaps, remove_tilt=remove_tilt)
        self._check_size(grid.count)
        header = kept[0].file.header
        unit, factor = unit_of(kept)
        flags = flags_of(kept)
        for flag, holds in (
            (Flag.DUPLICATES_DROPPED, len(kept) < len(rows)),
            (Flag.GAP_FILLED, grid.count > len(kept)),
            (Flag.TILT_REMOVED, grid.shifts is not None),
            (Flag.SUV_UNAVAILABLE, header.modality == "PT" and unit != "SUVbw"),
        ):
            if holds:
                flags.add(flag)
        voxels, valid, affine = self._on_grid(grid, indices)
        if factor != 1.0:
            voxels *= np.float32(factor)
        if valid is not None:
            _level_invalid(voxels, valid)
        digests = sorted({one.file.digest for one in kept})
        return Volume(
            voxels=voxels,
            affine=affine,
            slice_axis=0,
            modality=header.modality,
            unit=unit,
            content_sha256=hashlib.sha256(b"".join(digests)).digest(),
            valid=valid,
            in_scanner_space=True,
            frame_of_reference=header.frame_of_reference,
            transfer_syntaxes=tuple(sorted({one.file.header.transfer_syntax for one in kept})),
            rescale_varies=len({(one.slice.mapping.slope, one.slice.mapping.intercept) for one in kept}) > 1,
            inverted_display=kept[0].file.inverted,
            flags=frozenset(flags),
            dicom=self._origin(grid, kept),
        )

    def _check_size(self, count: int) -> None:
        size = 4 * count * self._array[0].size
        if count > self._limits.slices or size > self._limits.volume_bytes:
            raise PairError(Code.TOO_LARGE, f"{count} slices, {size} bytes as 32-bit values")

    def _on_grid(
        self, grid: SliceGrid, indices: list[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, NDArray[np.float64]]:
        order = [index for _, index in sorted(zip(grid.places, indices, strict=True))]
        voxels, valid = self._arranged(order, sorted(grid.places), grid.count)
        if grid.shifts is None:
            return voxels, valid, grid.affine
        shifts = np.full((grid.count, 2), np.nan)
        shifts[list(grid.places)] = grid.shifts
        mask = np.ones(voxels.shape, np.bool_) if valid is None else valid
        return straighten(voxels, mask, grid.affine, shifts, self._limits.volume_bytes)

    def _origin(self, grid: SliceGrid, kept: list[SliceFacts]) -> DicomOrigin:
        """The sources by place; one that was left free names the slice below it."""
        by_place = dict(zip(grid.places, kept, strict=True))
        headers: list[InstanceHeader] = []
        for place in range(grid.count):
            headers.append(by_place[place].file.header if place in by_place else headers[-1])
        return DicomOrigin(
            header=origin_header(self._reference[1] if self._reference else Dataset()),
            series_instance_uid=headers[0].series_uid,
            slices=tuple(DicomSlice(header.sop_class_uid, header.sop_instance_uid) for header in headers),
        )

    @property
    def _array(self) -> NDArray[np.float32]:
        if self._voxels is None:
            raise PairError(Code.MISSING_SOURCE, "a series without slices")
        return self._voxels

    def _rows(self) -> list[SliceFacts]:
        """The slices, once their headers make one volume.

        Raises:
            PairError: AMBIGUOUS_SERIES, PATIENT_MISMATCH, NO_GEOMETRY.
        """
        headers = {(facts.digest, facts.header.sop_instance_uid): facts.header for facts, _ in self._entries}
        groups = group_series((str(number), header) for number, header in enumerate(headers.values()))
        if len(groups) > 1:
            raise PairError(Code.AMBIGUOUS_SERIES, f"files of {len(groups)} series")
        if groups[0].code is not None:
            raise PairError(groups[0].code, groups[0].detail)
        multi = self._entries[0][0].header.sop_class_uid in MULTI_FRAME_STORAGE
        if multi and len({facts.digest for facts, _ in self._entries}) > 1:
            raise PairError(Code.AMBIGUOUS_SERIES, "several multi-frame files")
        if len({facts.inverted for facts, _ in self._entries}) > 1:
            raise PairError(Code.AMBIGUOUS_SERIES, "PhotometricInterpretation differs")
        rows = []
        for facts, one in self._entries:
            if one.plane is None:
                raise PairError(Code.NO_GEOMETRY, "a slice without position, orientation or spacing")
            check_plane(one.plane)
            rows.append(SliceFacts(facts, one, one.plane))
        return rows

    def _arranged(
        self, order: list[int], places: list[int], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """The voxels with row ``order[k]`` at place ``places[k]`` of ``count``, and their mask."""
        voxels, valid = self._array, self._valid
        if count == len(order):
            dropped = sorted(set(range(len(voxels))) - set(order))
            _permute(voxels, [*order, *dropped])
            if valid is not None:
                _permute(valid, [*order, *dropped])
            return voxels[:count], None if valid is None else valid[:count]
        filled = np.zeros((count, *voxels.shape[1:]), np.float32)
        mask = np.zeros(filled.shape, np.bool_)
        filled[places] = voxels[order]
        mask[places] = True if valid is None else valid[order]
        return filled, mask


def _permute(array: NDArray[np.float32] | NDArray[np.bool_], order: list[int]) -> None:
    """``array[k] = array[order[k]]`` for all k, in place, with memory for one slice."""
    done = [False] * len(order)
    for start in range(len(order)):
        if done[start] or order[start] == start:
            continue
        held = array[start].copy()
        place = start
        while not done[place]:
            done[place] = True
            source = order[place]
            array[place] = held if source == start else array[source]
            place = source


def _level_invalid(voxels: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Give places without measurement the smallest measured value: they pull nothing away when resampled."""
    lowest = min(
        (float(one[inside].min()) for one, inside in zip(voxels, valid, strict=True) if inside.any()), default=0
    )
    for one, inside in zip(voxels, valid, strict=True):
        one[~inside] = lowest
