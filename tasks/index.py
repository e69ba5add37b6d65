"""What an archive holds: a row for every pair, and for everything that cannot be one, with the code that says why.

An index is a Parquet file on local scratch, in the order of its keys; :mod:`tasks.pair_folders` and
:mod:`tasks.pair_table` make it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import pyarrow as pa

from tasks.codes import Code, ConfigurationError
from tasks.schemas import INDEX_SCHEMA, table_of
from tasks.storage import StoredFile, local_path, read_bytes
from tasks.tables import table_batches

Fingerprint = Literal["stat", "content"]
"""By what a changed file is known: size and time or ETag as it is listed, or the SHA-256 of its bytes."""

UNUSABLE_PREFIX: Final = "unusable-"
SIDES: Final = ("first", "second")


class EmptyArchive(ConfigurationError):  # noqa: N818 - what it is, rather than ...Error
    """There is nothing to fuse where the job says."""


@dataclass(frozen=True, slots=True)
class IndexedPair:
    """What an archive holds under one key; the columns of ``INDEX_SCHEMA``.

    Attributes:
        pair_key: the pair's path below its folder without suffix, with "/" between its parts; unique, and safe to
            name a result by. What cannot be a pair has a key too, for files that are no images with their suffix.
        first_uri: None where that side has no file, like its fingerprint and its size in bytes.
        second_uri: likewise.
        first_fingerprint: changes when the file does, see :class:`~tasks.storage.StoredFile`; for an ambiguous
            side it covers all its files, while URI and size are those of the first one.
        code: why this is not a pair to fuse, None for one that is.
        detail: what was found; it may name files.
        modified: the later time of the two sources, in seconds since 1970 (UTC); 0 where it is not known.
    """

    pair_key: str
    first_uri: str | None
    second_uri: str | None
    first_fingerprint: str | None
    second_fingerprint: str | None
    first_size: int | None
    second_size: int | None
    code: Code | None = None
    detail: str = ""
    modified: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Index:
    """The index of an archive.

    Attributes:
        path: a local file of ``INDEX_SCHEMA``, by key.
        rows: how many it has.
    """

    path: Path
    rows: int

    def tables(self) -> Iterator[pa.Table]:
        """All rows, some thousands at a time."""
        return table_batches(self.path, INDEX_SCHEMA)

    def pairs(self) -> Iterator[IndexedPair]:
        """All rows, one by one."""
        for table in self.tables():
            for row in table.to_pylist():
                yield IndexedPair(**row | {"code": row["code"] and Code(row["code"])})


@dataclass(frozen=True, slots=True)
class Source:
    """One side of a row."""

    uri: str | None = None
    fingerprint: str | None = None
    size: int | None = None
    modified: float = 0.0


def make_row(key: str, sources: Sequence[Source], code: Code | None = None, detail: str = "") -> IndexedPair:
    """The row of two sources."""
    first, second = sources
    return IndexedPair(
        key, first.uri, second.uri, first.fingerprint, second.fingerprint, first.size, second.size, code, detail,
        max(first.modified, second.modified),
    )  # fmt: skip


def index_table_of(pairs: Sequence[IndexedPair]) -> pa.Table:
    """Rows as a table of ``INDEX_SCHEMA``."""
    columns: dict[str, list[Any]] = {
        item.name: [getattr(pair, item.name) for pair in pairs] for item in fields(IndexedPair)
    }
    return table_of(columns, INDEX_SCHEMA)


def split_suffix(path: str) -> tuple[str, str]:
    """A path and its suffix as written: ``.nii.gz`` is one, else it is what follows the name's last dot."""
    if path.lower().endswith(".nii.gz"):
        return path[:-7], path[-7:]
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return (path, "") if dot <= 0 else (path[: dot - len(name)], name[dot:])


def is_usable(name: str) -> bool:
    """Whether a result can be named so, and a table keep the name."""
    return is_text(name) and "\0" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))


def is_text(name: str) -> bool:
    """Whether a table can keep the name; names that are not UTF-8 are read with surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def made_usable(name: str) -> str:
    """Printable, without slashes, different for different names."""
    return UNUSABLE_PREFIX + quote(name.encode(errors="surrogateescape"), safe="")


def together(count: int, content: str) -> str:
    """One fingerprint for several files or rows."""
    return f"{count}-together-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def content_fingerprint(file: StoredFile) -> str:
    """The fingerprint of a file by its bytes, read now.

    Raises:
        PairError: the file cannot be read.
    """
    path = local_path(file.uri)
    if path is None:
        content = read_bytes(file.uri)
        return f"{len(content)}-sha256-{hashlib.sha256(content).hexdigest()}"
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return f"{stream.tell()}-sha256-{digest}"
    except OSError:
        # Tried again, and its errors named, as the reading of a pair does.
        content = read_bytes(file.uri)
        return f"{len(content)}-sha256-{hashlib.sha256(content).hexdigest()}"
