"""Small pictures of the pairs that a report shows.

Of pictures whose rows name their files, both sources and the result. Of everything else (strict privacy, volumes) the
result alone: the destination holds it already, while the sources lie behind the private table, and a report must not
carry what only that table leads to. Of a volume it is the slice that its first reason is about.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from tasks.codes import PairError
from tasks.evaluation.pictures import picture_of
from tasks.normalise import normalise
from tasks.outputs import output_folder, output_relative
from tasks.read.raster import Image as RasterImage
from tasks.read.raster import read_raster
from tasks.report.outliers import Outlier, Reason
from tasks.schemas import SLICES_SCHEMA
from tasks.settings import RunSettings
from tasks.slices import slicing_of
from tasks.storage import exists, join, read_bytes
from tasks.tables import read_table

SIDE: Final = 256
"""Pixels of a small picture at most, along its longer side; smaller ones are not enlarged."""
MOST_BYTES: Final = 3_000_000
"""Of all small pictures of a page together; a page holds them a third larger, as text."""

_QUALITIES: Final = (85, 70, 55, 40, 25)
_LEAST_SIDE: Final = 64
_READERS: Final = 4
_WORKING_SIDE: Final = 8 * SIDE
_PICTURES_OF_PAIR: Final = 3


@dataclass(frozen=True)
class SmallPicture:
    """One cell of a pair.

    Attributes:
        label: first, second or fused, and which slice of a volume.
        jpeg: the encoded picture; None where it cannot be shown.
        note: why it cannot be shown, or what is to be known of it; mostly empty.
    """

    label: str
    jpeg: bytes | None
    note: str = ""


@dataclass(frozen=True)
class ShownPair:
    """A pair with its small pictures."""

    outlier: Outlier
    pictures: tuple[SmallPicture, ...]


def show_pairs(
    outliers: Iterable[Outlier], settings: RunSettings, check: Callable[[], None] = lambda: None
) -> list[ShownPair]:
    """Read and reduce the pictures of pairs.

    Args:
        outliers: in the order of the page.
        settings: of the run that made their rows.
        check: called before each pair; what it raises ends the work.

    Raises:
        StorageError: a store is out of reach; a picture that alone cannot be read is a note instead.
    """
    wanted = list(outliers)
    limit = MOST_BYTES // max(1, _PICTURES_OF_PAIR * len(wanted))

    def show(outlier: Outlier) -> ShownPair:
        check()
        return ShownPair(outlier, tuple(_pictures(outlier, settings, limit)))

    # A volume is read whole for one slice.
    with ThreadPoolExecutor(1 if settings.job.of_volumes else _READERS) as pool:
        return list(pool.map(show, wanted))


def _pictures(outlier: Outlier, settings: RunSettings, limit: int) -> Iterator[SmallPicture]:
    row, job = outlier.row, settings.job
    if not job.has_private_table:
        for side, uri in (("first", row.first_uri), ("second", row.second_uri)):
            yield _small(side, partial(_source, uri or "", side, settings), limit)
    folder = output_folder(settings.run.dest, job.method_name)
    uri = join(folder, output_relative(settings.run.dest, job.method_name, row.output_uri))
    if not job.of_volumes:
        yield _small("fused", partial(_fused, uri, outlier, settings), limit)
        return
    index = _slice_index(outlier, settings)
    yield _small(f"fused, slice {index}", partial(_fused_slice, uri, outlier, settings, index), limit)


def _small(label: str, read: Callable[[], tuple[Image.Image, str]], limit: int) -> SmallPicture:
    try:
        picture, note = read()
    except PairError as error:
        return SmallPicture(label, None, f"{error.code}: {error.code.sentence}")
    return SmallPicture(label, jpeg_within(picture, limit), note)


def _source(uri: str, side: str, settings: RunSettings) -> tuple[Image.Image, str]:
    job = settings.job
    value_range = job.first_range if side == "first" else job.second_range
    assert not isinstance(value_range, str)  # noqa: S101 - names are for volumes, which are not shown
    return _reduced_raster(read_bytes(uri), value_range, job.max_pixels), ""


def _fused(uri: str, outlier: Outlier, settings: RunSettings) -> tuple[Image.Image, str]:
    content = read_bytes(uri)
    levels = (0, 255) if settings.job.bit_depth == 8 else (0, 65535)
    return _reduced_raster(content, levels, settings.job.max_pixels), _replaced(content, outlier)


def _replaced(content: bytes, outlier: Outlier) -> str:
    same = hashlib.sha256(content).hexdigest() == outlier.row.output_sha256
    return "" if same else "This is not the picture of this run: it was replaced since."


def _reduced_raster(content: bytes, value_range: tuple[float, float] | None, max_pixels: int) -> Image.Image:
    image = read_raster(content, max_pixels=max_pixels)
    step = max(1, max(image.size) // _WORKING_SIDE)
    if step > 1:
        # A view: only what is left of a large picture becomes floats.
        image = RasterImage(image.pixels[::step, ::step], image.stored_bits, image.file_format)
    return reduced(Image.fromarray(picture_of(normalise(image, value_range)[0])))


def _fused_slice(uri: str, outlier: Outlier, settings: RunSettings, index: int) -> tuple[Image.Image, str]:
    from tasks.read.nifti import read_nifti

    content, row = read_bytes(uri), outlier.row
    volume = read_nifti(content, settings.job.volumes.limits)
    # The file does not say which axis is the slices'; mostly the one of the largest spacing, else the last.
    for axis in dict.fromkeys((volume.slice_axis, 2, 1, 0)):
        slicing = slicing_of(volume.affine, volume.voxels.shape, axis)
        if slicing.sizes == (row.n_slices, row.height, row.width):
            break
    else:
        slicing, index = slicing_of(volume.affine, volume.voxels.shape, volume.slice_axis), 0
    low, high = (
        (row.normalisation_first_lo, row.normalisation_first_hi)
        if row.fixed == "first"
        else (row.normalisation_second_lo, row.normalisation_second_hi)
    )
    values = slicing.split(volume.voxels)[index]
    down, across = slicing.pixel_spacing
    return reduced(Image.fromarray(_levels(values, low, high)), down / across), _replaced(content, outlier)


def _levels(values: NDArray[np.float32], low: float | None, high: float | None) -> NDArray[np.uint8]:
    if low is None or high is None or low == high:
        return np.zeros(values.shape, np.uint8)
    line = 2 * (values - np.float32(low)) / np.float32(high - low) - 1
    return picture_of(np.ascontiguousarray(line[None], np.float32))


def _slice_index(outlier: Outlier, settings: RunSettings) -> int:
    """The fused slice of a volume that is furthest out at the end that its first reason is about."""
    row, reason = outlier.row, outlier.reasons[0]
    uri = settings.run.slices_uri(row.shard_id, row.chunk_id)
    if not exists(uri):
        return row.n_slices // 2
    table = read_table(uri, SLICES_SCHEMA, ["pair_key", "slice_index", "outcome", reason.metric])
    mine = table.filter(
        pc.and_(
            pc.and_(pc.equal(table["pair_key"], row.pair_key), pc.equal(table["outcome"], "fused")),
            pc.fill_null(pc.is_finite(table[reason.metric]), False),
        )
    )
    return int(mine["slice_index"][_outermost(mine[reason.metric].to_numpy(), reason)].as_py()) if len(mine) else 0


def _outermost(values: NDArray[np.float64], reason: Reason) -> int:
    return int(values.argmin() if reason.end == "lowest" else values.argmax())


def reduced(picture: Image.Image, aspect: float = 1.0) -> Image.Image:
    """The picture with its longer side at most ``SIDE``.

    Args:
        picture: grey or RGB.
        aspect: height of its pixels over their width.
    """
    height, width = picture.height * aspect, float(picture.width)
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, math.ceil(width * factor)), max(1, math.ceil(height * factor)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def jpeg_within(picture: Image.Image, limit: int) -> bytes:
    """The picture as JPEG of at most ``limit`` bytes: in the best quality, and then the best size, that allow it."""
    while True:
        for quality in _QUALITIES:
            encoded = io.BytesIO()
            picture.save(encoded, "JPEG", quality=quality, optimize=True)
            if encoded.tell() <= limit:
                return encoded.getvalue()
        if max(picture.size) <= _LEAST_SIDE:
            return encoded.getvalue()
        half = max(1, picture.width // 2), max(1, picture.height // 2)
        picture = picture.resize(half, Image.Resampling.LANCZOS)
