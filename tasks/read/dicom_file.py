"""The outermost layer of a DICOM file: its preamble, its meta group, its named attributes, and where its pixels are.

pydicom parses the attributes. What is done here beside it: the meta group is walked by hand, because the deflated
transfer syntax must be known before pydicom sees the file (it inflates without a bound), and only named attributes
are kept, so that nothing foreign is ever walked, printed or copied.

Importing this module makes pydicom silent for the whole process: its warnings and log lines quote values of
attributes, names and dates among them. Filters of warnings cannot be changed safely while threads run, so this
happens once, here.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset, config
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from tasks.codes import Code, PairError
from tasks.volume import VolumeLimits

config.settings.reading_validation_mode = config.IGNORE
warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)(\..*)?$")
for _name in ("pydicom", "highdicom"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

PIXEL_DATA: Final = 0x7FE00010
_FIRST_PIXEL_TAG: Final = 0x7FE00008
_PREFIX: Final = b"DICM"
_PREAMBLE: Final = 128
_LONG_LENGTHS: Final = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT"})
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_INFLATED_HEADER: Final = 32 << 20
"""Bytes; what a deflated file may hold before its pixels. Real headers stay below 10 MiB, those of thousands of
frames included."""


class HeaderCut(Exception):  # noqa: N818  (no error: a request for more bytes)
    """What is needed may lie beyond the bytes at hand; fetch the whole file and parse it again."""


@dataclass(frozen=True, eq=False, slots=True)
class PixelElement:
    """Where the pixels lie.

    Attributes:
        offset: of the value's first byte in the body.
        length: in bytes; None for encapsulated frames, which carry their own.
        vr: "OB" or "OW", None in the implicit syntax.
    """

    offset: int
    length: int | None
    vr: str | None


@dataclass(frozen=True, eq=False, slots=True)
class ParsedFile:
    """A DICOM file with its named attributes.

    Attributes:
        transfer_syntax: its UID.
        media_storage_class: the SOP class that the meta group names, "" if it does not.
        dataset: the named attributes that the file has, and no others.
        body: the bytes that :class:`PixelElement` counts in: the file's own, or the inflated ones.
        pixels: None if parsing stopped before them.
    """

    transfer_syntax: str
    media_storage_class: str
    dataset: Dataset
    body: bytes
    pixels: PixelElement | None


@dataclass(frozen=True, slots=True)
class _Stop:
    tag: int
    offset: int
    length: int
    vr: str | None


def is_dicom(content: bytes) -> bool:
    """Whether the bytes begin as a DICOM file does (PS3.10 section 7.1): 128 bytes of anything, then "DICM"."""
    return content[_PREAMBLE : _PREAMBLE + len(_PREFIX)] == _PREFIX


def tags_of(keywords: Iterable[str]) -> tuple[int, ...]:
    """The tags of attributes, by keyword."""
    tags = []
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ValueError(f"no DICOM attribute is called {keyword}")
        tags.append(tag)
    return tuple(tags)


def parse_file(
    content: bytes, tags: Iterable[int], limits: VolumeLimits, *, until: int = _FIRST_PIXEL_TAG, whole: bool = True
) -> ParsedFile:
    """Parse the attributes ``tags`` that come before the tag ``until``.

    Args:
        content: the whole file, or its first bytes.
        tags: of the top level. Sequences among them are kept whole and parsed when they are looked at.
        limits: for the size of the file and of what it inflates to.
        until: the first tag that is not of interest; with the default, pixels are found, not read.
        whole: whether ``content`` is the whole file.

    Raises:
        HeaderCut: not whole, and ``until`` was not reached.
        PairError: NOT_DICOM, HEADER_INCOMPLETE, TRUNCATED, TOO_LARGE, DECODE_FAILED.
    """
    if whole and len(content) > limits.object_bytes:
        raise PairError(Code.TOO_LARGE, f"a file of {len(content)} bytes, {limits.object_bytes} are allowed")
    if not is_dicom(content):
        raise PairError(Code.NOT_DICOM)
    transfer_syntax, media_storage_class, start = _parse_meta(content, whole=whole)
    deflated = transfer_syntax == DeflatedExplicitVRLittleEndian
    body, complete = content, whole
    if deflated:
        at_most = min(_INFLATED_HEADER, limits.inflated_bytes)
        body = _inflate(content, start, at_most, whole=whole)
        complete, start = whole and len(body) < at_most, 0
    dataset, stop = _parse_attributes(body, start, transfer_syntax, tuple(tags), until, complete=complete)
    if stop is None and not complete:
        if whole:
            raise PairError(Code.TOO_LARGE, f"a deflated header of more than {len(body)} bytes")
        raise HeaderCut
    pixels = None
    if stop is not None and stop.tag == PIXEL_DATA and until == _FIRST_PIXEL_TAG:
        length = None if stop.length == _UNDEFINED_LENGTH else stop.length
        pixels = PixelElement(stop.offset, length, stop.vr)
    return ParsedFile(transfer_syntax, media_storage_class, dataset, body, pixels)


def inflate_pixels(content: bytes, parsed: ParsedFile, length: int, limits: VolumeLimits) -> ParsedFile:
    """The same file with ``length`` bytes of pixels inflated, if it is deflated and they were not yet.

    Args:
        content: the whole file.
        parsed: of it, with its pixels found.
        length: what the header's rows, columns, frames and bits come to, the file's own word is not taken for it.
        limits: for what may be inflated.

    Raises:
        PairError: TOO_LARGE, TRUNCATED, DECODE_FAILED.
    """
    if parsed.transfer_syntax != DeflatedExplicitVRLittleEndian or parsed.pixels is None:
        return parsed
    end = parsed.pixels.offset + length
    if end > limits.inflated_bytes:
        raise PairError(Code.TOO_LARGE, f"{end} bytes when inflated, {limits.inflated_bytes} are allowed")
    body = parsed.body
    if len(body) < end:
        body = _inflate(content, _parse_meta(content, whole=True)[2], end, whole=True)
    return ParsedFile(parsed.transfer_syntax, parsed.media_storage_class, parsed.dataset, body, parsed.pixels)


def _parse_meta(content: bytes, *, whole: bool) -> tuple[str, str, int]:
    """Transfer syntax, media storage SOP class and the offset behind the meta group (PS3.10 section 7.1)."""
    found: dict[int, bytes] = {}
    offset = _PREAMBLE + len(_PREFIX)
    while True:
        if offset + 8 > len(content):
            if not whole:
                raise HeaderCut
            break
        group, element, vr, length = struct.unpack_from("<HH2sH", content, offset)
        if group != 2:
            break
        offset += 8
        if vr in _LONG_LENGTHS:
            if offset + 4 > len(content):
                raise _cut(whole)
            (length,) = struct.unpack_from("<L", content, offset)
            offset += 4
        if offset + length > len(content):
            raise _cut(whole)
        found[element] = content[offset : offset + length]
        offset += length
    uids = [found.get(element, b"").strip(b" \0").decode("ascii", "replace") for element in (0x0010, 0x0002)]
    if not uids[0]:
        raise PairError(Code.HEADER_INCOMPLETE, "TransferSyntaxUID")
    return uids[0], uids[1], offset


def _cut(whole: bool) -> Exception:
    return PairError(Code.TRUNCATED, "inside the file's meta information") if whole else HeaderCut()


def _inflate(content: bytes, start: int, at_most: int, *, whole: bool) -> bytes:
    """The first ``at_most`` bytes of what is deflated from ``start`` on (PS3.5 section A.5, raw deflate)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(memoryview(content)[start:], at_most)
    except zlib.error:
        raise PairError(Code.DECODE_FAILED, "damaged deflate stream") from None
    if whole and len(body) < at_most and not inflater.eof:
        raise PairError(Code.TRUNCATED, "the deflate stream has no end")
    return body


def _parse_attributes(
    body: bytes, start: int, transfer_syntax: str, tags: tuple[int, ...], until: int, *, complete: bool
) -> tuple[Dataset, _Stop | None]:
    stream = io.BytesIO(body)
    stream.seek(start)
    stop: _Stop | None = None

    def stop_when(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal stop
        if tag < until:
            return False
        stop = _Stop(int(tag), stream.tell(), length, vr)
        return True

    try:
        dataset = read_dataset(
            stream,
            is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax != ExplicitVRBigEndian,
            stop_when=stop_when,
            specific_tags=[BaseTag(tag) for tag in tags],
        )
    except RecursionError:
        raise PairError(Code.DECODE_FAILED, "sequences nested too deeply") from None
    except MemoryError:
        raise PairError(Code.OUT_OF_MEMORY, "while parsing the header") from None
    except Exception as error:  # noqa: BLE001 - whatever damaged bytes make pydicom raise; its message may quote them
        if not complete:
            raise HeaderCut from None
        raise PairError(Code.DECODE_FAILED, f"{type(error).__name__} while parsing the header") from None
    return dataset, stop
