"""The pictures and volumes of a destination: where those of the rows lie now, and what bytes they have."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from tasks.codes import Code, PairError
from tasks.storage import exists, join, list_files, local_path, read_bytes, remove

VOLUME_SUFFIX: Final = ".nii.gz"
DICOM_SUFFIX: Final = ".dicom"
PNG_SUFFIX: Final = ".slices"
FOLDER_SUFFIXES: Final = (DICOM_SUFFIX, PNG_SUFFIX)
"""Of the folders that may lie beside a fused volume."""
PICTURE_SUFFIX: Final = ".png"
PICTURE_DEVIATION_SUFFIX: Final = ".std.tiff"
VOLUME_DEVIATION_SUFFIX: Final = ".std.nii"
"""Of the map of deviation beside a picture or a volume. No result ends like this, so none of another pair can have its
name, whatever that pair's key is."""


def output_folder(dest: str, method: str) -> str:
    """The folder of the pictures of a method."""
    return join(dest, "fused", method)


def output_relative(dest: str, method: str, output_uri: str) -> str:
    """The path of a row's picture below :func:`output_folder`, also when the destination was moved since."""
    folder = output_folder(dest, method) + "/"
    if output_uri.startswith(folder):
        return output_uri[len(folder) :]
    return output_uri.partition(f"/fused/{method}/")[2] or output_uri


OUTPUT_COLUMNS: Final = ("pair_key", "n_slices", "output_uri", "output_sha256", "extra_uris", "extra_sha256")
"""Of rows, what :func:`named_outputs` needs."""


@dataclass(frozen=True, slots=True)
class NamedOutput:
    """A file or folder that a row names: its path below :func:`output_folder`, and its hash.

    Attributes:
        files: of a folder, one per slice; None for a file, which a map of deviation is as well.
    """

    pair_key: str
    path: str
    sha256: str
    files: int | None


def named_outputs(rows: pa.Table, dest: str, method: str) -> Iterator[NamedOutput]:
    """Every output of rows with ``OUTPUT_COLUMNS``."""
    for row in rows.select(list(OUTPUT_COLUMNS)).to_pylist():
        if row["output_uri"] is None:
            continue
        yield NamedOutput(
            row["pair_key"], output_relative(dest, method, row["output_uri"]), row["output_sha256"], files=None
        )
        for uri, sha256 in zip(row["extra_uris"] or (), row["extra_sha256"] or (), strict=True):
            files = row["n_slices"] if uri.endswith(FOLDER_SUFFIXES) else None
            yield NamedOutput(row["pair_key"], output_relative(dest, method, uri), sha256, files)


def output_sha256(uri: str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits; of a folder :func:`folder_sha256` of its files.

    Raises:
        PairError: it cannot be read.
        StorageError: a folder cannot be listed.
    """
    path = local_path(uri)
    if path is not None and path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if uri.endswith(FOLDER_SUFFIXES):
        if not exists(uri):
            raise PairError(Code.MISSING_SOURCE, "the folder is gone")
        return folder_sha256((file.relative, output_sha256(file.uri)) for file in list_files(uri))
    return hashlib.sha256(read_bytes(uri)).hexdigest()


def folder_sha256(files: Iterable[tuple[str, str]]) -> str:
    """One hash for the files of a folder, given by their names and hashes in any order."""
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def has_sha256(uri: str, sha256: str) -> bool:
    """Whether a picture or folder is there, can be read and has these bytes."""
    try:
        return output_sha256(uri) == sha256
    except PairError:
        return False


def remove_others(folders: Iterable[str], kept: Set[str]) -> None:
    """Remove all files of these folders but the given ones.

    Raises:
        StorageError: one cannot be removed.
    """
    for folder in folders:
        for file in list_files(folder) if exists(folder) else ():
            if file.uri not in kept:
                remove(file.uri)
        path = local_path(folder)
        if path is not None:
            # One that is not there, or not empty, stays as it is.
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_outputs(uri: str) -> None:
    """Remove a picture or a volume with what lies beside it; no error when there is nothing.

    Raises:
        StorageError: one cannot be removed.
    """
    if uri.endswith(VOLUME_SUFFIX):
        remove_others((uri.removesuffix(VOLUME_SUFFIX) + suffix for suffix in FOLDER_SUFFIXES), frozenset())
        remove(uri.removesuffix(VOLUME_SUFFIX) + VOLUME_DEVIATION_SUFFIX)
    else:
        remove(uri.removesuffix(PICTURE_SUFFIX) + PICTURE_DEVIATION_SUFFIX)
    remove(uri)
