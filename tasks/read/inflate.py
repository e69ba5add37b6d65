"""Gzip undone up to a bound: a small file must not become a full memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from tasks.codes import Code, PairError

_GZIP: Final = zlib.MAX_WBITS | 16
# What is fed lies behind each member once more, and block-compressed files (bgzip) have a member every 64 KiB.
_FED: Final = 64 << 10
_TAKEN: Final = 1 << 20


def is_gzip(content: bytes) -> bool:
    """Whether the bytes begin as a gzip file does (RFC 1952)."""
    return content[:2] == b"\x1f\x8b"


def inflated_parts(content: bytes, most: int) -> Iterator[bytes]:
    """What the bytes were before their compression, in parts of at most 1 MiB.

    Checksums are verified when the last part has been taken. Several members, one after another, are one file, and
    zero bytes may follow the last (RFC 1952 and common practice).

    Args:
        content: of the gzip file.
        most: bytes of the result at which it stops.

    Raises:
        PairError: TOO_LARGE (more than ``most``), TRUNCATED (the stream does not end), DECODE_FAILED (damaged).
    """
    left = most
    rest = memoryview(content)
    while True:
        stream = zlib.decompressobj(_GZIP)
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
        if not any(rest[:_FED]):
            return
