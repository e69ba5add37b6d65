"""The names of places: plain paths and URLs, taken literally."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(uri: str) -> Path | None:
    """The absolute path of a local place, None for places elsewhere."""
    scheme = _URL.match(uri)
    if scheme is None:
        path = Path(uri)
        return (path.expanduser() if path.parts[:1] == ("~",) else path).absolute()
    if scheme[1] in ("file", "local"):
        return Path(uri[scheme.end() :]).absolute()
    return None


def absolute(uri: str) -> str:
    """The place as any process can find it, without trailing "/"."""
    path = local_path(uri)
    return str(path) if path is not None else join(uri)


def join(root: str, *parts: str) -> str:
    """``root`` and ``parts`` with single "/" between them; nothing is quoted and no ".." resolved."""
    scheme = _URL.match(root)
    start = scheme.end() if scheme else 0
    head, rest = root[:start], root[start:]
    tail = "/".join(filter(None, (part.strip("/") for part in parts)))
    folder = rest.rstrip("/")
    if not tail:
        return head + (folder or rest[:1])
    return head + (f"{folder}/{tail}" if rest else tail)


def protocol(uri: str) -> str:
    """``file`` for paths; ``s3`` for its alias ``s3a`` too."""
    scheme = _URL.match(uri)
    return "s3" if scheme and scheme[1] == "s3a" else scheme[1] if scheme else "file"


def store_of(uri: str) -> str:
    """``protocol://bucket`` or ``protocol://host``: what answers or does not answer as one."""
    scheme = _URL.match(uri)
    rest = uri[scheme.end() :] if scheme else ""
    return f"{protocol(uri)}://{rest.partition('/')[0]}"


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The two parts of an S3 URL; the key is as it is written, without trailing "/"."""
    bucket, _, key = join(uri).split("://", 1)[1].partition("/")
    return bucket, key
