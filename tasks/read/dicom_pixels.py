"""Stored pixels of a DICOM file, and what they mean: codecs, the modality transform, padding."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tasks.codes import Code, PairError
from tasks.read.dicom_codecs import CODECS, FrameFormat, decode_frame
from tasks.read.dicom_file import ParsedFile, PixelElement, inflate_pixels, tags_of
from tasks.read.dicom_header import InstanceHeader
from tasks.read.dicom_values import integer, items, number, text, values
from tasks.volume import VolumeLimits

PIXEL_KEYWORDS: Final = (
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "RealWorldValueMappingSequence",
    "LossyImageCompression",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
PIXEL_TAGS: Final = tags_of(PIXEL_KEYWORDS)

NATIVE_SYNTAXES: Final = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_ITEM: Final = 0xFFFEE000
_DELIMITER: Final = 0xFFFEE0DD
_LOSSY: Final = frozenset(
    {
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.203",
    }
)
_UNITS: Final = {
    "[hnsf'U]": "HU",
    "Bq/ml": "BQML",
    "g/ml{SUVbw}": "SUVbw",
    "{SUVbw}g/ml": "SUVbw",
}
"""Codes of UCUM (PS3.16 CID 83 to 85) that mean something here."""


@dataclass(frozen=True, eq=False)
class ValueMap:
    """From stored to real-world values: stored * slope + intercept.

    Attributes:
        unit: "HU", "BQML", "SUVbw"; "" where the map does not say.
        table: a Dataset with a ModalityLUTSequence, used instead of slope and intercept; None mostly.
    """

    slope: float
    intercept: float
    unit: str
    table: Dataset | None = None


def is_lossy(dataset: Dataset, transfer_syntax: str) -> bool:
    """Whether pixels were compressed with loss at any time (PS3.3 section C.7.6.1.1.5)."""
    return text(dataset, "LossyImageCompression") == "01" or transfer_syntax in _LOSSY


def check_codec(transfer_syntax: str) -> None:
    """Whether the pixels can be decoded here, before anything is.

    Raises:
        PairError: CODEC_MISSING, with the codec's name and the package that has it.
    """
    known = UID(transfer_syntax)
    if known in NATIVE_SYNTAXES or known == RLELossless:
        return
    name = known.name if known.name != transfer_syntax else "a transfer syntax that the standard does not name"
    if known not in CODECS:
        raise PairError(Code.CODEC_MISSING, f"{name}: there is no package for it, convert the series")
    if not CODECS[known].available:
        raise PairError(Code.CODEC_MISSING, f"{name}: pip install --force-reinstall imagecodecs")


def stored_frames(
    content: bytes, parsed: ParsedFile, header: InstanceHeader, limits: VolumeLimits
) -> Iterator[NDArray[Any]]:
    """Decode a file's frames one after the other, in the order of the file.

    Args:
        content: the whole file.
        parsed: of it, with the attributes of PIXEL_KEYWORDS and HEADER_KEYWORDS.
        header: of it.
        limits: for what deflated pixels may come to.

    Yields:
        [rows, columns] integers as stored, in native byte order; ``header.number_of_frames`` of them.

    Raises:
        PairError: while iterating: HEADER_INCOMPLETE, PIXELS_UNSUPPORTED, CODEC_MISSING, TRUNCATED, TOO_LARGE,
            DECODE_FAILED, OUT_OF_MEMORY.
    """
    frame_format = _frame_format(parsed, header)
    check_codec(parsed.transfer_syntax)
    pixels = parsed.pixels
    if pixels is None:
        raise PairError(Code.HEADER_INCOMPLETE, "no PixelData")
    native = parsed.transfer_syntax in NATIVE_SYNTAXES
    if native:
        size = header.rows * header.columns * frame_format.bits_allocated // 8
        _check_native_length(pixels, size, header.number_of_frames)
        parsed = inflate_pixels(content, parsed, size * header.number_of_frames, limits)
        if len(parsed.body) < pixels.offset + size * header.number_of_frames:
            raise PairError(Code.TRUNCATED, "inside the pixels")
    else:
        _check_fragments(parsed.body, pixels)
    for index in range(header.number_of_frames):
        stream = io.BytesIO(parsed.body)
        stream.seek(pixels.offset)
        if native or parsed.transfer_syntax == RLELossless:
            frame = _by_pydicom(stream, index, parsed, header, frame_format)
        else:
            frame = decode_frame(_codestream(stream, index, parsed, header), parsed.transfer_syntax, frame_format)
        if frame.shape != (header.rows, header.columns):
            raise PairError(Code.DECODE_FAILED, f"header says {header.rows} x {header.columns}, data is {frame.shape}")
        yield frame.astype(frame_format.dtype, copy=False)


def _frame_format(parsed: ParsedFile, header: InstanceHeader) -> FrameFormat:
    dataset = parsed.dataset
    allocated, stored = integer(dataset, "BitsAllocated"), integer(dataset, "BitsStored")
    sign = integer(dataset, "PixelRepresentation")
    if allocated is None or stored is None or sign is None:
        raise PairError(Code.HEADER_INCOMPLETE, "BitsAllocated, BitsStored or PixelRepresentation")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or sign not in (0, 1):
        raise PairError(Code.PIXELS_UNSUPPORTED, f"{stored} bits stored in {allocated}")
    high = integer(dataset, "HighBit")
    if high is not None and high != stored - 1:
        raise PairError(Code.PIXELS_UNSUPPORTED, f"HighBit {high} where {stored} bits are stored")
    return FrameFormat(header.rows, header.columns, allocated, stored, bool(sign))


def _check_native_length(pixels: PixelElement, frame: int, frames: int) -> None:
    if pixels.length is None:
        raise PairError(Code.DECODE_FAILED, "encapsulated pixels under a native transfer syntax")
    if pixels.length < frame * frames:
        raise PairError(Code.TRUNCATED, f"{pixels.length} bytes of pixels where {frame * frames} are needed")
    if pixels.length >= frame * (frames + 1):
        raise PairError(Code.DECODE_FAILED, f"pixels for {pixels.length // frame} frames, the header says {frames}")


def _check_fragments(body: bytes, pixels: PixelElement) -> None:
    """Every fragment of encapsulated pixels must be there, up to the delimiter (PS3.5 section A.4).

    Decoders paint what is missing, and pydicom takes the end of the file for the delimiter.
    """
    if pixels.length is not None:
        raise PairError(Code.DECODE_FAILED, "native pixels under an encapsulated transfer syntax")
    offset = pixels.offset
    while offset + 8 <= len(body):
        group, element, length = struct.unpack_from("<HHL", body, offset)
        if group << 16 | element == _DELIMITER:
            return
        if group << 16 | element != _ITEM:
            raise PairError(Code.DECODE_FAILED, "between the fragments of the pixels")
        offset += 8 + length
    raise PairError(Code.TRUNCATED, "inside the compressed pixels")


def _by_pydicom(
    stream: io.BytesIO, index: int, parsed: ParsedFile, header: InstanceHeader, frame_format: FrameFormat
) -> NDArray[Any]:
    """A native or RLE frame out of a stream that stands at the first byte of the pixels."""
    options: dict[str, Any] = {
        "rows": frame_format.rows,
        "columns": frame_format.columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_representation": int(frame_format.signed),
        "bits_allocated": frame_format.bits_allocated,
        "bits_stored": frame_format.bits_stored,
        "number_of_frames": header.number_of_frames,
        "pixel_keyword": "PixelData",
    }
    if parsed.pixels is not None and parsed.pixels.vr is not None:
        options["pixel_vr"] = parsed.pixels.vr
    offsets = _extended_offsets(parsed)
    if offsets is not None:
        options["extended_offsets"] = offsets
    if parsed.transfer_syntax == RLELossless:
        options["decoding_plugin"] = "pydicom"
    try:
        frame: NDArray[Any] = get_decoder(parsed.transfer_syntax).as_array(stream, index=index, raw=True, **options)[0]
    except MemoryError:
        raise PairError(Code.OUT_OF_MEMORY, "while decoding") from None
    except Exception as error:  # noqa: BLE001 - damaged bytes raise anything, even StopIteration, and it may quote them
        raise PairError(Code.DECODE_FAILED, f"{type(error).__name__} from the codec") from None
    return frame


def _codestream(stream: io.BytesIO, index: int, parsed: ParsedFile, header: InstanceHeader) -> bytes:
    """The fragments of one encapsulated frame, put together (PS3.5 section A.4)."""
    try:
        return get_frame(
            stream, index, number_of_frames=header.number_of_frames, extended_offsets=_extended_offsets(parsed)
        )
    except Exception as error:  # noqa: BLE001 - as above
        raise PairError(Code.DECODE_FAILED, f"{type(error).__name__} between the fragments of the pixels") from None


def _extended_offsets(parsed: ParsedFile) -> tuple[bytes, bytes] | None:
    offsets = [values(parsed.dataset, keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    return (offsets[0][0], offsets[1][0]) if all(offsets) else None


def value_map(transform: Dataset, real_world: Dataset, modality: str) -> ValueMap:
    """How stored values become real-world values: by a real-world value map if there is just one, else by rescaling.

    Args:
        transform: what holds RescaleSlope, RescaleIntercept, RescaleType or a ModalityLUTSequence: the file, or an item
            of the PixelValueTransformationSequence.
        real_world: what may hold a RealWorldValueMappingSequence (PS3.3 section C.7.6.16.2.11): the file or a frame.
        modality: CT, MR, PT or NM.

    Raises:
        PairError: HEADER_INCOMPLETE: one of slope and intercept alone, or neither where the modality demands them.
    """
    mapped = _real_world_map(real_world)
    if mapped is not None:
        return mapped
    if items(transform, "ModalityLUTSequence"):
        return ValueMap(1.0, 0.0, "", transform)
    slope, intercept = number(transform, "RescaleSlope"), number(transform, "RescaleIntercept")
    if (slope is None) != (intercept is None) or slope == 0:
        raise PairError(Code.HEADER_INCOMPLETE, "RescaleSlope and RescaleIntercept belong together, the slope not 0")
    if slope is None or intercept is None:
        if modality in ("CT", "PT"):
            raise PairError(Code.HEADER_INCOMPLETE, f"RescaleSlope and RescaleIntercept, which {modality} must have")
        return ValueMap(1.0, 0.0, "")
    unit = "HU" if modality == "CT" and text(transform, "RescaleType").upper() in ("", "HU") else ""
    return ValueMap(slope, intercept, unit)


def _real_world_map(holder: Dataset) -> ValueMap | None:
    """The one linear map; None where there is none, or several, of which none could be chosen."""
    maps = items(holder, "RealWorldValueMappingSequence")
    if len(maps) != 1:
        return None
    slope, intercept = number(maps[0], "RealWorldValueSlope"), number(maps[0], "RealWorldValueIntercept")
    if not slope or intercept is None:
        return None
    units = [text(code, "CodeValue") for code in items(maps[0], "MeasurementUnitsCodeSequence")]
    return ValueMap(slope, intercept, _UNITS.get(units[0], "") if units else "")


def real_values(stored: NDArray[Any], mapping: ValueMap) -> NDArray[np.float32]:
    """Apply a map to stored pixels, in double precision.

    Returns:
        float32 of the same shape, finite.

    Raises:
        PairError: NOT_FINITE, DECODE_FAILED (a damaged table).
    """
    if mapping.table is not None:
        converted = _by_table(stored, mapping.table)
    else:
        converted = stored * np.float64(mapping.slope) + mapping.intercept
    with np.errstate(over="ignore"):
        result: NDArray[np.float32] = converted.astype(np.float32)
    # The extremes are where a linear map is largest.
    if not (math.isfinite(float(result.min())) and math.isfinite(float(result.max()))):
        raise PairError(Code.NOT_FINITE, "after the modality transform")
    return result


def _by_table(stored: NDArray[Any], holder: Dataset) -> NDArray[np.float64]:
    try:
        looked_up: NDArray[np.float64] = np.asarray(apply_modality_lut(stored, holder), dtype=np.float64)
    except Exception as error:  # noqa: BLE001 - pydicom checks the table in part only; what it raises may quote it
        raise PairError(Code.DECODE_FAILED, f"{type(error).__name__} from the modality table") from None
    return looked_up


def padding_mask(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Where stored pixels are padding, no measurement (PS3.3 section C.7.5.1.1.2); None if nowhere.

    The value is often written unsigned for signed pixels, so it is taken modulo the allocated bits.

    Raises:
        PairError: HEADER_INCOMPLETE.
    """
    value = integer(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = integer(dataset, "PixelPaddingRangeLimit")
    low, high = sorted(_as_stored(bound, stored.dtype) for bound in (value, value if limit is None else limit))
    mask: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    information = np.iinfo(dtype)
    bits = information.bits
    wrapped = value % (1 << bits)
    return wrapped - (1 << bits) if information.min < 0 and wrapped >> (bits - 1) else wrapped
