"""A pair of pictures: read, registered and normalised for the core; measured and encoded behind it."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError, Status
from tasks.fuse import SourcePair
from tasks.job import ImageRegistration, Job
from tasks.measure import GREY_LEVELS_PER_UNIT, grey_of, mean_grey_levels, measure
from tasks.normalise import Normalisation, normalise
from tasks.pair import EncodedPair, FusedPair, OutputFile, PreparedPair, SourceError, common_columns, fused_columns
from tasks.publish.png import encode_png
from tasks.publish.tiff import encode_tiff
from tasks.read.raster import Image, read_raster
from tasks.register.planar import RegisteredImage, register_images
from tasks.rows import ManifestRow, ResultRow, SourceRow
from tasks.settings import RunSettings
from tasks.storage import read_bytes

MOST_BYTES_PER_PIXEL: Final = 16
MOST_OTHER_BYTES: Final = 64 << 20
"""Of a file beside its pixels: profiles, previews, notes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedImages(PreparedPair):
    """Two pictures on one grid."""

    normalisation_first: Normalisation
    normalisation_second: Normalisation
    registered: RegisteredImage


def read_images(row: ManifestRow, sources: SourceRow, job: Job) -> PreparedImages:
    """Read, check, normalise and register two pictures.

    Raises:
        PairError: they cannot be fused.
        StorageError: the store of a source is out of reach, and no pair could be read.
    """
    began = time.perf_counter()
    first_bytes, first = _read("first", sources.first_uris, row.first_size, job)
    second_bytes, second = _read("second", sources.second_uris, row.second_size, job)
    read = time.perf_counter()
    first_values, normalisation_first = normalise(first, _numbers(job.first_range))
    second_values, normalisation_second = normalise(second, _numbers(job.second_range))
    normalised = time.perf_counter()
    method = cast(ImageRegistration, job.registration)
    homography = _homography(row.pair_key, job) if method == "homography" else None
    registered = register_images(first_values, second_values, method, homography=homography)
    pixels = registered.pixels
    if not registered.valid.all():
        # Where the first source shows nothing, the result shall be the second.
        pixels = np.where(registered.valid, pixels, grey_of(second_values))
    return PreparedImages(
        row=row,
        # Keyed by content: where a file lies and what it is called never choose its noise.
        slices=(SourcePair(pixels, second_values, _digest(first_bytes) + _digest(second_bytes)),),
        normalisation_first=normalisation_first,
        normalisation_second=normalisation_second,
        registered=registered,
        seconds_read=read - began,
        seconds_normalise=normalised - read,
        seconds_register=time.perf_counter() - normalised,
    )


def _read(side: str, uris: tuple[str, ...], size: int | None, job: Job) -> tuple[bytes, Image]:
    try:
        # No picture within the limit needs a file so large, and a larger one must not fill the memory first.
        limit = MOST_BYTES_PER_PIXEL * job.max_pixels + MOST_OTHER_BYTES
        if size is not None and size > limit:
            raise PairError(Code.TOO_LARGE, f"{size} bytes; at most {limit} are read")
        content = read_bytes(uris[0])
        return content, read_raster(content, max_pixels=job.max_pixels)
    except PairError as error:
        raise SourceError(side, error) from error


def _numbers(value_range: tuple[float, float] | str | None) -> tuple[float, float] | None:
    if isinstance(value_range, str):
        raise TypeError("windows with names are for volumes")
    return value_range


def _homography(key: str, job: Job) -> NDArray[np.float64]:
    for pattern, numbers in job.homographies.items():
        if fnmatchcase(key, pattern):
            return np.array(numbers, np.float64).reshape(3, 3)
    raise PairError(Code.REGISTRATION_FAILED, "no pattern of homographies matches the key")


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def encode_images(pair: FusedPair, prepared: PreparedImages, settings: RunSettings, device: str) -> EncodedPair:
    """Measure a fused picture, and make its file and its row.

    Raises:
        PairError: the picture is not finite.
    """
    (fused,), (sources,) = pair.slices, prepared.slices
    image = fused.image
    began = time.perf_counter()
    figures = measure(image, sources.first, sources.second, prepared.registered.valid)
    measured = time.perf_counter()
    content = encode_png(image, settings.job.bit_depth)
    main = OutputFile(settings.output_uri(prepared.row.pair_key), content)
    deviation_uri = settings.deviation_uri(prepared.row.pair_key)
    extras: tuple[OutputFile, ...] = ()
    if fused.std is not None:
        extras = (OutputFile(deviation_uri, encode_tiff(fused.std * GREY_LEVELS_PER_UNIT)),)
    registration, matrix = prepared.registered.figures, prepared.registered.matrix
    row = ResultRow(
        **common_columns(prepared.row, settings, device),
        n_slices=1,
        height=image.shape[1],
        width=image.shape[2],
        status=Status.OK,
        output_uri=main.uri,
        output_sha256=_digest(content).hex(),
        extra_uris=tuple(file.uri for file in extras) or None,
        extra_sha256=tuple(_digest(file.content).hex() for file in extras) or None,
        **fused_columns(pair, prepared.normalisation_first, prepared.normalisation_second),
        registration_method=registration.method,
        registration_decision=registration.decision,
        registration_nmi_before=registration.nmi_before,
        registration_nmi_after=registration.nmi_after,
        registration_overlap=registration.overlap,
        registration_translation=registration.moved_px,
        registration_agreement=registration.agreement_px,
        registration_transform=None if matrix is None else json.dumps(matrix.tolist()),
        valid_share=float(prepared.registered.valid.mean()),
        std_mean=None if fused.std is None else mean_grey_levels(fused.std),
        seconds_measure=measured - began,
        seconds_publish=time.perf_counter() - measured,
        metrics=figures,
    )
    return EncodedPair(row, (main, *extras), obsolete=() if extras else (deviation_uri,))
