"""Compressed bytes undone up to a bound: a small file must not become a full memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from tasks.codes import Code, PairError

_RAW: Final = -zlib.MAX_WBITS
_GZIP: Final = zlib.MAX_WBITS | 16
# What is fed lies behind each member once more, and block-compressed files (bgzip) have a member every 64 KiB.
_FED: Final = 64 << 10
_TAKEN: Final = 1 << 20


def is_gzip(content: bytes) -> bool:
    """Whether the bytes begin as a gzip file does (RFC 1952)."""
    return content[:2] == b"\x1f\x8b"


def inflate(content: bytes, most: int, *, raw: bool) -> bytes:
    """What the bytes were before their compression, as :func:`inflated_parts` gives it, in one piece.

    Raises:
        PairError: TOO_LARGE, TRUNCATED or DECODE_FAILED.
    """
    return b"".join(inflated_parts(content, most, raw=raw))


def inflated_parts(content: bytes, most: int, *, raw: bool) -> Iterator[bytes]:
    """What the bytes were before their compression, in parts of at most 1 MiB.

    Checksums of gzip are verified when the last part has been taken. Several gzip members, one after another, are
    one file, and zero bytes may follow the last (RFC 1952 and common practice). What follows a raw stream is ignored,
    as DICOM pads it to an even length.

    Args:
        content: the compressed bytes.
        most: bytes of the result at which it stops.
        raw: deflate without a header (RFC 1951), as DICOM's deflated transfer syntax has it; else gzip.

    Raises:
        PairError: TOO_LARGE (more than ``most``), TRUNCATED (the stream does not end), DECODE_FAILED (damaged).
    """
    left = most
    rest = memoryview(content)
    while True:
        stream = zlib.decompressobj(_RAW if raw else _GZIP)
        fed = 0
        pending: bytes | memoryview = b""
        while not stream.eof:
            if not pending:
                pending = rest[fed : fed + _FED]
                fed += len(pending)
            try:
                part = stream.decompress(pending, min(_TAKEN, left + 1))
            except zlib.error:
                raise PairError(Code.DECODE_FAILED, "the compressed data is damaged") from None
            # With all input taken, zlib may still hold back what did not fit into the last part.
            if not (part or pending or stream.eof):
                raise PairError(Code.TRUNCATED, f"the compressed data does not end within its {len(content)} bytes")
            left -= len(part)
            if left < 0:
                raise PairError(Code.TOO_LARGE, f"more than {most} bytes when uncompressed")
            pending = stream.unconsumed_tail
            if part:
                yield part
        rest = rest[fed - len(stream.unused_data) :]
        if raw or not any(rest[:_FED]):
            return
